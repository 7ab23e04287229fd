//! `kinfer show`.

use crate::ctx::Ctx;

/// Shows what is in a model file
#[derive(clap::Args)]
pub struct ShowArgs {}

/// Runs it.
pub fn run(args: ShowArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let ShowArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
