//! A loaded model.

use crate::chat::{Chat, Prompt};
use crate::device::Placed;
use crate::plan::{Plan, of_runner};
use crate::quantize::Recoded;
use crate::vocab::Vocab;
use crate::{Device, Engine, Error, Message, Offload, Result, Thinking};
use kinfer_core::{KvTypes, ModelSpec, Runner, RunnerLimits};
use kinfer_cpu::Inputs;
use kinfer_gen::{Sampling, SamplingOverrides, Vocabulary};
use kinfer_load::gguf::{Gguf, Metadata};
use kinfer_load::template::ChatTemplate;
use kinfer_load::tokenizer::{Encode, Tokenizer, VocabSpec};
use kinfer_models::{Recipe, SamplingDefaults, Source};
use std::path::Path;
use std::sync::Arc;

/// How the CPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numerics {
    /// The fast path: quantised weights by 8-bit activations; prompts in bf16 where the CPU has AMX, which is both faster and nearer
    /// to the exact values, and those of F16 and BF16 weights also where AVX-512 multiplies bf16. Reused cache entries of generated
    /// text then differ in rounding from a prompt's.
    #[default]
    Auto,
    /// Quantised weights by 8-bit activations, prompt and generated tokens alike: the same bits on every CPU.
    Int8,
    /// Single precision weights and activations: slow and large, for checking a model against its exact values.
    F32,
}

/// Reports how far a load has come: bytes of weights done, and bytes of all weights.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// How a model is loaded.
#[derive(Default)]
pub struct LoadOptions {
    /// What it runs on.
    pub device: Device,
    /// How much of it, where that is a GPU.
    pub offload: Offload,
    /// On a GPU, launch each kernel of a decode step, instead of recording the step once: to see what recording saves.
    pub no_graphs: bool,
    /// Threads that compute; `None`: as many as this process may run at once.
    pub threads: Option<usize>,
    /// Instruction set, instead of the best one that was detected (or that `KINFER_ISA` names).
    pub isa: Option<String>,
    /// The same of a GPU, by a name of [`crate::GpuIsa`], instead of the best one that is known to work (or that `KINFER_GPU_ISA` names).
    pub gpu_isa: Option<String>,
    /// How the CPU computes.
    pub numerics: Numerics,
    /// A chat template instead of the one in the model file: the name of a built-in one, or Jinja source.
    pub chat_template: Option<String>,
    /// A pre-tokenizer by name, instead of the one that the model file names.
    pub pre_tokenizer: Option<String>,
    /// Quantises the weights as they are loaded, instead of computing with them as they are stored. Of weights that are
    /// quantised already, only those in Q8_0 may be: see [`crate::quantize`].
    pub quant: Option<Recipe>,
    /// Called while weights are loaded.
    pub progress: Option<Progress>,
}

impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            device,
            offload,
            no_graphs,
            threads,
            isa,
            gpu_isa,
            numerics,
            chat_template,
            pre_tokenizer,
            quant,
            progress,
        } = self;
        f.debug_struct("LoadOptions")
            .field("device", device)
            .field("offload", offload)
            .field("no_graphs", no_graphs)
            .field("threads", threads)
            .field("isa", isa)
            .field("gpu_isa", gpu_isa)
            .field("numerics", numerics)
            .field("chat_template", chat_template)
            .field("pre_tokenizer", pre_tokenizer)
            .field("quant", quant)
            .field("progress", &progress.is_some())
            .finish()
    }
}

