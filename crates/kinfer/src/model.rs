//! A loaded model.

use crate::vocab::Vocab;
use crate::{Device, Engine, Error, Result};
use kinfer_core::{KvType, ModelSpec, Runner, RunnerLimits};
use kinfer_gen::{SamplingOverrides, Vocabulary};
use kinfer_load::tokenizer::{Encode, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the CPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numerics {
    /// Quantised weights by 8-bit activations: the fast path.
    #[default]
    Int8,
    /// Single precision activations: slow, for checking a model against its exact values.
    F32,
}

/// Reports how far a load has come: bytes of weights done, and bytes of all weights.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// How a model is loaded.
#[derive(Default)]
pub struct LoadOptions {
    /// What it runs on.
    pub device: Device,
    /// Threads that compute; `None`: one per physical core that this process may use.
    pub threads: Option<usize>,
    /// Instruction set, instead of the best one that was detected.
    pub isa: Option<String>,
    /// How the CPU computes.
    pub numerics: Numerics,
    /// A chat template (Jinja) instead of the one in the model file.
    pub chat_template: Option<String>,
    /// A pre-tokenizer by name, instead of the one that the model file names.
    pub pre_tokenizer: Option<String>,
    /// Called while weights are loaded.
    pub progress: Option<Progress>,
}

/// A loaded model: weights, tokenizer and chat template. Immutable; any number of engines share it.
pub struct Model {
    path: PathBuf,
    inner: Arc<dyn kinfer_core::Model>,
    tokenizer: Arc<Tokenizer>,
    defaults: SamplingOverrides,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("device", &self.device())
            .finish_non_exhaustive()
    }
}

/// Bytes of memory that a model and an engine of it take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights.
    pub weights: u64,
    /// The cache of keys and values.
    pub kv: u64,
    /// Activations, logits and other buffers.
    pub scratch: u64,
    /// What can be had now, the weights of this model counted as taken; `None`: not known on this system.
    pub available: Option<u64>,
}

impl Plan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }
}

impl Model {
    /// Loads a model from a GGUF file. Of a split model, name the first file; the others lie beside it.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; other variants when its contents are damaged or not supported, or
    /// when the device is not available.
    pub fn load(path: impl AsRef<Path>, options: LoadOptions) -> Result<Arc<Self>> {
        let _ = (path.as_ref(), options);
        Err(Error::Usage("loading is not connected yet".into()))
    }

    /// The file it was loaded from; the first one of a split model.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Memory for an engine with one sequence of `context` tokens and default batches.
    ///
    /// # Errors
    /// As [`crate::EngineBuilder::build`] for a context that is not legal.
    pub fn plan(self: &Arc<Self>, context: usize, kv: KvType) -> Result<Plan> {
        Engine::builder().model(self.clone()).context(context).kv(kv).plan()
    }

    pub(crate) fn plan_for(&self, limits: &RunnerLimits) -> Plan {
        // All of the cache is in the blocks: what a runner with one block takes more than one without.
        let of = |blocks| self.inner.runner_bytes(&RunnerLimits { blocks, ..*limits });
        let scratch = of(0);
        let kv = of(limits.blocks).saturating_sub(scratch);
        Plan { weights: self.weight_bytes(), kv, scratch, available: kinfer_cpu::machine::available_memory() }
    }

    /// A runner of single steps with its own cache, below the engine: for benchmarks and for tests of numerics.
    ///
    /// # Errors
    /// [`Error::Model`] when the cache or the scratch does not fit in memory.
    pub fn runner(&self, limits: RunnerLimits) -> Result<Box<dyn Runner>> {
        Ok(self.inner.clone().runner(limits)?)
    }

    pub(crate) fn inner(&self) -> &Arc<dyn kinfer_core::Model> {
        &self.inner
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(crate) fn vocabulary(&self) -> Arc<dyn Vocabulary> {
        Arc::new(Vocab(self.tokenizer.clone()))
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
}
