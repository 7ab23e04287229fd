//! `kinfer rm`.

use crate::ctx::Ctx;

/// Removes models from this machine
#[derive(clap::Args)]
pub struct RmArgs {}

/// Runs it.
pub fn run(args: RmArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let RmArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
