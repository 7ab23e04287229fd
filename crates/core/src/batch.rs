//! What one step computes: rows of tokens, prefill chunks and decodes mixed.

use crate::Draw;
use std::ops::Range;

/// Tokens of one KV block. The paged KV cache hands out ids of blocks of this many positions.
///
/// 32: two 16-lane tiles of keys, and small enough that a short chat wastes little.
pub const BLOCK_LEN: usize = 32;

/// The input of one step. One row per token; the rows of a sequence are contiguous and form a [`Run`].
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, `[rows]`.
    pub tokens: Vec<u32>,
    /// One entry per sequence in the step.
    pub runs: Vec<Run>,
    /// Block ids of all runs, concatenated; a run names its range.
    pub blocks: Vec<u32>,
    /// Rows whose outputs are wanted, ascending. The head is computed for these rows only.
    pub outputs: Vec<u32>,
    /// How each output's token is drawn, where that is all that is wanted: a device that draws has less to copy. Empty: logits are wanted.
    /// [`crate::Outputs`] says which of the two came.
    pub draws: Vec<Draw>,
}

/// Where a token came from. A backend may compute the rows of the two roles by different arithmetic, but never let the choice
/// depend on anything else: then a request's tokens do not depend on chunking or batch mates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Given by the caller: many at once, worth dequantising a weight for. See [`Role::of_prompt`].
    #[default]
    Prompt,
    /// Sampled: one per sequence and step.
    Generated,
}

impl Role {
    /// The role of the tokens of a prompt of `len` tokens. A prompt shorter than a cache block counts as generated: its few rows are
    /// not worth dequantising every weight for, which was a quarter of the time from a 1B model's file to its first token. It fills no
    /// block by itself, so a longer prompt finds none of its keys in the cache, unless it repeats generated text too.
    pub fn of_prompt(len: usize) -> Role {
        if len < BLOCK_LEN { Role::Generated } else { Role::Prompt }
    }
}

/// Consecutive tokens of one sequence and one role: a prefill chunk, or one generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Role of its tokens.
    pub role: Role,
    /// Its rows of the batch.
    pub rows: Range<usize>,
    /// Position of its first row in the sequence. Keys `0..start` are in the cache already, or in this batch. Convolutions keep only the
    /// last positions of a cache block: in a model with some, an earlier step has computed all positions before, and this is a multiple of
    /// [`BLOCK_LEN`], or the next position of its block, or the newest one once more.
    pub start: usize,
    /// Its range of [`Batch::blocks`]: block `i` holds positions `i * BLOCK_LEN ..`, and the table covers every
    /// position up to the run's last.
    pub blocks: Range<usize>,
    /// Where the runner keeps the sequence's state, in a model that has such ([`crate::ModelSpec::has_states`]): below
    /// [`crate::RunnerLimits::states`], and no other run's of the batch. A run from position 0 begins a new state there, any other one
    /// goes on where the last one ended.
    pub state: u32,
}

impl Batch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.runs.clear();
        self.blocks.clear();
        self.outputs.clear();
        self.draws.clear();
    }

    /// Appends `tokens` of a sequence whose first new position is `start` and whose block table is `blocks`;
    /// `output` asks for the logits after the last of them.
    pub fn push(&mut self, role: Role, tokens: &[u32], start: usize, blocks: &[u32], output: bool) {
        let (row, block) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.blocks.extend_from_slice(blocks);
        if output && !tokens.is_empty() {
            self.outputs.push((self.tokens.len() - 1) as u32);
        }
        let (rows, blocks) = (row..self.tokens.len(), block..self.blocks.len());
        self.runs.push(Run { role, rows, start, blocks, state: 0 });
    }

    /// [`Batch::push`] of a sequence whose state is `state`, see [`Run::state`].
    pub fn push_state(
        &mut self,
        state: u32,
        role: Role,
        tokens: &[u32],
        start: usize,
        blocks: &[u32],
        output: bool,
    ) {
        self.push(role, tokens, start, blocks, output);
        self.runs.last_mut().into_iter().for_each(|run| run.state = state);
    }

    /// Checks everything that a backend relies on, against the limits of a runner. Returns what is wrong.
    pub fn check(
        &self,
        max_rows: usize,
        max_outputs: usize,
        blocks: usize,
        vocab: usize,
    ) -> Result<(), String> {
        let rows = self.rows();
        if rows == 0 || rows > max_rows {
            return Err(format!("{rows} rows; this runner takes 1 to {max_rows}"));
        }
        if self.outputs.len() > max_outputs {
            return Err(format!(
                "{} output rows; this runner gives at most {max_outputs}",
                self.outputs.len()
            ));
        }
        if !self.draws.is_empty() && self.draws.len() != self.outputs.len() {
            return Err(format!("{} draws from {} output rows", self.draws.len(), self.outputs.len()));
        }
        if let Some(draw) = self.draws.iter().find(|draw| !draw.is_valid()) {
            return Err(format!("{draw:?}, whose values are not in their ranges"));
        }
        if let Some(t) = self.tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(format!("token id {t}; the vocabulary has {vocab}"));
        }
        if let Some(b) = self.blocks.iter().find(|&&b| b as usize >= blocks) {
            return Err(format!("block id {b}; the cache has {blocks} blocks"));
        }
        let mut next = 0;
        for r in &self.runs {
            if r.rows.start != next || r.rows.is_empty() {
                return Err(format!("run {:?} does not follow row {next}", r.rows));
            }
            next = r.rows.end;
            let need = r.start.saturating_add(r.rows.len()).div_ceil(BLOCK_LEN);
            if r.blocks.end > self.blocks.len() || r.blocks.len() < need {
                return Err(format!("run {:?} has {} blocks and needs {need}", r.rows, r.blocks.len()));
            }
        }
        if next != rows {
            return Err(format!("the runs cover {next} of {rows} rows"));
        }
        if !self.outputs.windows(2).all(|w| w[0] < w[1])
            || self.outputs.last().is_some_and(|&o| o as usize >= rows)
        {
            return Err("output rows must ascend and lie within the batch".into());
        }
        Ok(())
    }
}
