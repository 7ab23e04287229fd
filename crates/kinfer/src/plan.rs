//! How much memory a model and an engine take.

use crate::{Device, EngineBuilder, Error, LoadOptions, Model, Result, device};
use kinfer_core::{KvTypes, RunnerLimits};
use kinfer_load::gguf::Gguf;

/// Bytes of memory that a model and an engine of it take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights.
    pub weights: u64,
    /// The cache of keys and values.
    pub kv: u64,
    /// Activations, logits and other buffers.
    pub scratch: u64,
    /// What can be allocated now; `None`: not known on this system.
    pub available: Option<u64>,
}

impl Plan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }

    /// The plan for a model file and an engine with one sequence of `context` tokens and default batches; loads nothing.
    ///
    /// # Errors
    /// Those of [`Model::load`] that the metadata can tell, and of [`EngineBuilder::build`] for the context.
    pub fn of_file(gguf: &Gguf, device: Device, context: usize, kv: impl Into<KvTypes>) -> Result<Self> {
        let spec = kinfer_models::arch::read(gguf)?.spec;
        let (_, limits) = EngineBuilder::default().context(context).kv(kv).runner_limits(&spec)?;
        let plan = device::plan(gguf, &LoadOptions { device, ..LoadOptions::default() }, &limits)?;
        let available = plan.available.or_else(device::available_memory);
        Ok(Self { weights: plan.weights, kv: plan.kv, scratch: plan.scratch, available })
    }

    /// Whether cache and scratch fit; `what` needs them.
    pub(crate) fn check(&self, what: String) -> Result<()> {
        let needed = self.kv.saturating_add(self.scratch);
        match self.available.filter(|&a| a < needed) {
            Some(available) => Err(Error::Memory { what, needed, available }),
            None => Ok(()),
        }
    }

    /// The plan for a loaded model.
    pub(crate) fn of_model(model: &Model, limits: &RunnerLimits) -> Self {
        // All of the cache is in its blocks, so a runner without blocks is scratch only.
        let of = |blocks| model.inner().runner_bytes(&RunnerLimits { blocks, ..*limits });
        let scratch = of(0);
        let kv = of(limits.blocks).saturating_sub(scratch);
        let available = model.inner().available_memory().or_else(device::available_memory);
        Self { weights: model.weight_bytes(), kv, scratch, available }
    }
}
