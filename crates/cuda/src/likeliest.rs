//! The likeliest tokens, found on the device: of a step's logits some hundred bytes a row are copied instead of a megabyte.

use crate::driver::{Argument, Buffer, Gpu, Grid};
use crate::ops::arguments;
use crate::{Act, Cuda, Step};
use kinfer_core::{Likely, Result};
use std::sync::Arc;

/// Most tokens of a row.
pub(crate) const MOST: usize = 64;
/// Elements that a block sorts: `SORTED` of `rows.cu`.
const SORTED: usize = 4096;

/// Ranks on their way: a pass reads one buffer and writes the other.
pub(crate) struct Ranks {
    buffers: [Buffer; 2],
    host: Vec<u64>,
    found: Vec<Likely>,
}

impl Ranks {
    fn new(gpu: &Arc<Gpu>, rows: usize, vocab: usize) -> Result<Ranks> {
        let bytes = 8 * rows * MOST * vocab.div_ceil(SORTED);
        let buffer = || gpu.alloc(bytes, "the likeliest tokens");
        Ok(Ranks { buffers: [buffer()?, buffer()?], host: Vec::new(), found: Vec::new() })
    }
}

/// The `k` tokens of each row with the largest logits; `k` is at most [`MOST`], and the number of tokens.
pub(crate) fn read<'a>(cuda: &Cuda, step: &'a mut Step, logits: &Act, k: usize) -> Result<&'a [Likely]> {
    if step.ranks.is_none() {
        step.ranks = Some(Ranks::new(&cuda.gpu, logits.capacity(), logits.width())?);
    }
    let rows = logits.rows();
    let (mut n, mut from, mut last) = (logits.width(), logits.floats(), 1);
    for pass in 0.. {
        let Some(ranks) = &step.ranks else { break };
        let (pieces, to) = (n.div_ceil(SORTED), ranks.buffers[pass % 2].pointer());
        let (floats, keys) = if pass == 0 { (from, 0u64) } else { (0u64, from) };
        let (count, wanted) = (n as i32, k as i32);
        let grid = Grid::new(pieces, rows, 256);
        // SAFETY: `from` has `rows` rows of `n`; of what a pass writes, `MOST` for each piece of the vocabulary is the most.
        unsafe {
            let kernel = &cuda.kernels()?.likeliest;
            cuda.launch(step, kernel, grid, arguments![floats, keys, count, wanted, to])?;
        }
        (n, from, last) = (pieces * k, to, pass % 2);
        if pieces == 1 {
            break;
        }
    }
    step.end_piece()?;
    let Some(Ranks { buffers, host, found }) = &mut step.ranks else { return Ok(&[]) };
    host.resize(rows * k, 0);
    buffers[last].read(host)?;
    found.clear();
    found.extend(host.iter().map(|&rank| Likely { id: !(rank as u32), logit: logit((rank >> 32) as u32) }));
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
