//! The likeliest tokens, found on the device: of a step's logits some hundred bytes a row are copied instead of a megabyte.

use crate::driver::{Argument, Gpu, Grid};
use crate::memory::{Buffer, Pinned};
use crate::ops::arguments;
use crate::{Act, Cuda, Step};
use kinfer_core::{Likely, Result};
use std::sync::Arc;

/// Most tokens of a row, as in `likeliest.cu`.
pub(crate) const MOST: usize = 256;
/// Elements that a thread takes.
const EACH: usize = 8;
/// Threads of a block at most, and in a first pass that is not the last: its blocks are many and small.
const THREADS: usize = 1024;
const FIRST: usize = 256;

/// Ranks on their way: a pass reads one buffer and writes the other, the last one writes to this machine's memory.
pub(crate) struct Ranks {
    /// Tokens of a row that there is room for.
    pub most: usize,
    buffers: [Buffer; 2],
    last: Pinned,
    found: Vec<Likely>,
}

impl Ranks {
    pub(crate) fn new(gpu: &Arc<Gpu>, rows: usize, vocab: usize, k: usize) -> Result<Ranks> {
        let most = k.next_power_of_two().max(64);
        let first = pieces(vocab, true).0 * most;
        let buffer = |each: usize| gpu.alloc(8 * rows * each, "the likeliest tokens");
        let buffers = [buffer(first)?, buffer(pieces(first, false).0 * most)?];
        Ok(Ranks { most, buffers, last: gpu.pinned(8 * rows * most)?, found: Vec::new() })
    }
}

/// Blocks to a row of `n`, and their threads.
fn pieces(n: usize, first: bool) -> (usize, usize) {
    match n.div_ceil(EACH).next_multiple_of(32) {
        threads @ ..=THREADS => (1, threads),
        _ if first => (n.div_ceil(EACH * FIRST), FIRST),
        _ => (n.div_ceil(EACH * THREADS), THREADS),
    }
}

/// The `k` tokens of each row with the largest logits; `k` is at most [`MOST`], and the number of tokens.
pub(crate) fn read<'a>(cuda: &Cuda, step: &'a mut Step, logits: &Act, k: usize) -> Result<&'a [Likely]> {
    step.ranks(logits.capacity(), logits.width(), k)?;
    let rows = logits.rows();
    let (mut n, mut from) = (logits.width(), logits.floats());
    for pass in 0.. {
        let Some(ranks) = &step.ranks else { break };
        let (pieces, threads) = pieces(n, pass == 0);
        let to = if pieces == 1 { ranks.last.pointer() } else { ranks.buffers[pass % 2].pointer() };
        let (floats, keys) = if pass == 0 { (from, 0u64) } else { (0u64, from) };
        let (count, wanted) = (n as i32, k as i32);
        let grid = Grid::new(pieces, rows, threads);
        // SAFETY: `from` has `rows` rows of `n`; there is room for `most` of each piece, and `k` is no more.
        unsafe {
            let kernel = &cuda.kernels()?.likeliest;
            cuda.launch(step, kernel, grid, arguments![floats, keys, count, wanted, to])?;
        }
        if pieces == 1 {
            break;
        }
        (n, from) = (pieces * k, to);
    }
    step.end_piece()?;
    step.wait()?;
    let Some(Ranks { last, found, .. }) = &mut step.ranks else { return Ok(&[]) };
    found.clear();
    let ranks: &[u64] = last.values(rows * k);
    found.extend(ranks.iter().map(|&rank| Likely { id: !(rank as u32), logit: logit((rank >> 32) as u32) }));
    Ok(found)
}

/// The logit of which a rank was made.
fn logit(ordered: u32) -> f32 {
    let bits = if ordered & 1 << 31 != 0 { ordered & !(1 << 31) } else { !ordered };
    f32::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_back_from_their_ranks() {
        for value in [0.0f32, -0.0, 1.5, -1.5, f32::MAX, f32::MIN, f32::NEG_INFINITY, f32::INFINITY, 1e-40] {
            let bits = value.to_bits();
            let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
            assert_eq!(logit(ordered).to_bits(), bits);
        }
        assert!(logit(u32::MAX).is_nan());
    }
}
