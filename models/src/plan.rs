//! How much memory a model needs, from its metadata alone.

use crate::arch::{Blueprint, Names};
use crate::build::{DELTA_CONV, SHORT_CONV};
use crate::decoder::runner_memory;
use crate::parts::Has;
use crate::source::Source;
use kinfer_core::{Backend, DeviceMemory, Result, RunnerLimits};

/// What loading the blocks that `has` names, and making a runner of them, would take.
pub(crate) fn of_part<B: Backend>(
    backend: &B,
    blueprint: &Blueprint,
    source: &dyn Source,
    has: &Has,
    limits: &RunnerLimits,
) -> Result<DeviceMemory> {
    let Blueprint { spec, names, .. } = blueprint;
    let tied = source.tensor(&format!("{}.weight", names.head))?.is_none();
    let ignored = |name: &str| names.rope_factors.contains(&name) || names.ignores(name);
    let mut weights = 0;
    for name in source.tensors() {
        if !has_tensor(has, names, tied, name) {
            continue;
        }
        let Some(t) = source.tensor(name)?.filter(|_| !ignored(name)) else { continue };
        let format = source.target(name).unwrap_or(t.format);
        weights += match t.shape[..] {
            _ if name.ends_with(".bias")
                || [SHORT_CONV, DELTA_CONV].iter().any(|conv| name.contains(conv)) =>
            {
                4 * t.shape.iter().map(|&n| n as u64).product::<u64>()
            }
            [cols] if name.ends_with("ffn_gate_inp_shexp.weight") => backend.weight_bytes(1, cols, format),
            [rows, cols] => backend.weight_bytes(rows, cols, format),
            [experts, rows, cols] => experts as u64 * backend.weight_bytes(rows, cols, format),
            _ => 4 * t.shape.iter().map(|&n| n as u64).product::<u64>(),
        };
    }
    Ok(runner_memory(backend, spec, has, weights, limits))
}

/// Whether a tensor belongs to one of these blocks.
fn has_tensor(has: &Has, names: &Names, tied: bool, name: &str) -> bool {
    if let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        let is_ffn = ["ffn", "exp_probs", "post_ffw"].iter().any(|first| rest.starts_with(first));
        return layer
            .parse()
            .ok()
            .and_then(|i: usize| has.layers.get(i))
            .is_some_and(|l| l[usize::from(is_ffn)]);
    }
    match name.strip_suffix(".weight") {
        Some(name) if name == names.embed => has.embed || has.head && tied,
        Some(name) if Some(name) == names.positions => has.embed,
        _ => has.head,
    }
}
