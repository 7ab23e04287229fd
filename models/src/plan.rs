//! How much memory a model needs, from its metadata alone.

use crate::arch;
use crate::decoder::runner_bytes;
use crate::source::Source;
use kinfer_core::{Backend, Result, RunnerLimits};

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights in the device's own layout.
    pub weights: u64,
    /// KV cache.
    pub kv: u64,
    /// Activations.
    pub scratch: u64,
    /// What can be allocated on the device now, where it has memory of its own.
    pub available: Option<u64>,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }
}

/// What loading `source` on `backend` and making a runner with `limits` would take; loads nothing.
///
/// # Errors
/// As [`crate::load`], but for what only the tensors' shapes can tell.
pub fn plan<B: Backend>(backend: &B, source: &dyn Source, limits: &RunnerLimits) -> Result<MemoryPlan> {
    let blueprint = arch::read(source)?;
    let names = &blueprint.names;
    let ignored = |name: &str| names.rope_factors.contains(&name) || names.ignores(name);
    let mut weights = 0;
    for name in source.tensors() {
        let Some(t) = source.tensor(name)?.filter(|_| !ignored(name)) else { continue };
        let format = source.target(name).unwrap_or(t.format);
        weights += match t.shape[..] {
            _ if name.ends_with(".bias") => 4 * t.shape.iter().map(|&n| n as u64).product::<u64>(),
            [cols] if name.ends_with("ffn_gate_inp_shexp.weight") => backend.weight_bytes(1, cols, format),
            [rows, cols] => backend.weight_bytes(rows, cols, format),
            [experts, rows, cols] => experts as u64 * backend.weight_bytes(rows, cols, format),
            _ => 4 * t.shape.iter().map(|&n| n as u64).product::<u64>(),
        };
    }
    let (kv, scratch) = runner_bytes(backend, &blueprint.spec, limits);
    Ok(MemoryPlan { weights, kv, scratch, available: backend.available_memory() })
}
