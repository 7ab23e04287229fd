//! `kinfer imatrix`: what each column of a model's matrices counts, for `kinfer quantize --imatrix`.

use super::score::windows;
use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::input::read;
use crate::model::{self, LoadArgs};
use crate::nfc::NfcArgs;
use crate::{progress, term};
use clap::builder::FalseyValueParser;
use kinfer::EngineBuilder;
use kinfer::gguf::Gguf;
use kinfer::quantize::{Collected, Collector};
use kinfer::tokenizer::Encode;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measure an importance matrix: which columns of the weights matter on a text
///
/// Runs the model over a text and sums the squares of what each matrix is multiplied with. `kinfer quantize --imatrix` then
/// keeps those weights more exact that count more; of formats below 4 bits, that saves most of what they lose. The text
/// should be of the kind that the model will work on, and have some 100 chunks or more. It is cut into chunks of --ctx-size tokens,
/// which do not overlap; a rest is left out. Where the model wants a BOS token, it takes the place of each chunk's first
/// token.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct ImatrixArgs {
    /// The model, see below; best before it is quantised
    #[arg(value_name = "MODEL")]
    model: String,
    /// The text; `-` is standard input
    #[arg(short, long, env = "KINFER_FILE", value_name = "FILE")]
    file: PathBuf,
    /// The file to write, GGUF as llama-imatrix writes
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long, env = "KINFER_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,
    /// Tokens per chunk
    #[arg(short, long, env = "KINFER_CTX_SIZE", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    ctx_size: u32,
    /// Chunks to compute, from the first [default: all]
    #[arg(long, value_name = "N", value_parser = model::size)]
    chunks: Option<usize>,
    /// Measure the output head, too: its logits are then computed for every token
    #[arg(long, env = "KINFER_PROCESS_OUTPUT", value_parser = FalseyValueParser::new())]
    process_output: bool,
    #[command(flatten)]
    nfc: NfcArgs,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

fn help() -> String {
    format!(
        "\
{}

Examples:
  kinfer imatrix ./SmolLM2-135M -f text.txt
  kinfer imatrix ./model-f16.gguf -f text.txt -o model.imatrix.gguf --chunks 200
  kinfer quantize ./model-f16.gguf q2_k --imatrix model.imatrix.gguf

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs it.
pub fn run(args: ImatrixArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let (size, path) = (args.ctx_size as usize, &args.output);
    if path.exists() && !args.force {
        return Err(CliError::usage(format!(
            "{} is there already; name another with -o, or say --force",
            path.display()
        )));
    }
    // What cannot be written must not be computed first.
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
        return Err(CliError::usage(format!(
            "-o {}: there is no folder {}",
            path.display(),
            folder.display()
        )));
    }
    let text = args.nfc.apply(read(&args.file)?);
    let load = |path: &Path, options| Collector::load(Gguf::open(path)?, options, size, args.process_output);
    let mut collector =
        args.load.load_as(ctx, Some(&args.model), EngineBuilder::default(), load, Collector::model)?;
    let there = path.canonicalize().ok();
    if there.is_some()
        && [collector.model().path(), &args.file].iter().any(|p| p.canonicalize().ok() == there)
    {
        let path = path.display();
        return Err(CliError::usage(format!("{path} is the model or the text itself; name another with -o")));
    }
    let tokenizer = collector.model().tokenizer();
    args.nfc.tell(ctx, tokenizer, &text)?;
    // As data: what looks like a control token in the text is text.
    let options = Encode { special: false, bos: None, eos: Some(false) };
    let ids = tokenizer.encode(&text, options).map_err(kinfer::Error::from)?;
    if ids.len() < size {
        let n = ids.len();
        return Err(CliError::usage(format!(
            "{n} tokens fill no chunk of {size}; give a longer text or a smaller -c"
        )));
    }
    let mut chunks = windows(&ids, size, tokenizer.bos().filter(|_| tokenizer.add_bos()));
    chunks.truncate(args.chunks.unwrap_or(usize::MAX));
    let left_out = ids.len() - chunks.len() * size;

    let start = Instant::now();
    let bar = progress::steps(ctx, "computing", chunks.len() as u64);
    for chunk in &chunks {
        collector.add(&chunk.ids)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Collected { tensors, unused, written } = collector.write(path, &[&args.file.to_string_lossy()])?;
    let seconds = start.elapsed().as_secs_f64();
    if unused > 0 {
        ctx.warn(&format!(
            "no token went to {unused} of the experts' matrices, whose columns will count alike; a longer text may reach them"
        ));
    }
    if args.json {
        let out = json!({ "file": path, "size": written, "tensors": tensors, "unused_experts": unused,
            "tokens": ids.len(), "chunks": chunks.len(), "chunk_size": size, "left_out": left_out, "seconds": seconds });
        return Ok(term::out_line(&out.to_string())?);
    }
    Ok(term::out_line(&format!(
        "{}: {tensors} tensors, by {} of {} tokens in {} chunks of {size}, {left_out} left out, in {seconds:.1} s",
        path.display(),
        chunks.len() * size,
        ids.len(),
        chunks.len()
    ))?)
}
