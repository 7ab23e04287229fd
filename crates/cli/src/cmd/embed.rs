//! `kinfer embed`: texts as vectors.

use crate::ctx::Ctx;
use crate::exit::{self, CliError, exclusive};
use crate::input::read;
use crate::model::{self, LoadArgs};
use crate::nfc::NfcArgs;
use crate::term;
use clap::builder::FalseyValueParser;
use kinfer::{EmbedOptions, Embedding, EngineBuilder, Pooling};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Turn texts into vectors, which are the nearer the more alike the texts are
///
/// For models that were trained to embed: encoders such as BGE and nomic-embed, and decoders such as Qwen3-Embedding. Each text
/// is a line of numbers, in the order of the texts. How a model makes one vector of a text's hidden states is in most files;
/// where it is not, --pooling says it. Many models want a word or two before each text, such as `search_query: ` and
/// `search_document: `, which their cards tell; nothing is added here.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct EmbedArgs {
    /// The model, see below
    #[arg(value_name = "MODEL")]
    model: String,
    /// The texts; without any, one for each line of standard input
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    texts: Vec<String>,
    /// Read the texts from a file, one on each line; `-` is standard input
    #[arg(short, long, env = "KINFER_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Which hidden states a text's vector is made of [default: what the model file says]
    #[arg(long, env = "KINFER_POOLING", value_name = "KIND")]
    pooling: Option<PoolingArg>,
    /// Leave vectors as long as they are, instead of scaling them to length 1
    #[arg(long, env = "KINFER_NO_NORMALISE", alias = "no-normalize", value_parser = FalseyValueParser::new())]
    no_normalise: bool,
    /// Cut texts that are longer than the model's context, instead of refusing them
    #[arg(long, env = "KINFER_TRUNCATE", value_parser = FalseyValueParser::new())]
    truncate: bool,
    /// Print the cosine of each two texts instead of the vectors; with --json both
    #[arg(long, env = "KINFER_SIMILARITY", value_parser = FalseyValueParser::new())]
    similarity: bool,
    /// Print one JSON object with everything
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    /// Print one JSON object on a line for each text
    #[arg(long, env = "KINFER_JSONL", value_parser = FalseyValueParser::new())]
    jsonl: bool,
    #[command(flatten)]
    nfc: NfcArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// [`Pooling`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PoolingArg {
    /// The mean of all
    Mean,
    /// The first token's, [CLS] in BERT
    Cls,
    /// The last token's
    Last,
}

fn help() -> String {
    format!(
        "\
{}

Examples:
  kinfer embed ./bge-small-en-v1.5-q8_0.gguf 'a cat on a mat' 'felines and rugs' 'interest rates' --similarity
  kinfer embed ./nomic-embed-text-v1.5.Q8_0.gguf -f lines.txt --jsonl > vectors.jsonl
  kinfer embed ./Qwen3-Embedding-0.6B-Q8_0.gguf 'hello' --json | jq '.embeddings[0].tokens'

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs it.
pub fn run(args: EmbedArgs, ctx: &Ctx) -> anyhow::Result<()> {
    exclusive(("--json", args.json), ("--jsonl", args.jsonl))?;
    exclusive(("--similarity", args.similarity), ("--jsonl", args.jsonl))?;
    let texts: Vec<String> = args.texts()?.into_iter().map(|text| args.nfc.apply(text)).collect();
    let model = args.load.load(ctx, Some(&args.model), EngineBuilder::default())?;
    args.nfc.tell(ctx, model.tokenizer(), &texts.join("\n"))?;
    let pooling = args.pooling.map(|kind| match kind {
        PoolingArg::Mean => Pooling::Mean,
        PoolingArg::Cls => Pooling::Cls,
        PoolingArg::Last => Pooling::Last,
    });
    let options = EmbedOptions { pooling, normalise: !args.no_normalise, truncate: args.truncate };
    let embeddings = model.embed(&texts, &options)?;
    for (i, e) in embeddings.iter().enumerate().filter(|(_, e)| e.cut > 0) {
        ctx.warn(&format!("text {}: {} of its tokens were cut off, {} are left", i + 1, e.cut, e.tokens));
    }
    if args.json {
        let report = Report {
            model: model.path().display().to_string(),
            device: model.device(),
            pooling: pooling.or(model.spec().pooling).map(name),
            normalised: options.normalise,
            dimensions: embeddings.first().map_or(0, |e| e.values.len()),
            embeddings: embeddings.iter().enumerate().map(Object::new).collect(),
            similarity: args.similarity.then(|| similarities(&embeddings)),
        };
        return Ok(term::out_line(&serde_json::to_string(&report)?)?);
    }
    if args.similarity {
        for (row, text) in similarities(&embeddings).iter().zip(&texts) {
            let row: Vec<String> = row.iter().map(|c| format!("{c:7.4}")).collect();
            term::out_line(&format!("{}  {}", row.join(" "), crate::table::printable(text)))?;
        }
        return Ok(());
    }
    for (i, e) in embeddings.iter().enumerate() {
        let line = match args.jsonl {
            true => serde_json::to_string(&Object::new((i, e)))?,
            false => e.values.iter().map(f32::to_string).collect::<Vec<_>>().join(" "),
        };
        term::out_line(&line)?;
    }
    Ok(())
}

impl EmbedArgs {
    fn texts(&self) -> anyhow::Result<Vec<String>> {
        let file = match &self.file {
            Some(file) => file,
            None if !self.texts.is_empty() => return Ok(self.texts.clone()),
            None if std::io::stdin().is_terminal() => {
                return Err(CliError::usage("there is no text; give some, or -f FILE with one on each line"));
            }
            None => Path::new("-"),
        };
        let lines: Vec<String> = read(file)?.lines().map(str::to_owned).collect();
        match lines.is_empty() {
            true => Err(CliError::usage(format!("{} is empty: there is no text to embed", file.display()))),
            false => Ok(lines),
        }
    }
}

fn name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
        Pooling::Last => "last",
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    device: String,
    pooling: Option<&'static str>,
    normalised: bool,
    dimensions: usize,
    embeddings: Vec<Object<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<Vec<Vec<f32>>>,
}

/// A text's vector as an object.
#[derive(Serialize)]
struct Object<'a> {
    index: usize,
    tokens: usize,
    /// Tokens that were cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<usize>,
    embedding: &'a [f32],
}

impl<'a> Object<'a> {
    fn new((index, e): (usize, &'a Embedding)) -> Self {
        Self { index, tokens: e.tokens, cut: (e.cut > 0).then_some(e.cut), embedding: &e.values }
    }
}

/// The cosine of each two vectors.
fn similarities(all: &[Embedding]) -> Vec<Vec<f32>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths: Vec<f64> = all.iter().map(|e| dot(&e.values, &e.values).sqrt()).collect();
    let cosine = |i: usize, j: usize| match lengths[i] * lengths[j] {
        0.0 => 0.0,
        length => (dot(&all[i].values, &all[j].values) / length) as f32,
    };
    (0..all.len()).map(|i| (0..all.len()).map(|j| cosine(i, j)).collect()).collect()
}
