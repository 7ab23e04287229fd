//! `kinfer quantize` and `kinfer convert`: one model file out of another, or out of safetensors.

use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::table::printable;
use crate::{model, progress, term};
use clap::builder::FalseyValueParser;
use kinfer::gguf::Gguf;
use kinfer::hub::human_size;
use kinfer::quantize::{self, Importance, Options, Recipe, Report};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Quantise a model: fewer bits per weight
///
/// Reads safetensors as transformers saves them, or a GGUF file, and writes a GGUF file. The search minimises the squared
/// error of each block's weights, large ones first; with --imatrix an error counts as much as the activations it is multiplied with. One
/// tensor is in memory at a time.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct QuantizeArgs {
    /// The model, see below
    #[arg(value_name = "MODEL")]
    model: String,
    /// What to make of it, see below
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Another type for the tensors of this name, in which * stands for any text; can be given several times, the last
    /// one that fits counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor: Vec<String>,
    /// Importance matrix, a GGUF file as `kinfer imatrix` or llama-imatrix writes
    #[arg(long, env = "KINFER_IMATRIX", value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Quantise what is quantised already: it loses twice
    #[arg(long, env = "KINFER_REQUANTIZE", value_parser = FalseyValueParser::new())]
    requantize: bool,
    #[command(flatten)]
    out: OutArgs,
}

/// Convert a model to GGUF without quantising it
///
/// Reads safetensors as transformers saves them, or a GGUF file, and writes a GGUF file with its matrices in f16, bf16
/// or f32.
#[derive(clap::Args)]
#[command(after_help = convert_help())]
pub struct ConvertArgs {
    /// The model, see below
    #[arg(value_name = "MODEL")]
    model: String,
    /// Type of the matrices: f16, bf16 or f32 [default: the one that most have; f16 of what is quantised, but experts that
    /// are stored in MXFP4 stay]
    #[arg(value_name = "TYPE", value_parser = ["f16", "bf16", "f32"], ignore_case = true)]
    kind: Option<String>,
    #[command(flatten)]
    out: OutArgs,
}

