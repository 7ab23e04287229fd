//! `kinfer show`: what is in a model file, and the memory it takes.

use crate::ctx::Ctx;
use crate::exit::exclusive;
use crate::table::{Table, grouped, printable};
use crate::{model, term};
use clap::builder::FalseyValueParser;
use kinfer::gguf::{Gguf, Value};
use kinfer::hub::human_size;
use kinfer::{Device, ErrorKind, KvTypes, Plan};
use serde_json::{Map, Value as Json, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Show what is in a model file, and the memory it takes
#[derive(clap::Args)]
#[command(after_help = "\
A model that is not on this machine is fetched first. Nothing is loaded, so this is quick for large models too.

Examples:
  kinfer show smollm2
  kinfer show ./model.gguf -c 32768             memory for a context of 32768 tokens
  kinfer show gemma3:270m --tensors
  kinfer show smollm2 --template > chat.jinja
  kinfer show smollm2 --json | jq .memory.total")]
pub struct ShowArgs {
    /// The model: a short name, a hub reference or a .gguf file
    #[arg(value_name = "MODEL")]
    model: String,
    /// Context length to plan memory for [default: the model's, at most 4096]
    #[arg(short, long, env = "KINFER_CTX_SIZE", value_name = "N", value_parser = model::size)]
    ctx_size: Option<usize>,
    #[command(flatten)]
    cache: model::CacheArgs,
    /// List all tensors
    #[arg(long, env = "KINFER_TENSORS", value_parser = FalseyValueParser::new())]
    tensors: bool,
    /// Print the chat template only
    #[arg(long, env = "KINFER_TEMPLATE", value_parser = FalseyValueParser::new())]
    template: bool,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

const TEMPLATE: &str = "tokenizer.chat_template";

/// Runs it.
pub fn run(args: ShowArgs, ctx: &Ctx) -> anyhow::Result<()> {
    exclusive(("--template", args.template), ("--tensors", args.tensors))?;
    exclusive(("--template", args.template), ("--json", args.json))?;
    let files = model::resolve(ctx, Some(&args.model))?.files;
    let path = files.first().cloned().unwrap_or_default();
    let gguf = Gguf::open(&path).map_err(kinfer::Error::from)?;
    if args.template {
        let Some(template) = text(&gguf, TEMPLATE) else {
            anyhow::bail!(
                "{} has no chat template; `kinfer run --raw` continues text without one",
                path.display()
            );
        };
        return Ok(term::out_line(template)?);
    }
    let trained: Option<usize> =
        arch_key(&gguf, "context_length").and_then(|k| gguf.metadata().opt(&k).ok()?);
    let context = args.ctx_size.unwrap_or_else(|| trained.unwrap_or(4096).min(4096));
    let kv = args.cache.into();
    let plan = match Plan::of_file(&gguf, Device::Auto, context, kv) {
        Err(e) if args.ctx_size.is_some() && e.kind() == ErrorKind::Usage => return Err(e.into()),
        // An architecture that kinfer cannot run can still be shown.
        plan => plan.map_err(|e| e.to_string()),
    };
    let shown = Shown { name: &args.model, files, gguf: &gguf, mix: mix(&gguf), context, kv, plan };
    if args.json {
        return Ok(term::out_line(&serde_json::to_string_pretty(&shown.json(args.tensors))?)?);
    }
    let mut out = shown.overview(ctx);
    if args.tensors {
        write!(out, "\n{}\n{}", ctx.out.bold("tensors"), tensors(&gguf))?;
    }
    Ok(term::out(&out)?)
}

/// Everything that is shown.
struct Shown<'a> {
    name: &'a str,
    files: Vec<PathBuf>,
    gguf: &'a Gguf,
    mix: Vec<TypeShare>,
    context: usize,
    kv: KvTypes,
    /// The memory plan, or why there is none.
    plan: Result<Plan, String>,
}

/// The tensors of one stored type.
struct TypeShare {
    name: String,
    tensors: u64,
    elements: u64,
    bytes: u64,
    supported: bool,
}

/// The stored types, the one with most bytes first.
fn mix(gguf: &Gguf) -> Vec<TypeShare> {
    let mut mix: Vec<TypeShare> = Vec::new();
    for tensor in gguf.tensors() {
        let name = tensor.type_name();
        let at = mix.iter().position(|t| t.name == name).unwrap_or_else(|| {
            let supported = tensor.format().is_ok();
            mix.push(TypeShare { name: name.into_owned(), tensors: 0, elements: 0, bytes: 0, supported });
            mix.len() - 1
        });
        let share = &mut mix[at];
        share.tensors += 1;
        share.elements += tensor.elements();
        share.bytes += tensor.stored_bytes() as u64;
    }
    mix.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    mix
}

impl TypeShare {
    fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elements.max(1) as f64
    }
}

