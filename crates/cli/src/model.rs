//! From what the user wrote to a loaded model: shared by all commands that need one.

use crate::ctx::Ctx;
use crate::exit::CliError;
use crate::input::read;
use crate::progress::{self, Downloads};
use kinfer::gguf::Gguf;
use kinfer::hub::{Hub, HubConfig, HubError, ModelRef, ResolvedModel, human_size};
use kinfer::quantize::Recipe;
use kinfer::template::{ChatTemplate, builtin_templates};
use kinfer::tokenizer::{Tokenizer, VocabSpec, pre_tokenizers};
use kinfer::{
    Device, EngineBuilder, GpuIsa, GpuLayers, Isa, KvType, KvTypes, LoadOptions, Model, Numerics, Offload,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// How a model is written, for `--help`.
pub const MODEL_HELP: &str = "\
MODEL is one of
  a short name                 smollm2, gemma3:270m (`kinfer list --all` shows them)
  a repository on the hub      user/repo[:QUANT][@revision], also with hf.co/ in front
  a file in a repository       user/repo/path/file.gguf
  a file on this machine       ./model.gguf
  a folder on this machine     ./folder, with config.json, tokenizer.json and safetensors";

/// The hub with the user's settings.
pub fn hub(ctx: &Ctx) -> anyhow::Result<Hub> {
    let mut config = HubConfig::from_env();
    config.offline |= ctx.offline;
    Ok(Hub::new(config, kinfer::catalog::builtin()?))
}

/// The model that a name means; none is the catalogue's default.
pub fn parse(hub: &Hub, name: Option<&str>) -> anyhow::Result<ModelRef> {
    Ok(ModelRef::parse(name.unwrap_or(&hub.catalog().default)).map_err(HubError::from)?)
}

/// Refuses names that mean no model, before anything is done with the first.
pub fn check_names(names: &[String]) -> anyhow::Result<()> {
    names.iter().try_for_each(|name| ModelRef::parse(name).map(drop)).map_err(|e| HubError::from(e).into())
}

/// Finds a model's files, and fetches them where they are not on this machine.
pub fn resolve(ctx: &Ctx, name: Option<&str>) -> anyhow::Result<ResolvedModel> {
    let hub = hub(ctx)?;
    let wanted = parse(&hub, name)?;
    let (cancel, _working) = ctx.interrupt.download();
    Ok(hub.resolve(&wanted, &mut Downloads::new(ctx), &cancel)?)
}

/// Opens a model's file for what is not its weights: metadata and tokenizer.
pub fn vocabulary(ctx: &Ctx, name: Option<&str>) -> anyhow::Result<(Gguf, Tokenizer)> {
    let files = resolve(ctx, name)?.files;
    let gguf = Gguf::open(&files[0]).map_err(kinfer::Error::from)?;
    let spec = VocabSpec::from_metadata(gguf.metadata()).map_err(kinfer::Error::from)?;
    let tokenizer = Tokenizer::new(&spec).map_err(kinfer::Error::from)?;
    Ok((gguf, tokenizer))
}

/// How a model is loaded.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Model and device")]
pub struct LoadArgs {
    /// Run on this device: auto (the CPU), cpu, candle, cuda, cuda:1, …
    #[arg(long, env = "KINFER_DEVICE", value_name = "NAME", default_value = "auto", value_parser = device)]
    pub device: Device,
    #[command(flatten)]
    pub offload: OffloadArgs,
    /// Threads that compute [default: one for each fast physical core that this process may use]
    #[arg(short, long, env = "KINFER_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Instruction set instead of the best one: scalar, avx2, avxvnni, avx512vnni, avx512bf16, amx, neon, dotprod, i8mm
    #[arg(long, env = "KINFER_ISA", value_name = "NAME")]
    pub isa: Option<String>,
    /// How the CPU computes: the best way for each token's role, all in int8, or all in f32 (exact and slow)
    #[arg(long, env = "KINFER_NUMERICS", value_name = "KIND", default_value = "auto")]
    pub numerics: NumericsArg,
    /// Quantise the weights while loading: q4_k_m, q8_0, q4_0, … (of models in f32, f16, bf16 or q8_0; `kinfer quantize`
    /// does it once and for all)
    #[arg(long, env = "KINFER_QUANT", value_name = "TYPE")]
    pub quant: Option<String>,
    /// Pre-tokenizer by name, instead of the one that the model file names
    #[arg(long, env = "KINFER_PRE", value_name = "NAME")]
    pub pre: Option<String>,
    #[command(flatten)]
    pub template: TemplateArgs,
}

/// Says what becomes of weights that are stored in a format which nothing is computed with.
fn note_decoded(ctx: &Ctx, gguf: &Gguf) {
    let coded = || gguf.tensors().filter(|t| t.is_coded());
    let Some(first) = coded().next() else { return };
    let stored: usize = coded().map(|t| t.stored_bytes()).sum();
    let decoded: usize = coded().map(|t| t.bytes()).sum();
    let format = first.format().map_or_else(|e| e.to_string(), |f| f.name().to_owned());
    ctx.note(&format!(
        "{} of weights in {} are computed with as {} in {format}; --quant q8_0, q4_k_m, … makes them smaller",
        human_size(stored as u64),
        first.type_name(),
        human_size(decoded as u64),
    ));
}

/// A chat template instead of the model's.
#[derive(clap::Args, Default)]
pub struct TemplateArgs {
    /// Chat template instead of the model's: the name of a built-in one, or Jinja
    #[arg(
        long,
        env = "KINFER_CHAT_TEMPLATE",
        value_name = "NAME|JINJA",
        conflicts_with = "chat_template_file"
    )]
    pub chat_template: Option<String>,
    /// Chat template in Jinja, from a file
    #[arg(long, env = "KINFER_CHAT_TEMPLATE_FILE", value_name = "FILE", visible_alias = "template")]
    pub chat_template_file: Option<PathBuf>,
}

