//! `kinfer list`: the models in the caches, and those that can be had.

use crate::ctx::Ctx;
use crate::table::Table;
use crate::{model, term};
use clap::builder::FalseyValueParser;
use kinfer::hub::{CachedModel, Hub, human_size};
use serde_json::json;
use std::path::Path;

/// List the models that are on this machine
#[derive(clap::Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Lists the cache shared with the Hugging Face tools (HF_HUB_CACHE) and kinfer's own (KINFER_CACHE).

Examples:
  kinfer list
  kinfer list --all        also the short names of models that can be fetched
  kinfer list --json | jq -r '.models[] | select(.size > 1e9) | .name'"
)]
pub struct ListArgs {
    /// Also list the short names that kinfer knows
    #[arg(short, long, env = "KINFER_ALL", value_parser = FalseyValueParser::new())]
    all: bool,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

/// Runs it.
pub fn run(args: ListArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let hub = model::hub(ctx)?;
    let models = hub.list();
    let total: u64 = models.iter().map(|m| m.size).sum();
    if args.json {
        let rows = models.iter().map(|m| {
            json!({ "name": m.name, "size": m.size, "quant": m.quant, "origin": origin(m),
                "revision": m.revision, "complete": m.complete, "files": m.files })
        });
        let mut out = json!({ "models": rows.collect::<Vec<_>>(), "total": total });
        if args.all {
            let known = hub.catalog().models.iter();
            out["catalog"] =
                known.map(|m| json!({ "name": m.name, "also": m.also, "about": m.about })).collect();
        }
        return Ok(term::out_line(&serde_json::to_string_pretty(&out)?)?);
    }
    if models.is_empty() {
        let default = &hub.catalog().default;
        ctx.note(&format!("no model is on this machine yet; `kinfer pull {default}` fetches one"));
    } else {
        let mut table = Table::new(["name", ">size", "quant", "origin", "path"]);
        for m in &models {
            let path = m.files.first().map_or_else(String::new, |p| shown(p));
            let path = match m.files.len() {
                0 | 1 => path,
                n => format!("{path} (and {} more)", n - 1),
            };
            let name = if m.complete { m.name.clone() } else { format!("{} (incomplete)", m.name) };
            table.row([name, human_size(m.size), m.quant.clone().unwrap_or_default(), origin(m), path]);
        }
        let s = if models.len() == 1 { "" } else { "s" };
        term::out(&format!("{table}\n{} model{s}, {}\n", models.len(), human_size(total)))?;
    }
    if args.all {
        term::out(&format!("\n{}\n{}", ctx.out.bold("short names"), catalog(&hub)))?;
    }
    Ok(())
}

/// The short names and what they stand for.
fn catalog(hub: &Hub) -> Table {
    let mut table = Table::new(["", ""]);
    for m in &hub.catalog().models {
        table.row([m.names().collect::<Vec<_>>().join(", "), m.about.clone()]);
    }
    table
}

/// Where a cached model came from: the hub's commit, or another source of the catalogue.
fn origin(model: &CachedModel) -> String {
    match &model.revision {
        Some(commit) => format!("hub@{}", commit.get(..8).unwrap_or(commit)),
        None => "pip".into(),
    }
}

/// A path with `~` for the home folder.
pub fn shown(path: &Path) -> String {
    match std::env::home_dir().and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}