impl Shown<'_> {
    fn elements(&self) -> u64 {
        self.mix.iter().map(|t| t.elements).sum()
    }

    fn bytes(&self) -> u64 {
        self.mix.iter().map(|t| t.bytes).sum()
    }

    fn share(&self, of: &TypeShare) -> f64 {
        of.bytes as f64 / self.bytes().max(1) as f64
    }

    fn overview(&self, ctx: &Ctx) -> String {
        let gguf = self.gguf;
        let metadata = gguf.metadata();
        let bold = |heading: &str| ctx.out.bold(heading);
        let mut facts = Table::new(["", ""]);
        let mut fact = |name: &str, value: String| {
            if !value.is_empty() {
                facts.row([name.into(), value]);
            }
        };
        let of_arch = |key: &str| arch_key(gguf, key).and_then(|k| shown_value(gguf, &k)).unwrap_or_default();
        fact("name", text(gguf, "general.name").unwrap_or_default().into());
        fact("architecture", text(gguf, "general.architecture").unwrap_or_default().into());
        fact("parameters", format!("{} ({})", short(self.elements()), grouped(self.elements())));
        fact("context", of_arch("context_length"));
        fact("layers", of_arch("block_count"));
        fact("width", of_arch("embedding_length"));
        fact("feed-forward", of_arch("feed_forward_length"));
        fact("heads", of_arch("attention.head_count"));
        fact("key/value heads", of_arch("attention.head_count_kv"));
        let tokens = array_len(gguf, "tokenizer.ggml.tokens").map(grouped).unwrap_or_default();
        let tokenizer = [text(gguf, "tokenizer.ggml.model"), text(gguf, "tokenizer.ggml.pre")];
        fact("vocabulary", tokens);
        fact("tokenizer", tokenizer.into_iter().flatten().collect::<Vec<_>>().join(", "));
        fact(
            "chat template",
            match text(gguf, TEMPLATE) {
                Some(t) => format!("{} characters (--template prints it)", t.chars().count()),
                None => "none".into(),
            },
        );
        fact("quantization", file_type(gguf).unwrap_or_default());
        fact("license", text(gguf, "general.license").unwrap_or_default().into());
        let parts = gguf.files().len();
        let of_parts = if parts > 1 { format!(" in {parts} files") } else { String::new() };
        let (size, tensors) = (human_size(gguf.total_bytes()), gguf.tensors().len());
        let format = gguf.version().map_or("safetensors".into(), |v| format!("GGUF version {v}"));
        fact("file", format!("{size}{of_parts}, {format}, {tensors} tensors"));
        for file in &self.files {
            fact("", file.display().to_string());
        }

        let mut types =
            Table::new(["type", ">tensors", ">parameters", ">bytes", ">share", ">bits per weight", ""]);
        for t in &self.mix {
            types.row([
                t.name.clone(),
                t.tensors.to_string(),
                short(t.elements),
                human_size(t.bytes),
                format!("{:.1} %", 100.0 * self.share(t)),
                format!("{:.2}", t.bits()),
                if t.supported { String::new() } else { "not supported by this version".into() },
            ]);
        }

        let mut all = Table::new(["", ""]);
        for (key, value) in metadata.iter() {
            let value = if key == TEMPLATE { "(--template prints it)".into() } else { one_line(value) };
            all.row([key.into(), value]);
        }
        let name = printable(self.name);
        format!(
            "{}\n{facts}\n{}\n{types}\n{}\n{}\n{}\n{all}",
            bold(&name),
            bold("weights"),
            bold(&format!("memory for a context of {} tokens", grouped(self.context as u64))),
            self.memory(),
            bold("metadata"),
        )
    }

    fn memory(&self) -> String {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(reason) => return format!("not known: {reason}\n"),
        };
        let mut table = Table::new(["", ">", ""]);
        let mut row =
            |name: &str, bytes: u64, note: String| table.row([name.into(), human_size(bytes), note]);
        row("weights", plan.weights(), "as packed for this machine".into());
        row("keys and values", plan.kv(), self.kv.to_string());
        row("buffers", plan.scratch(), String::new());
        row("total", plan.total(), String::new());
        if let (Some(available), Some(fits)) = (plan.available(), plan.fits()) {
            let verdict = if fits { "it fits" } else { "it does not fit" };
            row("available", available, verdict.into());
        }
        table.to_string()
    }

    fn json(&self, with_tensors: bool) -> Json {
        let gguf = self.gguf;
        let count = |key: &str| {
            let value =
                arch_key(gguf, key).and_then(|k| gguf.metadata().iter().find(|(name, _)| **name == k));
            value.map_or(Json::Null, |(_, v)| json_value(v))
        };
        let types = self.mix.iter().map(|t| {
            json!({ "type": t.name, "tensors": t.tensors, "parameters": t.elements, "bytes": t.bytes,
                "share": self.share(t), "bits_per_weight": t.bits(), "supported": t.supported })
        });
        let memory = match &self.plan {
            Ok(plan) => {
                json!({ "context": self.context, "type_k": self.kv.k.name(), "type_v": self.kv.v.name(), "weights": plan.weights(),
                "kv": plan.kv(), "scratch": plan.scratch(), "total": plan.total(), "available": plan.available(),
                "fits": plan.fits() })
            }
            Err(reason) => json!({ "error": reason }),
        };
        let metadata: Map<String, Json> =
            gguf.metadata().iter().map(|(key, value)| (key.into(), json_value(value))).collect();
        let mut out = json!({
            "model": self.name,
            "files": self.files,
            "size": gguf.total_bytes(),
            "gguf_version": gguf.version(),
            "name": text(gguf, "general.name"),
            "architecture": text(gguf, "general.architecture"),
            "parameters": self.elements(),
            "context": count("context_length"),
            "layers": count("block_count"),
            "vocabulary": array_len(gguf, "tokenizer.ggml.tokens"),
            "quantization": file_type(gguf),
            "types": types.collect::<Vec<_>>(),
            "memory": memory,
            "chat_template": text(gguf, TEMPLATE),
            "metadata": metadata,
        });
        if with_tensors {
            let tensors = gguf.tensors().map(|t| {
                json!({ "name": t.name(), "shape": t.shape(), "type": t.type_name(), "bytes": t.stored_bytes() })
            });
            out["tensors"] = tensors.collect();
        }
        out
    }
}

