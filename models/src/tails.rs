//! What the cache has of convolutions, which keep only the last positions of each block.

use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, Error, ModelSpec, Result, Run};

/// How far each cache block is computed. Keys stay where they are written, and rows of a step may read those of other rows; the tail of
/// a convolution moves on, and is read before it is written. So a run has to go on where its sequence ended with an earlier step.
pub(crate) struct Tails {
    /// Positions of each block; with [`BUSY`] while a batch is checked that writes to it.
    computed: Vec<u8>,
}

const BUSY: u8 = 0x80;
const FULL: u8 = BLOCK_LEN as u8;
const _: () = assert!(BLOCK_LEN < BUSY as usize);

impl Tails {
    /// For a cache of `blocks` blocks; `None`: the model has no convolutions.
    pub fn new(spec: &ModelSpec, blocks: usize) -> Option<Self> {
        let some = spec.layers.iter().any(|l| l.mixer.conv().is_some());
        some.then(|| Tails { computed: vec![0; blocks] })
    }

    /// Takes over a checked batch.
    ///
    /// # Errors
    /// [`Error::Batch`] for a run that neither continues a block, nor repeats its newest position, nor begins one behind a full one; and
    /// for one that reads or writes blocks that another one writes.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        let checked = self.check(batch);
        for (block, _) in batch.runs.iter().flat_map(|run| written(batch, run)) {
            self.computed[block] &= !BUSY;
        }
        checked?;
        for (block, end) in batch.runs.iter().flat_map(|run| written(batch, run)) {
            self.computed[block] = end;
        }
        Ok(())
    }

    fn check(&mut self, batch: &Batch) -> Result<()> {
        let refuse = |run: &Run, block: usize, problem: String| {
            Err(Error::Batch(format!(
                "run {:?} begins at position {}, but {problem} (block {block}); a model with convolutions goes on where an earlier step \
                 ended, or once more with the newest position, or from a multiple of {BLOCK_LEN}",
                run.rows, run.start
            )))
        };
        for run in &batch.runs {
            for (block, _) in written(batch, run) {
                if self.computed[block] & BUSY != 0 {
                    return refuse(run, block, "another run of this step writes to the same block".into());
                }
                self.computed[block] |= BUSY;
            }
        }
        for run in &batch.runs {
            let (at, slot) = (run.start / BLOCK_LEN, (run.start % BLOCK_LEN) as u8);
            let table = &batch.blocks[run.blocks.clone()];
            if at > 0 && self.computed[table[at - 1] as usize] != FULL {
                let problem =
                    format!("earlier steps have not computed all positions before {}", at * BLOCK_LEN);
                return refuse(run, table[at - 1] as usize, problem);
            }
            let computed = self.computed[table[at] as usize] & !BUSY;
            if slot > 0 && computed != slot && computed != slot + 1 {
                let end = at * BLOCK_LEN + usize::from(computed);
                return refuse(
                    run,
                    table[at] as usize,
                    format!("its block is computed up to position {end}"),
                );
            }
        }
        Ok(())
    }
}

/// The blocks that a run writes to, and how many positions of each are computed then.
fn written(batch: &Batch, run: &Run) -> impl Iterator<Item = (usize, u8)> {
    let end = run.start + run.rows.len();
    let table = batch.blocks[run.blocks.clone()].iter().enumerate();
    table
        .take(end.div_ceil(BLOCK_LEN))
        .skip(run.start / BLOCK_LEN)
        .map(move |(at, &block)| (block as usize, (end - at * BLOCK_LEN).min(BLOCK_LEN) as u8))
}
