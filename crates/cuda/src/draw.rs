//! Drawing on the device: of a step's logits four bytes a row are copied instead of a megabyte.

use crate::driver::{Argument, Gpu, Grid};
use crate::memory::{Buffer, Pinned};
use crate::ops::arguments;
use crate::step::Field;
use crate::{Act, Cuda, Step};
use kinfer_core::draw::{Draw, Drawn, NONE_LEFT, NOT_FINITE};
use kinfer_core::{Error, Result};
use std::sync::Arc;

/// Most tokens that one is drawn from, as in `draw.cu`.
const MOST: usize = 256;
/// Elements that a thread takes.
const EACH: usize = 8;
/// Threads of a block at most, and in a first pass that is not the last: its blocks are many and small.
const THREADS: usize = 1024;
const FIRST: usize = 256;

/// How many of the likeliest tokens of each row these draws need; `None`: there are none, or one needs more than the device finds.
pub(crate) fn candidates(draws: &[Draw]) -> Option<usize> {
    let most = draws.iter().try_fold(0, |most, draw| Some(draw.candidates()?.max(most)));
    most.filter(|most| (1..=MOST).contains(most))
}

/// Ranks on their way: a pass reads one buffer and writes the other, the last one writes tokens to this machine's memory.
pub(crate) struct Ranks {
    /// Tokens of a row that there is room for.
    pub most: usize,
    buffers: [Buffer; 2],
    tokens: Pinned,
    drawn: Vec<Drawn>,
}

impl Ranks {
    pub(crate) fn new(gpu: &Arc<Gpu>, rows: usize, vocab: usize, k: usize) -> Result<Ranks> {
        let most = k.next_power_of_two().max(64);
        let first = pieces(vocab, true).0 * most;
        let buffer = |each: usize| gpu.alloc(8 * rows * each, "the likeliest tokens");
        let buffers = [buffer(first)?, buffer(pieces(first, false).0 * most)?];
        Ok(Ranks { most, buffers, tokens: gpu.pinned(4 * rows)?, drawn: Vec::new() })
    }
}

/// `Draws` of `draw.cu`: pointers to a number for each output.
#[derive(Clone, Copy)]
#[repr(C)]
struct Draws {
    temperature: u64,
    top_k: u64,
    top_p: u64,
    below: u64,
    low: u64,
    high: u64,
}

/// Blocks to a row of `n`, and their threads.
fn pieces(n: usize, first: bool) -> (usize, usize) {
    match n.div_ceil(EACH).next_multiple_of(32) {
        threads @ ..=THREADS => (1, threads),
        _ if first => (n.div_ceil(EACH * FIRST), FIRST),
        _ => (n.div_ceil(EACH * THREADS), THREADS),
    }
}

/// The token of each row, drawn from its `k` likeliest ones; `k` is at most [`MOST`], and the number of tokens.
pub(crate) fn read<'a>(cuda: &Cuda, step: &'a mut Step, logits: &Act, k: usize) -> Result<&'a [Drawn]> {
    let rows = logits.rows();
    if rows != step.outputs() {
        return Err(Error::Batch(format!("draws for {} rows, and logits of {rows}", step.outputs())));
    }
    step.ranks(logits.capacity(), logits.width(), k)?;
    let draws = Draws {
        temperature: step.field(Field::Temperature),
        top_k: step.field(Field::TopK),
        top_p: step.field(Field::TopP),
        below: step.field(Field::Below),
        low: step.field(Field::Low),
        high: step.field(Field::High),
    };
    let (mut n, mut from) = (logits.width(), logits.floats());
    for pass in 0.. {
        let Some(ranks) = &step.ranks else { break };
        let (pieces, threads) = pieces(n, pass == 0);
        let (to, tokens) = (ranks.buffers[pass % 2].pointer(), ranks.tokens.pointer());
        let (floats, keys) = if pass == 0 { (from, 0u64) } else { (0u64, from) };
        let (count, wanted) = (n as i32, k as i32);
        let grid = Grid::new(pieces, rows, threads);
        // SAFETY: `from` has `rows` rows of `n`; there is room for `most` of each piece, and `k` is no more; a draw and a token for each row.
        unsafe {
            let kernel = &cuda.kernels()?.draw;
            let arguments = arguments![floats, keys, count, wanted, to, draws, tokens];
            cuda.launch(step, kernel, grid, arguments)?;
        }
        if pieces == 1 {
            break;
        }
        (n, from) = (pieces * k, to);
    }
    step.end_piece()?;
    step.wait()?;
    let Some(Ranks { tokens, drawn, .. }) = &mut step.ranks else { return Ok(&[]) };
    drawn.clear();
    drawn.extend(tokens.values(rows).iter().map(|&token| match token {
        // As in `draw.cu`.
        u32::MAX => Err(NOT_FINITE),
        0xffff_fffe => Err(NONE_LEFT),
        id => Ok(id),
    }));
    Ok(drawn)
}