/// How much of a model a GPU takes.
#[derive(clap::Args, Clone, Default)]
pub struct OffloadArgs {
    /// Layers on the GPU, counted from the end, the output as one: a number, all, or auto for as many as fit; also written -ngl
    #[arg(long, alias = "gpu-layers", env = "KINFER_N_GPU_LAYERS", value_name = "N", default_value = "auto", value_parser = gpu_layers)]
    n_gpu_layers: LayersArg,
    /// Leave the experts of all layers to the CPU, and the rest of the model to the GPU; also written -cmoe
    #[arg(long, env = "KINFER_CPU_MOE", value_parser = clap::builder::FalseyValueParser::new())]
    cpu_moe: bool,
    /// Leave the experts of the first N layers to the CPU; also written -ncmoe
    #[arg(long, env = "KINFER_N_CPU_MOE", value_name = "N", conflicts_with = "cpu_moe", value_parser = count)]
    n_cpu_moe: Option<usize>,
    /// Divide the layers over this GPU and those that follow it, in these shares, e.g. 3,1; also written -ts
    #[arg(long, env = "KINFER_TENSOR_SPLIT", value_name = "SHARE,...", value_delimiter = ',')]
    tensor_split: Vec<f32>,
    /// Launch each kernel of a generated token by itself, instead of recording all once: to see what that saves
    #[arg(long, env = "KINFER_NO_GRAPHS", value_parser = clap::builder::FalseyValueParser::new())]
    no_graphs: bool,
    /// Kernels for GPUs of this kind instead of the best that are known to work: sm75, sm80, sm90a (H100 and H200; not tried on one yet)
    #[arg(long, env = "KINFER_GPU_ISA", value_name = "NAME")]
    gpu_isa: Option<String>,
}

/// A name that was given: a variable that is set to nothing gives none, as in the library.
pub fn given(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

/// A number of layers, or how it is found.
#[derive(Clone, Copy, Default)]
enum LayersArg {
    #[default]
    Auto,
    Last(usize),
}

fn gpu_layers(text: &str) -> Result<LayersArg, String> {
    match text {
        "auto" => Ok(LayersArg::Auto),
        "all" => Ok(LayersArg::Last(usize::MAX)),
        _ => count(text).map(LayersArg::Last).map_err(|e| format!("{e}; it may also be `auto` or `all`")),
    }
}

impl OffloadArgs {
    /// For an engine as `engine` makes it.
    fn options(&self, engine: EngineBuilder) -> Offload {
        Offload {
            layers: match self.n_gpu_layers {
                LayersArg::Auto => GpuLayers::Fit(engine),
                LayersArg::Last(n) => GpuLayers::Last(n),
            },
            cpu_experts: if self.cpu_moe { usize::MAX } else { self.n_cpu_moe.unwrap_or(0) },
            split: self.tensor_split.clone(),
        }
    }
}

/// The recipe for quantising of that name.
pub fn recipe(flag: &str, name: &str) -> anyhow::Result<Recipe> {
    Recipe::parse(name).map_err(|e| CliError::usage(format!("{flag}: {e}")))
}

pub fn device(name: &str) -> Result<Device, String> {
    Device::parse(name).map_err(|e| e.to_string())
}

/// [`Numerics`] on the command line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum NumericsArg {
    /// 8-bit activations; prompts in bf16 where the CPU has AMX, or multiplies it and weights are F16 or BF16
    #[default]
    Auto,
    /// 8-bit activations throughout: the same bits on every CPU
    Int8,
    /// Single precision activations
    F32,
}

