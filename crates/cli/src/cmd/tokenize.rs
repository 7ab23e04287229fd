//! `kinfer tokenize`.

use crate::ctx::Ctx;

/// Shows how models cut a text into tokens
#[derive(clap::Args)]
pub struct TokenizeArgs {}

/// Runs it.
pub fn run(args: TokenizeArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let TokenizeArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