/// Where the file goes.
#[derive(clap::Args)]
struct OutArgs {
    /// The file to write [default: NAME-TYPE.gguf in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, env = "KINFER_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,
    /// Threads that encode [default: one for each fast physical core that this process may use]
    #[arg(short, long, env = "KINFER_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

fn help() -> String {
    format!(
        "\
TYPE is one of
  q4_k_m        4.9 bits per weight, the usual trade of size against quality
  q5_k_m        5.7 bits: little is lost
  q8_0          8.5 bits: next to nothing is lost
  q4_0          4.5 bits, the fastest of its size
  q3_k_m, q2_k  3.9 and 3.4 bits: for models that do not fit otherwise; better with --imatrix
  q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k are mixes: tensors that suffer most get more bits.
  q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl iq4_xs mxfp4 are single formats. The output head gets q6_k in all but q8_0 and mxfp4.
  f16 bf16 f32 do not quantise, as `kinfer convert`.
Where a matrix's rows are no multiple of 256, the mixes give it the next better format with blocks of 32, and say so.

{}

Examples:
  kinfer quantize ./SmolLM2-135M q4_k_m
  kinfer quantize ./Qwen3-0.6B q4_k_m -o small.gguf --tensor 'blk.*.ffn_down.weight=q6_k'
  kinfer quantize user/repo q4_0 --imatrix imatrix.gguf

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

fn convert_help() -> String {
    format!(
        "\
{}

Examples:
  kinfer convert ./SmolLM2-135M                the GGUF file of a folder that transformers saved
  kinfer convert ./SmolLM2-135M f32 -o exact.gguf

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs `kinfer quantize`.
pub fn run(args: QuantizeArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let mut recipe = model::recipe("TYPE", &args.kind)?;
    for rule in &args.tensor {
        let (pattern, kind) =
            rule.rsplit_once('=').filter(|(pattern, _)| !pattern.is_empty()).ok_or_else(|| {
                CliError::usage(format!(
                    "--tensor `{rule}`: expected PATTERN=TYPE, such as 'blk.*.attn_v.weight=q6_k'"
                ))
            })?;
        recipe =
            recipe.with(pattern, kind).map_err(|e| CliError::usage(format!("--tensor `{rule}`: {e}")))?;
    }
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let options = Options { threads: None, importance, requantize: args.requantize };
    write(&args.model, |_| Ok(recipe), options, &args.out, ctx)
}

/// What `general.file_type` numbers experts in MXFP4 by.
const MXFP4: u32 = 38;

/// Runs `kinfer convert`.
pub fn convert(args: ConvertArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let recipe = |gguf: &Gguf| {
        let coded = gguf.tensors().find(|t| t.is_coded()).and_then(|t| Some(t.format().ok()?.name()));
        let stored = gguf.metadata().opt::<u32>("general.file_type");
        let own = || match (coded, &stored) {
            (Some("F32"), _) | (None, Ok(Some(0))) => "f32",
            (Some("BF16"), _) | (None, Ok(Some(32 | MXFP4))) => "bf16",
            _ => "f16",
        };
        let recipe = model::recipe("TYPE", args.kind.as_deref().unwrap_or_else(own))?;
        // Experts in MXFP4 are so in the model's own checkpoint, and stay.
        let kept = gguf.tensors().filter(|t| {
            args.kind.is_none() && t.name().ends_with("_exps.weight") && t.type_name() == "MXFP4"
        });
        kept.map(|t| t.name()).try_fold(recipe, |recipe, name| Ok(recipe.with(name, "mxfp4")?))
    };
    write(&args.model, recipe, Options::default(), &args.out, ctx)
}

fn write(
    name: &str,
    recipe: impl FnOnce(&Gguf) -> anyhow::Result<Recipe>,
    mut options: Options,
    args: &OutArgs,
    ctx: &Ctx,
) -> anyhow::Result<()> {
    options.threads = args.threads.map(usize::from);
    let files = model::resolve(ctx, Some(name))?.files;
    let source = Gguf::open(files.first().map_or(Path::new(name), |f| f)).map_err(kinfer::Error::from)?;
    let recipe = recipe(&source)?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(default_name(&source, &recipe)),
    };
    if path.exists() {
        let same = |file: &PathBuf| file.canonicalize().ok() == path.canonicalize().ok();
        if files.iter().any(same) {
            return Err(CliError::usage(format!(
                "{} is the model itself; name another with -o",
                path.display()
            )));
        }
        if !args.force {
            let there = path.display();
            return Err(CliError::usage(format!(
                "{there} is there already; name another with -o, or say --force"
            )));
        }
    }
    let start = Instant::now();
    let bar = progress::bytes(ctx, "quantizing", 0);
    let report = quantize::write(&source, &recipe, &options, &path, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    note_replaced(ctx, &report.replaced);
    print(&report, &recipe, &path, start.elapsed().as_secs_f64(), args.json)
}

/// Says which matrices have another format than the recipe's, and why.
pub fn note_replaced(ctx: &Ctx, replaced: &BTreeMap<(&str, &str), usize>) {
    for ((wanted, got), count) in replaced {
        let some = if *count == 1 { "1 tensor is".into() } else { format!("{count} tensors are") };
        ctx.note(&format!("{some} in {got} instead of {wanted}: their rows are no multiple of 256"));
    }
}

fn print(report: &Report, recipe: &Recipe, path: &Path, seconds: f64, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let replaced = report.replaced.iter();
        let replaced: Vec<_> = replaced
            .map(|((wanted, got), n)| json!({ "wanted": wanted, "got": got, "tensors": n }))
            .collect();
        let out = json!({ "file": path, "type": recipe.name(), "size": report.written, "read": report.read,
            "tensors": report.formats, "replaced": replaced, "seconds": seconds });
        return Ok(term::out_line(&out.to_string())?);
    }
    let formats: Vec<String> = report.formats.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let (read, written) = (human_size(report.read), human_size(report.written));
    Ok(term::out_line(&format!(
        "{}: {written}, of {read} of weights, in {seconds:.1} s\ntensors: {}",
        path.display(),
        formats.join(", ")
    ))?)
}

/// The model's name, without what could not stand in a file's name.
fn default_name(source: &Gguf, recipe: &Recipe) -> String {
    let name = source.metadata().opt::<&str>("general.name").ok().flatten().unwrap_or_default();
    let name: String = printable(name)
        .chars()
        .map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect();
    let name = name.trim_matches(['.', '-']);
    let name = if name.is_empty() { "model" } else { name };
    format!("{name}-{}.gguf", recipe.name().to_ascii_uppercase())
}
