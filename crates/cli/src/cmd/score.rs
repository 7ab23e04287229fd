//! `kinfer score`: what a model thinks of a text.

use super::run::{Pairs, pairs};
use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::input::read;
use crate::model::{self, CacheArgs, LoadArgs};
use crate::nfc::{NfcArg, NfcArgs};
use crate::{progress, term};
use clap::builder::FalseyValueParser;
use kinfer::tokenizer::Encode;
use kinfer::{Engine, EngineBuilder, Model, TokenLogprobs};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Scores a text: perplexity and log-probabilities
///
/// Teacher-forced: the model sees the true text before each token. The text is cut into windows of --ctx-size tokens
/// that do not overlap; a rest that fills no window is left out. Where the model wants a BOS token, it takes the place
/// of each window's first token. Perplexity counts the second half of each window, as llama-perplexity does: the
/// tokens at N/2+1 to N-1. A text shorter than one window is one window by itself, counted from its second token.
#[derive(clap::Args)]
#[command(after_help = help())]
#[command(group = clap::ArgGroup::new("input").required(true).args(["text", "ids"]))]
pub struct ScoreArgs {
    /// The model, see below
    #[arg(value_name = "MODEL")]
    model: String,
    /// The text; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Token ids instead of a text: a JSON array, or numbers with spaces or commas between them
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Report the K likeliest tokens after each position (with --json)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top: usize,
    /// Tokens per window
    #[arg(short, long, env = "KINFER_CTX_SIZE", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    ctx_size: u32,
    #[command(flatten)]
    nfc: NfcArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object with everything
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
  kinfer score smollm2 --text LICENSE
  kinfer score gemma3:270m --ids ids.json --top 8 --json

In the JSON object, `logprobs[i]` is the natural logarithm of the probability of the token
after `ids[i]`, and `top[i]` are the likeliest tokens there. A window's last token has no next.

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs it.
pub fn run(args: ScoreArgs, ctx: &Ctx) -> anyhow::Result<()> {
    if args.top > 0 && !args.json {
        return Err(CliError::usage("--top needs --json, which is where its tokens are printed"));
    }
    if args.ids.is_some() && args.nfc.nfc == NfcArg::On {
        return Err(CliError::usage("--nfc on composes the characters of a text, and --ids has none"));
    }
    let input = read(args.text.as_deref().or(args.ids.as_deref()).unwrap_or("-".as_ref()))?;
    let given = if args.ids.is_some() { Some(parse_ids(&input)?) } else { None };
    if let Some(ids) = &given {
        enough(ids)?;
    }
    let model = args.load.load(ctx, Some(&args.model), EngineBuilder::default())?;
    let tokenizer = model.tokenizer();
    let ids = match given {
        Some(ids) => ids,
        None => {
            // As data: what looks like a control token in the text is text.
            let options = Encode { special: false, bos: None, eos: Some(false) };
            let text = args.nfc.apply(input);
            args.nfc.tell(ctx, tokenizer, &text)?;
            tokenizer.encode(&text, options).map_err(kinfer::Error::from)?
        }
    };
    enough(&ids)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let windows = windows(&ids, args.ctx_size as usize, bos);
    let engine = engine(model, &windows, args.cache)?;

    let bar = progress::steps(ctx, "scoring", windows.len() as u64);
    let mut report = Report::new(&engine, args.ctx_size, ids.len());
    let mut sum = Sum::default();
    for window in &windows {
        let scores = engine.score(&window.ids, args.top)?;
        sum.add(&scores, window.from);
        report.add(&window.ids, &scores, args.top > 0);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.finish(&sum, windows.len());
    if args.json {
        term::out_line(&serde_json::to_string(&report)?)?;
    } else {
        term::out_line(&format!(
            "perplexity {:.5} ± {:.5}\nscored {} of {} tokens, in {} windows of {}, {} left out",
            report.perplexity,
            report.perplexity_error,
            report.scored,
            report.tokens,
            report.windows,
            windows.first().map_or(0, |w| w.ids.len()),
            report.left_out,
        ))?;
    }
    Ok(())
}

fn enough(ids: &[u32]) -> anyhow::Result<()> {
    match ids.len() {
        n @ 0..2 => Err(CliError::usage(format!("{n} tokens: there is nothing to score below 2"))),
        _ => Ok(()),
    }
}

/// Tokens that are scored together.
pub(super) struct Window {
    pub ids: Vec<u32>,
    /// The first position whose next token counts.
    pub from: usize,
}

pub(super) fn windows(ids: &[u32], size: usize, bos: Option<u32>) -> Vec<Window> {
    if ids.len() < size {
        return vec![Window { ids: ids.to_vec(), from: 0 }];
    }
    let cut = |(i, chunk): (usize, &[u32])| {
        let mut ids = chunk.to_vec();
        // The first window keeps what the user, or the tokenizer, put there.
        if let (Some(bos), Some(first)) = (bos.filter(|_| i > 0), ids.first_mut()) {
            *first = bos;
        }
        Window { ids, from: size / 2 }
    };
    ids.chunks_exact(size).enumerate().map(cut).collect()
}

fn engine(model: Arc<Model>, windows: &[Window], cache: CacheArgs) -> anyhow::Result<Engine> {
    let longest = windows.iter().map(|w| w.ids.len()).max().unwrap_or(1);
    Ok(Engine::builder().model(model).context(longest).kv(cache).build()?)
}

fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|_| CliError::usage(format!("--ids: `{word}` is not a token id"))))
        .collect()
}