impl LoadArgs {
    /// Finds, fetches and loads a model, with room for an engine as `engine` makes it.
    pub fn load(&self, ctx: &Ctx, name: Option<&str>, engine: EngineBuilder) -> anyhow::Result<Arc<Model>> {
        self.load_as(ctx, name, engine, |path, options| Model::load(path, options), |model| model)
    }

    /// The same by a function of its own; `model_of` is the model in what that gives.
    pub fn load_as<T>(
        &self,
        ctx: &Ctx,
        name: Option<&str>,
        engine: EngineBuilder,
        load: impl FnOnce(&Path, LoadOptions) -> kinfer::Result<T>,
        model_of: impl Fn(&T) -> &Arc<Model>,
    ) -> anyhow::Result<T> {
        // A wrong option must not cost a download first.
        let mut options = self.options(engine)?;
        let found = resolve(ctx, name)?;
        options.progress = progress::loading(ctx);
        let start = Instant::now();
        let quant = options.quant.clone();
        let loaded = load(&found.files[0], options)?;
        let model = model_of(&loaded);
        if let Some(recipe) = quant {
            let targets = recipe.targets(model.gguf()).map_err(kinfer::Error::Model)?;
            crate::cmd::quantize::note_replaced(ctx, &targets.replaced);
        } else {
            note_decoded(ctx, model.gguf());
        }
        let seconds = start.elapsed().as_secs_f64();
        ctx.detail(&format!("device: {}", model.device()));
        let (path, size) = (model.path().display(), human_size(model.weight_bytes()));
        ctx.detail(&format!("model: {path} ({}), {size} of weights, loaded in {seconds:.3} s", found.origin));
        Ok(loaded)
    }

    /// The options without progress; an error for each that is wrong whatever the model.
    pub fn options(&self, engine: EngineBuilder) -> anyhow::Result<LoadOptions> {
        if let Some(reason) = self.device.unavailable() {
            let device = self.device.to_string();
            return Err(kinfer::Error::Device { device, reason: reason.into_owned() }.into());
        }
        let (isa, gpu_isa) = (given(&self.isa), given(&self.offload.gpu_isa));
        if let Some(name) = isa {
            Isa::parse(name).map_err(|e| CliError::usage(format!("--isa: {e}")))?;
        }
        if let Some(name) = gpu_isa {
            GpuIsa::parse(name).map_err(|e| CliError::usage(format!("--gpu-isa: {e}")))?;
        }
        if let Some(name) = &self.pre
            && !pre_tokenizers().any(|known| known == name)
        {
            let known = pre_tokenizers().collect::<Vec<_>>().join(", ");
            return Err(CliError::usage(format!("--pre `{name}` is no pre-tokenizer; there are: {known}")));
        }
        Ok(LoadOptions {
            device: self.device,
            offload: self.offload.options(engine),
            no_graphs: self.offload.no_graphs,
            threads: self.threads.map(usize::from),
            isa: isa.map(String::from),
            gpu_isa: gpu_isa.map(String::from),
            numerics: match self.numerics {
                NumericsArg::Auto => Numerics::Auto,
                NumericsArg::Int8 => Numerics::Int8,
                NumericsArg::F32 => Numerics::F32,
            },
            chat_template: self.template.source()?,
            pre_tokenizer: self.pre.clone(),
            quant: self.quant.as_deref().map(|name| recipe("--quant", name)).transpose()?,
            progress: None,
        })
    }
}

