//! A loaded model as the engine sees it: weights that many engines share, and a runner with one engine's state.

use crate::{Batch, Drawn, KvTypes, ModelSpec, Result};
use std::sync::Arc;

/// A loaded model: immutable weights on a device. Shared by `Arc`; each engine makes its own [`Runner`].
pub trait Model: Send + Sync {
    /// The model's blueprint.
    fn spec(&self) -> &ModelSpec;
    /// What it runs on, for people, e.g. `cpu (avx512vnni, 2 threads)`.
    fn device(&self) -> String;
    /// Bytes of weights that one generated token reads, for GB/s figures (embedding rows not counted).
    fn bytes_per_token(&self) -> u64;
    /// Bytes that all weights take on their devices.
    fn weight_bytes(&self) -> u64;
    /// Memory that it takes with one runner of these limits, on each of its devices.
    fn memory(&self, limits: &RunnerLimits) -> Vec<DeviceMemory>;
    /// Allocates a runner.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] when the cache or the scratch does not fit, [`crate::Error::Unsupported`] for logits of a model
    /// that has none ([`ModelSpec::generates`]).
    fn runner(self: Arc<Self>, limits: RunnerLimits) -> Result<Box<dyn Runner>>;
}

/// Bytes of memory that a model and a runner of it take on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The device, for people.
    pub device: String,
    /// Weights in the device's own layout.
    pub weights: u64,
    /// The cache of keys and values.
    pub kv: u64,
    /// Activations, logits and other buffers.
    pub scratch: u64,
    /// What can be allocated there now, where the device has memory of its own.
    pub available: Option<u64>,
}

impl DeviceMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }
}

/// What a runner allocates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Most rows of one step.
    pub rows: usize,
    /// Most rows of one step whose outputs are wanted.
    pub outputs: usize,
    /// What a row's output is: its logits, or, without the output head, its hidden state.
    pub logits: bool,
    /// KV blocks of [`crate::batch::BLOCK_LEN`] positions.
    pub blocks: usize,
    /// Sequences whose states are kept side by side, in models that have such ([`ModelSpec::has_states`]).
    pub states: usize,
    /// Most positions of one sequence. Models with rotary tables for long contexts choose by it.
    pub context: usize,
    /// Types of cached keys and values.
    pub kv: KvTypes,
}

/// One engine's working state of a model: KV cache and scratch.
pub trait Runner: Send {
    /// The limits it was made with.
    fn limits(&self) -> RunnerLimits;
    /// Whether sequences have states ([`ModelSpec::has_states`]): what was computed of one can then be continued at its end, once, and
    /// blocks cannot be shared.
    fn has_states(&self) -> bool {
        false
    }
    /// Computes one step: writes the rows' keys and values into the cache, returns the wanted outputs.
    ///
    /// # Errors
    /// [`crate::Error::Batch`] when the batch breaks a limit; a device's own error otherwise. After an error the
    /// cache contents of the batch's positions are undefined, all others are kept.
    fn step(&mut self, batch: &Batch) -> Result<Outputs<'_>>;
}

/// What a step computed of its output rows, in the order of [`Batch::outputs`]: see [`RunnerLimits::logits`].
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// `[outputs, width]`, row-major; empty where `drawn` is not.
    pub data: &'a [f32],
    /// Values per row: the vocabulary, or the width of the model.
    pub width: usize,
    /// Where the device drew: for each output what [`Batch::draws`] gave.
    pub drawn: &'a [Drawn],
}

impl<'a> Outputs<'a> {
    /// The values of output `i`, `[width]`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }
}