/// A loaded model: weights, tokenizer and chat template. Immutable; any number of engines share it.
pub struct Model {
    gguf: Gguf,
    inner: Arc<dyn kinfer_core::Model>,
    tokenizer: Arc<Tokenizer>,
    chat: Chat,
    defaults: SamplingOverrides,
    unsupported: Vec<(String, String)>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path())
            .field("device", &self.device())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a model from a GGUF file, or from a folder in transformers' format. Of a split model, name any part; the others
    /// lie beside it.
    ///
    /// # Errors
    /// [`Error::Gguf`], [`Error::Tokenizer`], [`Error::Model`] or [`Error::Template`] when a file cannot be read, is
    /// damaged or not supported, [`Error::Device`] when the device is not available, [`Error::Memory`] when the weights
    /// do not fit, [`Error::Usage`] for an illegal option.
    pub fn load(path: impl AsRef<Path>, options: LoadOptions) -> Result<Arc<Self>> {
        Self::load_gguf(Gguf::open(path)?, options)
    }

    /// Loads a model from an open GGUF file.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_gguf(gguf: Gguf, options: LoadOptions) -> Result<Arc<Self>> {
        Self::load_by(gguf, options, None)
    }

    /// [`Model::load_gguf`], with the inputs of all products recorded.
    pub(crate) fn load_recording(gguf: Gguf, options: LoadOptions, inputs: Arc<Inputs>) -> Result<Arc<Self>> {
        Self::load_by(gguf, options, Some(inputs))
    }

    fn load_by(gguf: Gguf, mut options: LoadOptions, inputs: Option<Arc<Inputs>>) -> Result<Arc<Self>> {
        let tokenizer = tokenizer(&gguf, &options)?;
        let nothing = RunnerLimits {
            rows: 0,
            outputs: 0,
            logits: true,
            blocks: 0,
            states: 0,
            context: 0,
            kv: KvTypes::default(),
        };
        let recoded = options.quant.as_ref().map(|recipe| Recoded::new(&gguf, recipe, options.threads));
        let recoded = recoded.transpose()?;
        let source: &dyn Source = recoded.as_ref().map_or(&gguf, |recoded| recoded);
        let placed = Placed::new(source, &options, inputs)?;
        placed.plan(source, &nothing)?.check("the model's weights", |memory| memory.weights)?;
        let mut progress = options.progress.take();
        let inner = placed.load(source, &mut |done, all| {
            if let Some(report) = &mut progress {
                report(done, all);
            }
        })?;
        Self::build(gguf, inner, tokenizer, &options)
    }

    /// A model whose weights are `inner`'s, for a device or an architecture of one's own; tokenizer, chat template and
    /// sampling defaults are those of `gguf`, unless `options` has others.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn with_weights(
        gguf: Gguf,
        inner: Arc<dyn kinfer_core::Model>,
        options: &LoadOptions,
    ) -> Result<Arc<Self>> {
        let tokenizer = tokenizer(&gguf, options)?;
        Self::build(gguf, inner, tokenizer, options)
    }

    fn build(
        gguf: Gguf,
        inner: Arc<dyn kinfer_core::Model>,
        tokenizer: Tokenizer,
        options: &LoadOptions,
    ) -> Result<Arc<Self>> {
        if tokenizer.vocab_size() > inner.spec().vocab {
            return Err(Error::Model(kinfer_core::Error::Metadata {
                key: "tokenizer.ggml.tokens".into(),
                problem: format!(
                    "{} tokens, but the model computes {}",
                    tokenizer.vocab_size(),
                    inner.spec().vocab
                ),
            }));
        }
        let chat = Chat::new(options.chat_template.as_deref(), gguf.metadata(), &tokenizer)?;
        let (defaults, unsupported) = sampling(&gguf)?;
        Ok(Arc::new(Self { inner, tokenizer: Arc::new(tokenizer), chat, defaults, unsupported, gguf }))
    }

    /// The file it was loaded from; the first one of a split model.
    pub fn path(&self) -> &Path {
        self.gguf.metadata().path()
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    /// The file, whose weights are not in memory any more.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Its blueprint.
    pub fn spec(&self) -> &ModelSpec {
        self.inner.spec()
    }

    /// What it runs on, for people.
    pub fn device(&self) -> String {
        self.inner.device()
    }

    /// Bytes of weights that one generated token reads, for GB/s figures.
    pub fn bytes_per_token(&self) -> u64 {
        self.inner.bytes_per_token()
    }

    /// Bytes that all weights take on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.inner.weight_bytes()
    }

    /// The sampling values that the model file asks for; what it does not set is kinfer's default.
    pub fn defaults(&self) -> &SamplingOverrides {
        &self.defaults
    }

    /// Sampling settings of the model file for which kinfer has no sampler, and which are not applied: key and value.
    pub fn unsupported_sampling(&self) -> &[(String, String)] {
        &self.unsupported
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its chat template.
    ///
    /// # Errors
    /// [`Error::Template`] when it has none, or when it does not compile.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.chat.template()
    }

    /// Whether its chat template has a switch for [`Thinking`].
    pub fn has_thinking_switch(&self) -> bool {
        self.chat.has_thinking_switch()
    }

    /// Memory for an engine with one sequence of `context` tokens and default batches.
    ///
    /// # Errors
    /// As [`crate::EngineBuilder::build`] for a context that is not legal.
    pub fn plan(self: &Arc<Self>, context: usize, kv: impl Into<KvTypes>) -> Result<Plan> {
        Engine::builder().model(self.clone()).context(context).kv(kv).plan()
    }

    /// The token ids of a raw prompt: control tokens written out in `text` become themselves, and BOS comes first where
    /// the model wants it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let options = Encode { special: true, bos: None, eos: Some(false) };
        Ok(self.tokenizer.encode(text, options)?)
    }

    /// The text of `ids` without control tokens; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.tokenizer.decode(ids, true)?).into_owned())
    }

    /// A runner of single steps with its own cache, below the engine: for benchmarks and for tests of numerics.
    ///
    /// # Errors
    /// [`Error::Memory`] or [`Error::Model`] when the cache or the scratch does not fit in memory, [`Error::Usage`] for
    /// limits of more than 32 bits.
    pub fn runner(&self, limits: RunnerLimits) -> Result<Box<dyn Runner>> {
        let RunnerLimits { rows, outputs, logits: _, blocks, states, context, kv: _ } = limits;
        let what = format!("a runner for {rows} rows, {outputs} outputs and {blocks} cache blocks");
        if [rows, outputs, blocks, states, context].into_iter().any(|n| u32::try_from(n).is_err()) {
            return Err(Error::Usage(format!("{what} is too large to count")));
        }
        Plan::of_model(self, &limits).check(&what, of_runner)?;
        Ok(self.inner.clone().runner(limits)?)
    }

    pub(crate) fn inner(&self) -> &Arc<dyn kinfer_core::Model> {
        &self.inner
    }

    pub(crate) fn vocabulary(&self) -> Arc<dyn Vocabulary> {
        Arc::new(Vocab(self.tokenizer.clone()))
    }

    pub(crate) fn prompt(&self, messages: &[Message], thinking: Thinking) -> Result<Prompt> {
        self.chat.prompt(messages, thinking, &self.tokenizer)
    }
}

fn tokenizer(gguf: &Gguf, options: &LoadOptions) -> Result<Tokenizer> {
    let mut spec = VocabSpec::from_metadata(gguf.metadata())?;
    if options.pre_tokenizer.is_some() {
        spec.pre.clone_from(&options.pre_tokenizer);
    }
    Ok(Tokenizer::new(&spec)?)
}

/// The file's sampling values that kinfer applies, and those it cannot apply.
fn sampling(gguf: &Gguf) -> Result<(SamplingOverrides, Vec<(String, String)>)> {
    let SamplingDefaults { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, unsupported } =
        SamplingDefaults::read(gguf)?;
    let overrides = SamplingOverrides {
        temperature,
        // 0 and below switch it off there.
        top_k: top_k.map(|k| usize::try_from(k).unwrap_or(0)),
        top_p,
        min_p,
        repeat_penalty,
        repeat_last_n: repeat_last_n.map(i64::from),
        ..SamplingOverrides::default()
    };
    Sampling::default().with(&overrides).check().map_err(|e| kinfer_core::Error::Metadata {
        key: "general.sampling.*".into(),
        problem: e.to_string(),
    })?;
    Ok((overrides, unsupported))
}
