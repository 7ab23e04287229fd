//! Gated short convolutions.

use crate::driver::{Argument, Grid};
use crate::ops::{arguments, out_for, product};
use crate::stages::input;
use crate::step::Field;
use crate::{Act, Cuda, Kv, Step, Vector, Weight};
use kinfer_core::backend::{ConvWeights, Scratch};
use kinfer_core::{ConvSpec, Result};

/// Rows of a run that are computed at a time, at most.
const ROWS: usize = 16;
/// Channels of a block.
const CHANNELS: usize = 32;

/// `Convolution` of `kernels/cuda/rows.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Convolution {
    bcx: u64,
    taps: u64,
    tails: u64,
    positions: u64,
    tables: u64,
    blocks: u64,
    width: i32,
    count: i32,
}

/// `next`: what alone `out` is going to be multiplied with.
#[allow(clippy::too_many_arguments)]
pub(crate) fn short_conv(
    cuda: &Cuda,
    step: &Step,
    kv: &Kv,
    layer: usize,
    spec: &ConvSpec,
    taps: &Vector,
    bcx: &Act,
    out: &mut Act,
    next: Option<&Weight>,
) -> Result<()> {
    let ConvSpec { width, taps: count, norm: _ } = *spec;
    out.shape(bcx.rows(), width)?;
    let of = Convolution {
        bcx: bcx.floats(),
        taps: taps.data.pointer(),
        tails: kv.tails(layer),
        positions: step.field(Field::Positions),
        tables: step.field(Field::Tables),
        blocks: step.blocks(),
        width: width as i32,
        count: count as i32,
    };
    let to = out_for(step, out, next)?;
    let mut runs = step.runs().map(|(_, rows)| rows).peekable();
    // Runs of as many rows, one after the other, are one launch.
    while let Some(rows) = runs.next() {
        let (first, n, mut same) = (rows.start as i32, rows.len() as i32, 1);
        while runs.next_if(|next| next.len() == rows.len()).is_some() {
            same += 1;
        }
        let grid = Grid::new(out.padded() / CHANNELS, same, CHANNELS * rows.len().clamp(1, ROWS));
        // SAFETY: the buffers have these rows, the weights `count` taps, at most 32, of `width`; every position has a block of the cache.
        unsafe { cuda.launch(step, &cuda.kernels()?.short_conv, grid, arguments![of, first, n, to])? };
    }
    Ok(())
}

pub(crate) fn conv_in(
    cuda: &Cuda,
    step: &Step,
    spec: &ConvSpec,
    w: &ConvWeights<Cuda>,
    kv: &Kv,
    layer: usize,
    s: &mut Scratch<Cuda>,
) -> Result<()> {
    let ConvSpec { width: _, taps: _, norm: block_norm } = *spec;
    let ConvWeights { norm, bcx, taps, out } = w;
    let x = input(cuda, step, block_norm, norm.as_ref(), &s.x, &mut s.norm, bcx)?;
    s.qkv.shape(x.rows(), bcx.rows)?;
    product(cuda, step, bcx, x, &mut s.qkv, None, false)?;
    short_conv(cuda, step, kv, layer, spec, taps, &s.qkv, &mut s.attn, Some(out))
}
