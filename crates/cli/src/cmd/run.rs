//! `kinfer run`.

use crate::ctx::Ctx;
use crate::model::{EngineArgs, LoadArgs, MODEL_HELP};

/// Answers a prompt, or chats
#[derive(clap::Args)]
#[command(after_help = MODEL_HELP)]
pub struct RunArgs {
    /// The model [default: smollm2]
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs it.
pub fn run(args: RunArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let model = args.load.load(ctx, args.first.as_deref())?;
    args.engine.engine(model)?;
    Ok(())
}
