//! `kinfer pull`.

use crate::ctx::Ctx;

/// Fetches models
#[derive(clap::Args)]
pub struct PullArgs {}

/// Runs it.
pub fn run(args: PullArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let PullArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
