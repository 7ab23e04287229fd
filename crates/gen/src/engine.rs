//! The step loop: `schedule → runner.step → sample → postprocess`.

use crate::sample::{Candidates, Sampler};
use crate::scheduler::{Chunk, Scheduler};
use crate::sequence::{Row, Sequence, Tools};
use crate::{Error, Event, Limits, Request, Result, ScoreRequest, TokenLogprobs, Vocabulary};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, Role, Runner, RunnerLimits};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What an engine is built for. The rows of a micro-batch, its outputs and the blocks of the cache are the runner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What requests are validated against.
    pub limits: Limits,
    /// Most rows between two tokens of a running generation; cut into micro-batches of the runner's size.
    pub batch: usize,
    /// Most sequences that run side by side.
    pub parallel: usize,
}

impl Options {
    /// Checks that an engine with these options can work on a runner with such limits.
    ///
    /// # Errors
    /// [`Error::Param`] for a cache smaller than the context, a batch smaller than the number of sequences, or a limit
    /// of 0.
    pub fn check(&self, runner: &RunnerLimits) -> Result<()> {
        let at_least = |name, expected, got: usize, min: usize| match got >= min {
            true => Ok(()),
            false => Err(Error::Param { name, expected, got: got.to_string() }),
        };
        let blocks = self.limits.context.div_ceil(BLOCK_LEN);
        at_least("context", "at least 2 tokens", self.limits.context, 2)?;
        at_least("parallel", "at least 1", self.parallel, 1)?;
        at_least("batch", "at least the number of parallel sequences", self.batch, self.parallel)?;
        at_least("micro-batch", "at least 1", runner.rows, 1)?;
        at_least("outputs", "at least 1", runner.outputs, 1)?;
        at_least("states", "at least the number of parallel sequences", runner.states, self.parallel)?;
        at_least("cache blocks", "enough for one whole context", runner.blocks, blocks)
    }
}

/// Runs requests on one runner. Does nothing by itself: every [`Engine::step`] is called from outside.
pub struct Engine {
    runner: Box<dyn Runner>,
    vocab: Arc<dyn Vocabulary>,
    options: Options,
    scheduler: Scheduler,
    /// All end-of-generation tokens.
    eog: Vec<u32>,
    // What follows is scratch, kept for its memory.
    sampler: Sampler,
    candidates: Candidates,
    plan: Vec<Chunk>,
    batch: Batch,
    /// The sequences of the micro-batch, and the rows of each.
    runs: Vec<Chunk>,
    bytes: Vec<u8>,
}

impl Engine {
    /// An engine on `runner`.
    ///
    /// # Errors
    /// See [`Options::check`].
    pub fn new(runner: Box<dyn Runner>, vocab: Arc<dyn Vocabulary>, options: Options) -> Result<Self> {
        let of = runner.limits();
        options.check(&of)?;
        let Options { limits, batch, parallel } = options;
        Ok(Self {
            eog: (0..limits.vocab as u32).filter(|&id| vocab.is_eog(id)).collect(),
            scheduler: Scheduler::new(of.blocks, batch, parallel, runner.has_states()),
            sampler: Sampler::new(limits.vocab),
            candidates: Candidates::with_capacity(limits.vocab),
            plan: Vec::with_capacity(parallel),
            batch: Batch::default(),
            runs: Vec::with_capacity(parallel),
            bytes: Vec::new(),
            runner,
            vocab,
            options,
        })
    }

    /// What requests are validated against.
    pub fn limits(&self) -> Limits {
        self.options.limits
    }

    /// Queues a generation, which reports to `events`. When nobody listens there any more, it ends.
    pub fn submit(&mut self, request: Request, events: Sender<Result<Event>>) {
        self.queue(Sequence::generate(request, events));
    }

    /// Queues the scoring of a text, which reports to `reply`: for each token what [`TokenLogprobs`] says.
    pub fn submit_score(&mut self, request: ScoreRequest, reply: Sender<Result<Vec<TokenLogprobs>>>) {
        self.queue(Sequence::score(request, reply));
    }

