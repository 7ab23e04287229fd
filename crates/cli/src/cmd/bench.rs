//! `kinfer bench`.

use crate::ctx::Ctx;

/// Measures speed
#[derive(clap::Args)]
pub struct BenchArgs {}

/// Runs it.
pub fn run(args: BenchArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let BenchArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
