//! `kinfer completions`.

use crate::ctx::Ctx;

/// Prints completions for a shell
#[derive(clap::Args)]
pub struct CompletionsArgs {}

/// Runs it.
pub fn run(args: CompletionsArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let CompletionsArgs {} = args;
    ctx.note("not here yet");
    Ok(())
}