/// Of the negative log-probabilities that count.
#[derive(Default)]
pub(super) struct Sum {
    count: usize,
    nll: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, scores: &[TokenLogprobs], from: usize) {
        scores.iter().skip(from).filter_map(|s| s.logprob).for_each(|logprob| self.count(logprob));
    }

    /// Adds a token's logarithm of its probability.
    pub fn count(&mut self, logprob: f32) {
        let nll = -f64::from(logprob);
        self.count += 1;
        self.nll += nll;
        self.squares += nll * nll;
    }

    /// Tokens that count.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The exponential of the mean, and its standard error.
    pub fn perplexity(&self) -> (f64, f64) {
        let count = self.count as f64;
        let mean = self.nll / count;
        let variance = self.squares / count - mean * mean;
        let perplexity = mean.exp();
        let error =
            if self.count > 1 { perplexity * (variance.max(0.0) / (count - 1.0)).sqrt() } else { f64::NAN };
        (perplexity, error)
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    perplexity: f64,
    perplexity_error: f64,
    /// Tokens of the text.
    tokens: usize,
    /// Tokens that perplexity counts.
    scored: usize,
    windows: usize,
    ctx_size: u32,
    /// Tokens after the last window.
    left_out: usize,
    /// The windows' tokens, one window after the other.
    ids: Vec<u32>,
    logprobs: Vec<Option<f32>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Pairs>,
}

impl Report {
    fn new(engine: &Engine, ctx_size: u32, tokens: usize) -> Self {
        let model = engine.model();
        Self {
            model: model.path().display().to_string(),
            device: model.device(),
            perplexity: f64::NAN,
            perplexity_error: f64::NAN,
            tokens,
            scored: 0,
            windows: 0,
            ctx_size,
            left_out: 0,
            ids: Vec::new(),
            logprobs: Vec::new(),
            top: Vec::new(),
        }
    }

    fn add(&mut self, ids: &[u32], scores: &[TokenLogprobs], top: bool) {
        self.ids.extend(ids);
        self.logprobs.extend(scores.iter().map(|s| s.logprob));
        if top {
            self.top.extend(scores.iter().map(|s| pairs(&s.top)));
        }
    }

    fn finish(&mut self, sum: &Sum, windows: usize) {
        (self.perplexity, self.perplexity_error) = sum.perplexity();
        (self.scored, self.windows) = (sum.count, windows);
        self.left_out = self.tokens - self.ids.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_as_llama_perplexity_does() {
        let ids: Vec<u32> = (0..1030).collect();
        let cut = windows(&ids, 512, Some(7));
        assert_eq!(cut.len(), 2);
        assert_eq!((cut[0].ids[0], cut[1].ids[0], cut[1].ids[1]), (0, 7, 513));
        // Scores of positions 256..511 count, the last of which has no next token: 255.
        let scores = vec![TokenLogprobs { logprob: Some(-1.0), top: Vec::new() }; 511];
        let mut sum = Sum::default();
        sum.add(&scores, cut[0].from);
        assert_eq!(sum.count, 255);
        assert!((sum.perplexity().0 - 1f64.exp()).abs() < 1e-12);
        assert_eq!(windows(&ids, 512, None)[1].ids[0], 512);
    }

    #[test]
    fn a_short_text_is_one_window() {
        let cut = windows(&[1, 2, 3], 512, Some(1));
        assert_eq!((cut.len(), cut[0].from), (1, 0));
    }

    #[test]
    fn reads_ids() {
        assert_eq!(parse_ids("[1, 2,\n3]").unwrap(), [1, 2, 3]);
        assert_eq!(parse_ids("1 2\t3\n").unwrap(), [1, 2, 3]);
        assert!(parse_ids("1 x").is_err());
        assert!(parse_ids("-1").is_err());
    }
}
