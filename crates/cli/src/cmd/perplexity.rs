//! `kinfer perplexity`: how well a model foresees a text, and how far it is from another one.

use super::score::{Sum, Window, windows};
use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::input::read;
use crate::model::{self, CacheArgs, LoadArgs};
use crate::nfc::NfcArgs;
use crate::{progress, term};
use anyhow::Context;
use clap::builder::FalseyValueParser;
use kinfer::step::{BLOCK_LEN, Batch, Role, Runner, RunnerLimits};
use kinfer::tokenizer::Encode;
use kinfer::{EngineBuilder, KvTypes, Model};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Measure a model's perplexity of a text, and its distance from another model
///
/// The text is cut into windows of --ctx-size tokens that do not overlap, a rest is left out, and the second half of each
/// window counts: the tokens at N/2+1 to N-1, as llama-perplexity does. Where the model wants a BOS token, it takes the place
/// of each window's first token. To see what quantising costs, save the distributions of the model as it was, and
/// compare: they are the mean divergence KL(before || after) and the share of tokens with the same favourite.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct PerplexityArgs {
    /// The model, see below
    #[arg(value_name = "MODEL")]
    model: String,
    /// The text; `-` is standard input
    #[arg(value_name = "FILE")]
    text: PathBuf,
    /// Tokens per window
    #[arg(short, long, env = "KINFER_CTX_SIZE", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx_size: u32,
    /// Windows to compute, from the first [default: all]
    #[arg(long, value_name = "N", value_parser = model::size)]
    windows: Option<usize>,
    /// Write the distributions of all tokens that count: 2 bytes for each token of the vocabulary
    #[arg(long, value_name = "FILE", conflicts_with = "kl_base")]
    save_kl_base: Option<PathBuf>,
    /// Compare with distributions that another model wrote, of the same text
    #[arg(long, value_name = "FILE")]
    kl_base: Option<PathBuf>,
    #[command(flatten)]
    nfc: NfcArgs,
    #[command(flatten)]
    cache: CacheArgs,
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
  kinfer perplexity smollm2 LICENSE
  kinfer perplexity ./model-f16.gguf LICENSE --save-kl-base f16.kl
  kinfer perplexity ./model-q4_k_m.gguf LICENSE --kl-base f16.kl

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs it.
pub fn run(args: PerplexityArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let text = args.nfc.apply(read(&args.text)?);
    let model = args.load.load(ctx, Some(&args.model), EngineBuilder::default())?;
    let tokenizer = model.tokenizer();
    args.nfc.tell(ctx, tokenizer, &text)?;
    // As data: what looks like a control token in the text is text.
    let options = Encode { special: false, bos: None, eos: Some(false) };
    let ids = tokenizer.encode(&text, options).map_err(kinfer::Error::from)?;
    let size = args.ctx_size as usize;
    if ids.len() < size {
        let n = ids.len();
        return Err(CliError::usage(format!(
            "{n} tokens fill no window of {size}; give a longer text or a smaller -c"
        )));
    }
    let mut windows = windows(&ids, size, tokenizer.bos().filter(|_| tokenizer.add_bos()));
    windows.truncate(args.windows.unwrap_or(usize::MAX));
    let head = Head { vocab: model.spec().vocab as u32, size: args.ctx_size, windows: windows.len() as u32 };
    let mut base = match (&args.save_kl_base, &args.kl_base) {
        (Some(path), _) => Base::Save(save(path, &head, &windows)?),
        (None, Some(path)) => Base::Compare(open(path, &head, &windows)?, Distance::default()),
        (None, None) => Base::None,
    };
    let mut runner = Windows::new(&model, size, args.cache.into())?;
    let bar = progress::steps(ctx, "computing", windows.len() as u64);
    let (mut sum, mut values) = (Sum::default(), Vec::new());
    for window in &windows {
        runner.compute(&window.ids, |position, logits| {
            // The last token has no next.
            let next = window.ids.get(position + 1).filter(|_| position >= window.from);
            let Some(&next) = next else { return Ok(()) };
            log_softmax(logits, &mut values);
            sum.count(values[next as usize]);
            match &mut base {
                Base::None => Ok(()),
                Base::Save(file) => file.write_all(&halves(&values)),
                Base::Compare(file, distance) => {
                    let mut bytes = vec![0; 2 * values.len()];
                    file.read_exact(&mut bytes)?;
                    distance.add(&bytes, &values);
                    Ok(())
                }
            }
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Base::Save(file) = &mut base {
        file.flush().context("the distributions cannot be written")?;
    }
    let (perplexity, error) = sum.perplexity();
    let distance = match &base {
        Base::Compare(_, distance) => Some(distance.report()),
        _ => None,
    };
    let left_out = ids.len() - windows.len() * size;
    if args.json {
        let mut out = json!({ "model": model.path(), "device": model.device(), "perplexity": perplexity,
            "perplexity_error": error, "tokens": ids.len(), "scored": sum.len(), "windows": windows.len(),
            "ctx_size": size, "left_out": left_out });
        if let Some((kl, same)) = distance {
            (out["mean_kl"], out["same_top"]) = (json!(kl), json!(same));
        }
        return Ok(term::out_line(&out.to_string())?);
    }
    let mut out = format!(
        "perplexity {perplexity:.5} ± {error:.5}\nscored {} of {} tokens, in {} windows of {size}, {left_out} left out",
        sum.len(),
        ids.len(),
        windows.len()
    );
    if let Some((kl, same)) = distance {
        out +=
            &format!("\nmean KL divergence {kl:.6}, same favourite for {:.2} % of the tokens", 100.0 * same);
    }
    Ok(term::out_line(&out)?)
}

/// What is done with the distributions.
enum Base {
    None,
    Save(BufWriter<File>),
    Compare(BufReader<File>, Distance),
}

/// Computes windows, one after the other.
struct Windows {
    runner: Box<dyn Runner>,
    blocks: Vec<u32>,
    batch: Batch,
}

/// Rows of one step; the logits of that many rows are in memory at once.
const ROWS: usize = 128;

impl Windows {
    fn new(model: &Arc<Model>, size: usize, kv: KvTypes) -> anyhow::Result<Self> {
        let blocks = size.div_ceil(BLOCK_LEN);
        let limits =
            RunnerLimits { rows: ROWS, outputs: ROWS, logits: true, blocks, states: 1, context: size, kv };
        let trained = model.spec().context;
        if size > trained {
            return Err(CliError::usage(format!("-c {size}: the model's context is {trained} tokens")));
        }
        Ok(Self {
            runner: model.runner(limits)?,
            blocks: (0..blocks as u32).collect(),
            batch: Batch::default(),
        })
    }

    /// Calls `with` with each position and its logits.
    fn compute(
        &mut self,
        ids: &[u32],
        mut with: impl FnMut(usize, &[f32]) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        for (i, part) in ids.chunks(ROWS).enumerate() {
            self.batch.clear();
            self.batch.push(Role::of_prompt(ids.len()), part, i * ROWS, &self.blocks, false);
            self.batch.outputs = (0..part.len() as u32).collect();
            let logits = self.runner.step(&self.batch).map_err(kinfer::Error::from)?;
            for r in 0..part.len() {
                with(i * ROWS + r, logits.row(r)).context("the distributions cannot be read or written")?;
            }
        }
        Ok(())
    }
}

/// The logarithms of the probabilities.
fn log_softmax(logits: &[f32], out: &mut Vec<f32>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    // The difference to the largest one first: a sum with it would be rounded at its size.
    let log_sum = sum.ln() as f32;
    out.clear();
    out.extend(logits.iter().map(|l| l - max - log_sum));
}

/// In half precision: of a probability above 1e-4, less than half a percent is lost.
fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
}

/// Between the distributions of two models.
#[derive(Default)]
struct Distance {
    count: usize,
    kl: f64,
    same: usize,
}

impl Distance {
    /// Adds a token: the base's distribution as stored, and the model's.
    fn add(&mut self, base: &[u8], values: &[f32]) {
        let (mut kl, mut top) = (0f64, [(f32::NEG_INFINITY, 0); 2]);
        for (i, (bytes, &value)) in base.as_chunks::<2>().0.iter().zip(values).enumerate() {
            let base = half::f16::from_le_bytes(*bytes).to_f32();
            let p = f64::from(base).exp();
            if p > 0.0 {
                kl += p * f64::from(base - value);
            }
            for (top, value) in top.iter_mut().zip([base, value]) {
                if value > top.0 {
                    *top = (value, i);
                }
            }
        }
        self.count += 1;
        self.kl += kl;
        self.same += usize::from(top[0].1 == top[1].1);
    }

    /// Mean divergence, and the share of tokens with the same favourite.
    fn report(&self) -> (f64, f64) {
        let count = self.count.max(1) as f64;
        (self.kl / count, self.same as f64 / count)
    }
}

/// What distributions are of, beside the tokens.
struct Head {
    vocab: u32,
    size: u32,
    windows: u32,
}

const MAGIC: &[u8; 8] = b"KINFERKL";

impl Head {
    /// The beginning of the file: this, and the tokens.
    fn bytes(&self, windows: &[Window]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        [self.vocab, self.size, self.windows].iter().for_each(|n| out.extend(n.to_le_bytes()));
        windows.iter().flat_map(|w| &w.ids).for_each(|id| out.extend(id.to_le_bytes()));
        out
    }
}

fn save(path: &Path, head: &Head, windows: &[Window]) -> anyhow::Result<BufWriter<File>> {
    let failed = || format!("{} cannot be written", path.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).with_context(failed)?);
    file.write_all(&head.bytes(windows)).with_context(failed)?;
    Ok(file)
}

/// Opens distributions, and checks that they are of the same tokens.
fn open(path: &Path, head: &Head, windows: &[Window]) -> anyhow::Result<BufReader<File>> {
    let wrong = |what: &str| CliError::usage(format!("--kl-base {}: {what}", path.display()));
    let file = File::open(path).map_err(|e| wrong(&e.to_string()))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let want = head.bytes(windows);
    let mut got = vec![0; want.len()];
    let complete = file.read_exact(&mut got).is_ok();
    if !got.starts_with(MAGIC) {
        return Err(wrong("not a file that --save-kl-base wrote"));
    }
    if !complete || got != want {
        return Err(wrong("of another text, vocabulary, window size or number of windows"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_of_distributions() {
        let logs = |p: [f32; 3]| p.map(f32::ln).to_vec();
        let (a, b) = (logs([0.5, 0.25, 0.25]), logs([0.25, 0.5, 0.25]));
        let mut distance = Distance::default();
        distance.add(&halves(&a), &a);
        distance.add(&halves(&a), &b);
        let (kl, same) = distance.report();
        // 0.5 ln 2 - 0.25 ln 2, of one of two tokens.
        assert!((kl - 0.125 * 2f64.ln()).abs() < 1e-3 && same == 0.5, "{kl} {same}");
    }

    #[test]
    fn probabilities_sum_to_one() {
        let mut out = Vec::new();
        log_softmax(&[1000.0, 999.0, -5.0], &mut out);
        let sum: f32 = out.iter().map(|l| l.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5 && (out[0] - out[1] - 1.0).abs() < 1e-6, "{out:?}");
    }
}
