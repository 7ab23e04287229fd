//! Gated delta nets.

use crate::driver::{Argument, Function, Gpu, Grid};
use crate::memory::Buffer;
use crate::ops::{arguments, out_for, product};
use crate::stages::input;
use crate::step::Field;
use crate::{Act, Cuda, Kv, Step, Vector, Weight};
use kinfer_core::backend::{DeltaVectors, DeltaWeights, Scratch};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{DeltaSpec, Error, HeadSharing, PartSpec, Result};
use std::sync::Arc;

/// Elements of a head at most, and heads of values: `MOST` of `kernels/cuda/delta.cu`.
const MOST: usize = 256;
/// Rows of a run that are convolved at a time, at most.
const ROWS: usize = 16;
/// Columns of a block's states.
const COLUMNS: usize = 32;

/// `Delta` of `kernels/cuda/delta.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Delta {
    x: u64,
    taps: u64,
    decay: u64,
    dt_bias: u64,
    past: u64,
    states: u64,
    made: u64,
    positions: u64,
    slots: u64,
    key_heads: i32,
    value_heads: i32,
    key_dim: i32,
    value_dim: i32,
    padded: i32,
    count: i32,
    neighbours: i32,
    stride: i32,
    channels: i32,
    pad: i32,
}

/// Width of a head of queries or keys with what is zero behind it.
fn padded(spec: &DeltaSpec) -> usize {
    spec.key_dim.next_multiple_of(32)
}

/// Bytes of a sequence: of what was convolved last, and of the states of all heads.
pub(crate) fn state_bytes(spec: &DeltaSpec) -> [usize; 2] {
    [(spec.taps - 1) * spec.channels(), spec.all_values() * padded(spec)].map(|n| n * size_of::<f32>())
}

/// What the delta nets of a part need of a step: room for what they make of its rows, and their kernels.
pub(crate) struct Made {
    rows: Buffer,
    convolve: Function,
    /// For keys up to 128 and 256 wide.
    rules: [(usize, Function); 2],
    gate: Function,
}

impl Made {
    /// For at most `rows` rows; `None`: the part has no delta nets.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for sizes that the kernels do not take, [`Error::OutOfMemory`].
    pub(crate) fn new(gpu: &Arc<Gpu>, part: &PartSpec, rows: usize) -> Result<Option<Made>> {
        for spec in &part.delta {
            let DeltaSpec { key_dim, value_dim, value_heads: heads, taps, .. } = *spec;
            if key_dim.max(value_dim).max(heads) > MOST || !(2..=BLOCK_LEN).contains(&taps) {
                return Err(Error::Unsupported {
                    what: format!(
                        "delta nets of {heads} heads, {key_dim} and {value_dim} wide, over {taps} positions on CUDA"
                    ),
                    supported: format!(
                        "up to {MOST} heads up to {MOST} wide, over 2 to {BLOCK_LEN} positions; `--device cpu` has no limit"
                    ),
                });
            }
        }
        let width = |d: &DeltaSpec| {
            (2 * d.key_heads * padded(d) + d.value_heads * (d.value_dim + 2)).next_multiple_of(4)
        };
        let Some(most) = part.delta.iter().map(width).max() else { return Ok(None) };
        let kernel = |name: &str| gpu.function("delta", name);
        Ok(Some(Made {
            rows: gpu.alloc(4 * rows * most, "delta nets")?,
            convolve: kernel("delta_convolve")?,
            rules: [(128, kernel("delta_rule_128")?), (MOST, kernel("delta_rule_256")?)],
            gate: kernel("delta_gate")?,
        }))
    }
}

/// `next`: what alone `out` is going to be multiplied with.
#[allow(clippy::too_many_arguments)]
pub(crate) fn delta_rule(
    cuda: &Cuda,
    step: &Step,
    kv: &Kv,
    layer: usize,
    spec: &DeltaSpec,
    w: &DeltaVectors<Vector>,
    x: &Act,
    out: &mut Act,
    next: Option<&Weight>,
) -> Result<()> {
    let DeltaSpec { key_heads, value_heads, key_dim, value_dim, sharing, taps, norm: norm_spec } = *spec;
    let DeltaVectors { taps: weights, decay, dt_bias, norm } = w;
    out.shape(x.rows(), spec.all_values())?;
    let [past, states] = kv.states(layer);
    let made =
        step.made.as_ref().ok_or_else(|| Error::Batch("a model without delta nets computes one".into()))?;
    let of = Delta {
        x: x.floats(),
        taps: weights.data.pointer(),
        decay: decay.data.pointer(),
        dt_bias: dt_bias.data.pointer(),
        past,
        states,
        made: made.rows.pointer(),
        positions: step.field(Field::Positions),
        slots: step.field(Field::States),
        key_heads: key_heads as i32,
        value_heads: value_heads as i32,
        key_dim: key_dim as i32,
        value_dim: value_dim as i32,
        padded: padded(spec) as i32,
        count: taps as i32,
        neighbours: i32::from(sharing == HeadSharing::Neighbours),
        stride: x.width() as i32,
        channels: spec.channels() as i32,
        pad: 0,
    };
    let y = out.floats();
    let [narrow, wide] = &made.rules;
    let rule = if key_dim <= narrow.0 { &narrow.1 } else { &wide.1 };
    let mut runs = step.runs().map(|(_, rows)| rows).peekable();
    // Runs of as many rows, one after the other, are one launch.
    while let Some(rows) = runs.next() {
        let (first, n, mut same) = (rows.start as i32, rows.len() as i32, 1);
        while runs.next_if(|next| next.len() == rows.len()).is_some() {
            same += 1;
        }
        let heads = Grid::new(2 * key_heads + value_heads, same, 32 * rows.len().clamp(1, ROWS));
        let blocks = (value_dim.div_ceil(COLUMNS) as u32, value_heads as u32, same as u32);
        let columns = Grid { blocks, threads: 256, shared: 0 };
        // SAFETY: the buffers have these rows, the weights these sizes, which making a step checked; each run has a state of its own.
        unsafe {
            cuda.launch(step, &made.convolve, heads, arguments![of, first, n])?;
            cuda.launch(step, rule, columns, arguments![of, first, n, y])?;
        }
    }
    let to = out_for(step, out, next)?;
    let z = x.floats() + 4 * spec.channels() as u64;
    let (stride, weight, eps, heads, n) =
        (of.stride, norm.data.pointer(), norm_spec.eps, of.value_heads, of.value_dim);
    let grid = Grid::new(x.rows(), 1, (32 * value_heads).clamp(32, 1024));
    // SAFETY: as above.
    unsafe { cuda.launch(step, &made.gate, grid, arguments![y, z, stride, weight, eps, heads, n, to]) }
}

pub(crate) fn delta_in(
    cuda: &Cuda,
    step: &Step,
    spec: &DeltaSpec,
    w: &DeltaWeights<Cuda>,
    kv: &Kv,
    layer: usize,
    s: &mut Scratch<Cuda>,
) -> Result<()> {
    let DeltaWeights { norm, input: weight, rule, out } = w;
    let x = input(cuda, step, spec.norm, norm.as_ref(), &s.x, &mut s.norm, weight)?;
    s.qkv.shape(x.rows(), weight.rows)?;
    product(cuda, step, weight, x, &mut s.qkv, None, false)?;
    delta_rule(cuda, step, kv, layer, spec, rule, &s.qkv, &mut s.attn, Some(out))
}
