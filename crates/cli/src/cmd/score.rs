//! `kinfer score`.

use crate::ctx::Ctx;

/// Scores a text: log-probabilities and perplexity
#[derive(clap::Args)]
pub struct ScoreArgs {}

/// Runs it.
pub fn run(args: ScoreArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let ScoreArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
