//! The tests of `kinfer bench`: steps of a model, timed one by one.

use kinfer::step::{BLOCK_LEN, Batch, Draw, Role, Runner, RunnerLimits};
use kinfer::{KvTypes, Model};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a test computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A prompt.
    Prefill,
    /// Tokens one after the other.
    Decode,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it computes.
    pub kind: Kind,
    /// Tokens of the prompt, or to generate in each sequence.
    pub tokens: usize,
    /// Tokens in the cache of each sequence before it begins.
    pub depth: usize,
    /// Sequences side by side.
    pub parallel: usize,
    /// Most rows of a prompt's step.
    pub ubatch: usize,
}

impl Case {
    /// Tokens of all sequences together.
    pub fn all_tokens(&self) -> usize {
        self.tokens * self.parallel
    }

    /// Steps, each of which reads the weights once.
    pub fn steps(&self) -> usize {
        match self.kind {
            Kind::Prefill => self.tokens.div_ceil(self.ubatch),
            Kind::Decode => self.tokens,
        }
    }
}

impl fmt::Display for Case {
    /// llama-bench's names: `pp512`, `tg128 @ d4096`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
        };
        write!(f, "{kind}{}", self.tokens)?;
        if self.depth > 0 {
            write!(f, " @ d{}", self.depth)?;
        }
        if self.parallel > 1 {
            write!(f, " x{}", self.parallel)?;
        }
        Ok(())
    }
}

/// One repetition.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The time that its steps took.
    pub time: Duration,
    /// The likeliest token after each step that gave one.
    pub tokens: Vec<u32>,
}

/// A model with room for all tests.
pub struct Bench {
    runner: Box<dyn Runner>,
    vocab: usize,
    /// Blocks of each sequence.
    blocks: Vec<Vec<u32>>,
    /// Depth that each sequence's cache is filled to.
    filled: Vec<usize>,
    batch: Batch,
}

impl Bench {
    /// Allocates for the largest of `cases`.
    pub fn new(model: &Arc<Model>, cases: &[Case], kv: KvTypes) -> anyhow::Result<Self> {
        let most = |of: fn(&Case) -> usize| cases.iter().map(of).max().unwrap_or(1);
        let sequences = most(|c| c.parallel);
        let each = most(|c| c.depth + c.tokens).div_ceil(BLOCK_LEN);
        let limits = RunnerLimits {
            rows: most(|c| c.ubatch.min(c.tokens.max(c.depth)).max(c.parallel)),
            outputs: sequences,
            logits: true,
            blocks: sequences * each,
            states: sequences,
            context: each * BLOCK_LEN,
            kv,
        };
        let runner = model.runner(limits)?;
        let blocks = (0..sequences).map(|s| (s * each..(s + 1) * each).map(|b| b as u32).collect()).collect();
        let vocab = model.spec().vocab;
        Ok(Self { runner, vocab, blocks, filled: vec![0; sequences], batch: Batch::default() })
    }

    /// Fills the cache to the test's depth, and computes something.
    pub fn prepare(&mut self, case: &Case, warm_up: bool) -> anyhow::Result<()> {
        for sequence in 0..case.parallel {
            if self.filled[sequence] != case.depth {
                self.prefill(sequence, 0, case.depth, case.ubatch)?;
                self.filled[sequence] = case.depth;
            }
        }
        if warm_up {
            let tokens = match case.kind {
                Kind::Prefill => case.tokens,
                // A few tokens wake the threads and touch the weights.
                Kind::Decode => case.tokens.min(16),
            };
            self.once(&Case { tokens, ..*case })?;
        }
        Ok(())
    }

