//! A loaded model.

use crate::{Device, Error, Result};
use kinfer_core::{KvType, ModelSpec};
use kinfer_gen::SamplingOverrides;
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

    /// Memory for an engine with one sequence of `context` tokens.
    pub fn plan(&self, context: usize, kv: KvType) -> Plan {
        let _ = (context, kv);
        Plan { weights: self.weight_bytes(), kv: 0, scratch: 0, available: None }
    }

    /// The token ids of `text`, with the tokens that the model wants at the beginning (`special`: control tokens
    /// written out in the text become themselves).
    ///
    /// # Errors
    /// When the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let _ = (text, special);
        Err(Error::Usage("the tokenizer is not connected yet".into()))
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let _ = ids;
        String::new()
    }
}