    fn queue(&mut self, mut sequence: Sequence) {
        if sequence.limits() == self.options.limits {
            self.scheduler.submit(sequence);
        } else {
            sequence.fail(Error::ForeignRequest { request: sequence.limits(), engine: self.options.limits });
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Computes one schedule: the next token of each running generation, and prompt chunks as far as the batch goes.
    pub fn step(&mut self) {
        self.scheduler.reap();
        self.scheduler.schedule(&mut self.plan);
        let mut next = 0;
        while next < self.plan.len() {
            self.scheduler.running.iter_mut().for_each(Sequence::end_if_cancelled);
            self.fill(&mut next);
            if !self.runs.is_empty() {
                self.compute();
            }
        }
        self.scheduler.reap();
    }

    /// Takes the next rows of the plan, from its chunk `next` on, into a micro-batch.
    fn fill(&mut self, next: &mut usize) {
        let limits = self.runner.limits();
        self.batch.clear();
        self.runs.clear();
        while let Some(chunk) = self.plan.get_mut(*next) {
            let s = &self.scheduler.running[chunk.sequence];
            if s.ended {
                *next += 1;
                continue;
            }
            let (start, from) = (s.computed, s.outputs_from());
            let free = (limits.rows - self.batch.rows())
                .min(from.saturating_sub(start) + limits.outputs - self.batch.outputs.len());
            // A sequence that is computed again has drawn tokens of its own. They are a run of the next step: what convolutions and
            // delta nets keep is read from the step before.
            let (role, all) = match s.prompt.checked_sub(start) {
                Some(given) if given > 0 => (Role::of_prompt(s.prompt), given),
                _ => (Role::Generated, usize::MAX),
            };
            let rows = chunk.rows.min(free).min(all);
            if rows == 0 {
                return;
            }
            let (row, end) = (self.batch.rows(), start + rows);
            let blocks = &s.blocks[..end.div_ceil(BLOCK_LEN)];
            self.batch.push_state(s.state.unwrap_or(0), role, &s.tokens[start..end], start, blocks, false);
            self.batch.outputs.extend((start.max(from)..end).map(|p| (row + p - start) as u32));
            self.runs.push(Chunk { sequence: chunk.sequence, rows });
            chunk.rows -= rows;
            if chunk.rows > 0 {
                return;
            }
            *next += 1;
        }
    }

    /// Runs the micro-batch and uses its logits.
    fn compute(&mut self) {
        let Scheduler { running, blocks, .. } = &mut self.scheduler;
        // A device that draws has less to copy. One sequence that needs more needs all logits of the step.
        for run in &self.runs {
            let s = &running[run.sequence];
            let outputs = (s.computed + run.rows).saturating_sub(s.computed.max(s.outputs_from()));
            match s.draw() {
                Some(draw) => self.batch.draws.extend(std::iter::repeat_n(draw, outputs)),
                None if outputs == 0 => {}
                None => {
                    self.batch.draws.clear();
                    break;
                }
            }
        }
        let logits = match self.runner.step(&self.batch) {
            Ok(logits) => logits,
            Err(e) => {
                let e = Arc::new(e);
                for run in &self.runs {
                    running[run.sequence].fail(Error::Step(e.clone()));
                }
                return;
            }
        };
        let mut tools = Tools {
            vocab: &*self.vocab,
            eog: &self.eog,
            sampler: &mut self.sampler,
            scratch: &mut self.candidates,
            bytes: &mut self.bytes,
        };
        let mut output = 0;
        for run in &self.runs {
            let s = &mut running[run.sequence];
            let (start, from) = (s.computed, s.outputs_from());
            s.advance(run.rows, blocks);
            for position in start.max(from)..start + run.rows {
                if !s.ended {
                    let row = match logits.drawn.get(output) {
                        Some(&drawn) => Row::Drawn(drawn),
                        None => Row::All(logits.row(output)),
                    };
                    s.output(position, row, &mut tools);
                }
                output += 1;
            }
        }
    }
}