impl TemplateArgs {
    /// The name of a built-in template, or Jinja that compiles.
    pub fn source(&self) -> anyhow::Result<Option<String>> {
        let is_jinja = |text: &str| text.contains("{{") || text.contains("{%");
        let is_builtin = |name: &str| builtin_templates().any(|known| known == name);
        let (source, flag) = match (&self.chat_template_file, &self.chat_template) {
            (Some(path), _) if !path.exists() && is_builtin(&path.to_string_lossy()) => {
                let name = path.display();
                return Err(CliError::usage(format!(
                    "--chat-template-file: there is no file {name}; the built-in template of that name is \
                     --chat-template {name}"
                )));
            }
            (Some(path), _) => (read(path)?, "--chat-template-file"),
            (None, Some(name)) if is_builtin(name) => {
                return Ok(Some(name.clone()));
            }
            (None, Some(source)) => (source.clone(), "--chat-template"),
            (None, None) => return Ok(None),
        };
        if !is_jinja(&source) {
            let known = builtin_templates().collect::<Vec<_>>().join(", ");
            let problem = match &self.chat_template_file {
                Some(path) => format!("{} has no Jinja in it, neither {{{{ nor {{%", path.display()),
                None => format!(
                    "`{source}` is no built-in template ({known}), and no Jinja; --chat-template-file reads one \
                     from a file"
                ),
            };
            return Err(CliError::usage(format!("{flag}: {problem}")));
        }
        ChatTemplate::new(&source, None, None).map_err(|e| CliError::usage(format!("{flag}: {e}")))?;
        Ok(Some(source))
    }
}

/// [`KvType`] on the command line. The bytes are of 64 numbers, the width of a head in many models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KvArg {
    /// Half precision, 128 bytes for 64 numbers: nothing is lost that the model shows
    #[default]
    F16,
    /// Single precision, 256 bytes: for references
    F32,
    /// The range of f32 with 3 digits less than f16, 128 bytes: for models whose keys exceed 65504
    Bf16,
    /// 8 bits with a scale per 32 numbers, 68 bytes: nearly free, for long contexts
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits with a scale per 32 numbers, 36 bytes: answers get worse; of keys more than of values
    #[value(name = "q4_0")]
    Q4_0,
}

impl From<KvArg> for KvType {
    fn from(kind: KvArg) -> Self {
        match kind {
            KvArg::F16 => KvType::F16,
            KvArg::F32 => KvType::F32,
            KvArg::Bf16 => KvType::Bf16,
            KvArg::Q8_0 => KvType::Q8_0,
            KvArg::Q4_0 => KvType::Q4_0,
        }
    }
}

/// Types of cached keys and values.
#[derive(clap::Args, Clone, Copy, Default)]
pub struct CacheArgs {
    /// Type of cached keys, also written -ctk
    #[arg(long, env = "KINFER_CACHE_TYPE_K", value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: KvArg,
    /// Type of cached values, also written -ctv
    #[arg(long, env = "KINFER_CACHE_TYPE_V", value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: KvArg,
}

impl From<CacheArgs> for KvTypes {
    fn from(args: CacheArgs) -> Self {
        KvTypes { k: args.cache_type_k.into(), v: args.cache_type_v.into() }
    }
}

/// An engine's sizes.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Model and device")]
pub struct EngineArgs {
    /// Context length: most tokens of prompt and answer together [default: the model's, at most 4096]
    #[arg(short, long, env = "KINFER_CTX_SIZE", value_name = "N", value_parser = size)]
    pub ctx_size: Option<usize>,
    /// Most prompt tokens computed between two tokens of a running generation
    #[arg(short, long, env = "KINFER_BATCH_SIZE", value_name = "N", default_value = "2048", value_parser = size)]
    pub batch_size: usize,
    /// Most tokens computed at once, also written -ub
    #[arg(long, env = "KINFER_UBATCH_SIZE", value_name = "N", default_value = "512", value_parser = size)]
    pub ubatch_size: usize,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// A number of tokens or of runs, at least 1.
pub fn size(text: &str) -> Result<usize, String> {
    match count(text)? {
        0 => Err("it must be at least 1".into()),
        n => Ok(n),
    }
}

/// A number of tokens. 32 bits, so that sums and products of some cannot overflow.
pub fn count(text: &str) -> Result<usize, String> {
    Ok(text.parse::<u32>().map_err(|e| e.to_string())? as usize)
}

impl EngineArgs {
    /// Options of an engine of these sizes.
    pub fn builder(&self) -> EngineBuilder {
        let builder =
            kinfer::Engine::builder().batch(self.batch_size).ubatch(self.ubatch_size).kv(self.cache);
        match self.ctx_size {
            Some(tokens) => builder.context(tokens),
            None => builder,
        }
    }

    /// An engine of this model.
    pub fn engine(&self, model: Arc<Model>) -> anyhow::Result<kinfer::Engine> {
        Ok(self.builder().model(model).build()?)
    }
}
