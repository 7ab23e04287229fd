//! `kinfer doctor`.

use crate::ctx::Ctx;

/// Checks this machine
#[derive(clap::Args)]
pub struct DoctorArgs {}

/// Runs it.
pub fn run(args: DoctorArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let DoctorArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
