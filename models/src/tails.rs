//! What the cache has of convolutions, which keep only the last positions of each block.

use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, Error, ModelSpec, Result, Run};

/// How far each cache block is computed. A run that begins elsewhere in a block would read what is not there any more: keys stay
/// where they are written, but the tail of a convolution moves on.
pub(crate) struct Tails {
    /// Of each block.
    computed: Vec<u8>,
}

impl Tails {
    /// For a cache of `blocks` blocks; `None`: the model has no convolutions.
    pub fn new(spec: &ModelSpec, blocks: usize) -> Option<Self> {
        let some = spec.layers.iter().any(|l| l.mixer.conv().is_some());
        some.then(|| Tails { computed: vec![0; blocks] })
    }

    /// Takes over a checked batch.
    ///
    /// # Errors
    /// [`Error::Batch`] for a run that neither continues a block, nor repeats its newest position, nor begins one.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        for run in &batch.runs {
            let (at, slot) = (run.start / BLOCK_LEN, run.start % BLOCK_LEN);
            let Some(block) = batch.blocks[run.blocks.clone()].get(at).filter(|_| slot > 0) else { continue };
            let computed = usize::from(self.computed[*block as usize]);
            if computed != slot && computed != slot + 1 {
                return Err(Error::Batch(format!(
                    "run {:?} begins at position {}, but block {block} is computed up to position {}; models with convolutions can \
                     only go on from there, or from a multiple of {BLOCK_LEN}",
                    run.rows,
                    run.start,
                    at * BLOCK_LEN + computed
                )));
            }
        }
        for run in &batch.runs {
            self.advance(run, &batch.blocks[run.blocks.clone()]);
        }
        Ok(())
    }

    fn advance(&mut self, run: &Run, table: &[u32]) {
        let end = run.start + run.rows.len();
        for (at, &block) in table.iter().enumerate().take(end.div_ceil(BLOCK_LEN)).skip(run.start / BLOCK_LEN)
        {
            self.computed[block as usize] = (end - at * BLOCK_LEN).min(BLOCK_LEN) as u8;
        }
    }
}
