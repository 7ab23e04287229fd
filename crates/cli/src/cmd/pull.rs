//! `kinfer pull`: fetches models into the cache.

use crate::ctx::Ctx;
use crate::progress::Downloads;
use crate::{model, progress, term};
use clap::builder::FalseyValueParser;
use kinfer::hub::{Event, Hub, HubError, ModelRef, human_size};

/// Fetch models, and print the paths of their files
#[derive(clap::Args)]
#[command(after_help = "\
Asks the hub whether there is a newer version. What is on this machine already is not fetched again, and an
interrupted download goes on where it stopped. Every file is checked by its SHA-256.

Examples:
  kinfer pull smollm2
  kinfer pull ggml-org/gemma-3-1b-it-GGUF:Q8_0
  kinfer pull --verify gemma3:270m        read the files again and check them
  kinfer show \"$(kinfer pull -q smollm2)\"")]
pub struct PullArgs {
    /// Models: short names, or `user/repo[:QUANT][@revision]` on the hub
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<String>,
    /// Also read the files that were there already, and check their SHA-256
    #[arg(long, env = "KINFER_VERIFY", value_parser = FalseyValueParser::new())]
    verify: bool,
}

/// Runs it.
pub fn run(args: PullArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let hub = model::hub(ctx)?;
    // All names are read before anything is fetched.
    let models = args.models.iter().map(|m| ModelRef::parse(m)).collect::<Result<Vec<_>, _>>();
    for model in models.map_err(HubError::from)? {
        let found = {
            let (cancel, _working) = ctx.interrupt.download();
            hub.pull(&model, &mut Downloads::new(ctx), &cancel)?
        };
        let size: u64 = found.files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
        ctx.note(&format!("{model}: {} from {}", human_size(size), found.origin));
        if args.verify {
            verify(&hub, &model, ctx)?;
        }
        for file in &found.files {
            term::out_line(&file.display().to_string())?;
        }
    }
    Ok(())
}

/// Reads a model's files again and tells their hashes.
fn verify(hub: &Hub, model: &ModelRef, ctx: &Ctx) -> anyhow::Result<()> {
    let bar = progress::bytes(ctx, "checking", 0);
    let (cancel, _working) = ctx.interrupt.download();
    let mut progress = |event: Event<'_>| {
        if let Event::Start { done, total, .. } | Event::Advance { done, total, .. } = event {
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let files = hub.verify(model, &mut progress, &cancel);
    bar.finish_and_clear();
    for file in files? {
        let known = if file.known { "as it should be" } else { "nothing is known to compare it with" };
        ctx.note(&format!("{}: sha256 {}, {known}", file.path.display(), file.sha256));
    }
    Ok(())
}
