//! `kinfer rm`: deletes models from the caches.

use crate::ctx::Ctx;
use crate::{model, term};
use anyhow::Context;
use clap::builder::FalseyValueParser;
use kinfer::hub::{HubError, ModelRef, human_size};
use std::io::{BufRead, IsTerminal};

/// Delete models from the caches
#[derive(clap::Args)]
#[command(after_help = "\
A repository without quantization means all its GGUF files. On a terminal it asks first. Files given by path are
never deleted: kinfer did not put them there.

Examples:
  kinfer rm gemma3:270m
  kinfer rm -y user/repo-GGUF:Q8_0")]
pub struct RmArgs {
    /// Models as `kinfer list` names them
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<String>,
    /// Do not ask
    #[arg(short, long, env = "KINFER_YES", value_parser = FalseyValueParser::new())]
    yes: bool,
}

/// Runs it.
pub fn run(args: RmArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let hub = model::hub(ctx)?;
    // All names are read before anything is deleted.
    let models = args.models.iter().map(|m| ModelRef::parse(m)).collect::<Result<Vec<_>, _>>();
    let models = models.map_err(HubError::from)?;
    let ask = !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    for model in &models {
        if ask && !confirmed(&format!("delete {model} from the cache? [y/N] "))? {
            ctx.note(&format!("{model} stays"));
            continue;
        }
        let freed = hub.remove(model)?;
        ctx.note(&format!("{model}: {} freed", human_size(freed)));
    }
    Ok(())
}

fn confirmed(question: &str) -> anyhow::Result<bool> {
    term::error(question);
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("the answer cannot be read")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