    /// Runs a test `repetitions` times; `tick` is called after each.
    pub fn run(
        &mut self,
        case: &Case,
        repetitions: usize,
        mut tick: impl FnMut(),
    ) -> anyhow::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for _ in 0..repetitions {
            runs.push(self.once(case)?);
            tick();
        }
        Ok(runs)
    }

    fn once(&mut self, case: &Case) -> anyhow::Result<Run> {
        // What was computed beyond the depth may have moved on what convolutions keep of its block, and has moved on states.
        let slot = if self.runner.has_states() { case.depth } else { case.depth % BLOCK_LEN };
        for sequence in (0..case.parallel).filter(|_| slot > 0) {
            self.prefill(sequence, case.depth - slot, slot, case.ubatch)?;
        }
        match case.kind {
            Kind::Prefill => self.prefill(0, case.depth, case.tokens, case.ubatch),
            Kind::Decode => self.decode(case),
        }
    }

    /// Computes `count` tokens of a sequence from position `start` on.
    fn prefill(&mut self, sequence: usize, start: usize, count: usize, ubatch: usize) -> anyhow::Result<Run> {
        let prompt: Vec<u32> = (start..start + count).map(|at| token(sequence, at, self.vocab)).collect();
        let mut run = Run { time: Duration::ZERO, tokens: Vec::new() };
        let (mut at, role) = (start, Role::of_prompt(start + count));
        for chunk in prompt.chunks(ubatch) {
            self.batch.clear();
            let last = at + chunk.len() == start + count;
            self.batch.push_state(sequence as u32, role, chunk, at, &self.blocks[sequence], last);
            at += chunk.len();
            self.step(&mut run)?;
        }
        Ok(run)
    }

    /// Generates in all sequences of the test side by side, from the same tokens in each repetition.
    fn decode(&mut self, case: &Case) -> anyhow::Result<Run> {
        let mut run = Run { time: Duration::ZERO, tokens: Vec::with_capacity(case.all_tokens()) };
        let mut next: Vec<u32> = (0..case.parallel).map(|s| token(s, case.depth, self.vocab)).collect();
        for i in 0..case.tokens {
            self.batch.clear();
            for (state, (&token, blocks)) in (0..).zip(next.iter().zip(&self.blocks)) {
                self.batch.push_state(state, Role::Generated, &[token], case.depth + i, blocks, true);
            }
            self.step(&mut run)?;
            next.copy_from_slice(&run.tokens[i * case.parallel..]);
        }
        Ok(run)
    }

    /// Times the batch's step and appends the likeliest tokens of its outputs.
    fn step(&mut self, run: &mut Run) -> anyhow::Result<()> {
        self.batch.draws.resize(self.batch.outputs.len(), Draw::GREEDY);
        let start = Instant::now();
        let outputs = self.runner.step(&self.batch).map_err(kinfer::Error::from)?;
        run.time += start.elapsed();
        for i in 0..self.batch.outputs.len() {
            run.tokens.push(match outputs.drawn.get(i) {
                Some(drawn) => drawn.map_err(|what| anyhow::anyhow!("{what}"))?,
                None => likeliest(outputs.row(i)),
            });
        }
        Ok(())
    }
}

/// The token at a position of a sequence: any, but the same each time (a step of SplitMix64).
fn token(sequence: usize, at: usize, vocab: usize) -> u32 {
    let mut x = (((sequence as u64) << 32) + at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) % vocab.max(1) as u64) as u32
}

/// The index of the largest value, the first one of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > best {
            (best, at) = (logit, i);
        }
    }
    at as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_steps() {
        let pp = Case { kind: Kind::Prefill, tokens: 513, depth: 0, parallel: 1, ubatch: 512 };
        assert_eq!((pp.to_string().as_str(), pp.steps(), pp.all_tokens()), ("pp513", 2, 513));
        let tg = Case { kind: Kind::Decode, tokens: 16, depth: 64, parallel: 4, ubatch: 512 };
        assert_eq!((tg.to_string().as_str(), tg.steps(), tg.all_tokens()), ("tg16 @ d64 x4", 16, 64));
    }

    #[test]
    fn prompts_are_the_same_each_time_and_differ_by_sequence() {
        let prompt = |s| (0..100).map(|at| token(s, at, 1000)).collect::<Vec<_>>();
        assert_eq!(prompt(0), prompt(0));
        assert_ne!(prompt(0), prompt(1));
        assert!(prompt(0).iter().all(|&t| t < 1000));
    }

    #[test]
    fn likeliest_takes_the_first_of_equals() {
        assert_eq!(likeliest(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