fn tensors(gguf: &Gguf) -> Table {
    let mut table = Table::new(["name", "type", "shape", ">bytes", "file"]);
    let split = gguf.files().len() > 1;
    for t in gguf.tensors() {
        let shape: Vec<String> = t.shape().iter().map(u64::to_string).collect();
        let file = Path::new(t.file().file_name().unwrap_or_default()).display().to_string();
        table.row([
            t.name().into(),
            t.type_name().into(),
            shape.join(" x "),
            grouped(t.stored_bytes() as u64),
            if split { file } else { String::new() },
        ]);
    }
    table
}

/// `ARCH.key` for the file's architecture.
fn arch_key(gguf: &Gguf, key: &str) -> Option<String> {
    Some(format!("{}.{key}", text(gguf, "general.architecture")?))
}

fn text<'a>(gguf: &'a Gguf, key: &str) -> Option<&'a str> {
    gguf.metadata().opt(key).ok()?
}

fn array_len(gguf: &Gguf, key: &str) -> Option<u64> {
    gguf.metadata().iter().find_map(|(name, value)| match value {
        Value::Array(array) if name == key => Some(array.len() as u64),
        _ => None,
    })
}

fn shown_value(gguf: &Gguf, key: &str) -> Option<String> {
    gguf.metadata().iter().find(|(name, _)| *name == key).map(|(_, value)| one_line(value))
}

/// A value in one short line.
fn one_line(value: &Value) -> String {
    const LONGEST: usize = 100;
    match value {
        Value::String(s) if s.chars().count() > LONGEST => {
            format!("{} … ({} characters)", s.chars().take(LONGEST).collect::<String>(), s.chars().count())
        }
        Value::String(s) => s.clone(),
        Value::Array(array) => {
            let first: Vec<String> =
                array.iter().take(8).filter_map(Result::ok).map(|v| one_line(&v)).collect();
            let more = if array.len() > 8 {
                format!(", … ({} values)", grouped(array.len() as u64))
            } else {
                String::new()
            };
            format!("[{}{more}]", first.join(", "))
        }
        other => json_value(other).to_string(),
    }
}

/// A value as JSON. Long arrays (the vocabulary) are named by type and length.
fn json_value(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        // By way of its shortest decimal form: 0.000009999999747378752 says less than 1e-5.
        Value::F32(v) => json!(v.to_string().parse::<f64>().unwrap_or(f64::from(*v))),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(array) if array.len() <= 256 => {
            array.iter().filter_map(Result::ok).map(|v| json_value(&v)).collect()
        }
        Value::Array(array) => json!({ "type": array.element_type().to_string(), "length": array.len() }),
    }
}

/// A count of parameters as model names give it.
fn short(n: u64) -> String {
    let f = n as f64;
    match n {
        1_000_000_000.. => format!("{:.2} B", f / 1e9),
        1_000_000.. => format!("{:.1} M", f / 1e6),
        1_000.. => format!("{:.1} k", f / 1e3),
        _ => n.to_string(),
    }
}

/// The name of the quantization recipe that `general.file_type` numbers.
fn file_type(gguf: &Gguf) -> Option<String> {
    if let Some(coded) = gguf.tensors().find(|t| t.is_coded()) {
        return Some(coded.type_name().into_owned());
    }
    let id: u32 = gguf.metadata().opt("general.file_type").ok()??;
    let name = match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        _ => return Some(format!("file type {id}")),
    };
    Some(name.into())
}
