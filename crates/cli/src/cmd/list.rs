//! `kinfer list`.

use crate::ctx::Ctx;

/// Lists the models on this machine
#[derive(clap::Args)]
pub struct ListArgs {}

/// Runs it.
pub fn run(args: ListArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let ListArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
