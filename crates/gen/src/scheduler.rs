//! Which rows the next steps compute: prefill chunks and decodes of the running sequences, mixed.

use crate::blocks::Blocks;
use crate::sequence::Sequence;
use crate::states::States;
use std::collections::VecDeque;

/// Rows of a running sequence that are to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Index into [`Scheduler::running`].
    pub sequence: usize,
    /// Rows, more than 0.
    pub rows: usize,
}

/// The sequences, and the blocks of the cache that they use.
pub(crate) struct Scheduler {
    /// First come, first served; a preempted sequence goes back to the front.
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    pub running: Vec<Sequence>,
    pub blocks: Blocks,
    /// Where the model's sequences have such.
    states: Option<States>,
    /// Most rows of a schedule.
    batch: usize,
    /// Most running sequences.
    parallel: usize,
}

impl Scheduler {
    pub fn new(blocks: usize, batch: usize, parallel: usize, has_states: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::with_capacity(parallel),
            blocks: Blocks::new(blocks),
            states: has_states.then(|| States::new(parallel)),
            batch,
            parallel,
        }
    }

    pub fn submit(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Ends what was cancelled, and forgets what has ended.
    pub fn reap(&mut self) {
        self.waiting.iter_mut().chain(&mut self.running).for_each(Sequence::end_if_cancelled);
        for ended in self.running.iter_mut().filter(|s| s.ended) {
            match &mut self.states {
                Some(states) => ended.retire(&mut self.blocks, states),
                None => ended.release(&mut self.blocks, None),
            }
        }
        self.running.retain(|s| !s.ended);
        self.waiting.retain(|s| !s.ended);
    }

    /// Plans the next rows. Decodes come first, so that no prompt holds up a running generation; what is left of the
    /// batch goes to prompts in order of age. Every planned row has its block.
    pub fn schedule(&mut self, plan: &mut Vec<Chunk>) {
        plan.clear();
        let mut budget = self.batch;
        for decode in [true, false] {
            for s in self.running.iter_mut().filter(|s| (s.pending() == 1) == decode) {
                s.rows = s.pending().min(budget);
                budget -= s.rows;
            }
        }
        let waiting = self.waiting.len();
        let mut i = 0;
        while i < self.running.len() {
            self.reserve(i);
            i += 1;
        }
        // Whoever was preempted a moment ago would only push out another one.
        if self.waiting.len() == waiting {
            self.admit(budget);
        }
        let chunks = self.running.iter().enumerate().map(|(sequence, s)| Chunk { sequence, rows: s.rows });
        plan.extend(chunks.filter(|c| c.rows > 0));
    }

    /// Gives sequence `i` the blocks for its rows. If there are none left, ended sequences are forgotten; then younger sequences
    /// give back theirs, the youngest first; if there is no younger one, it gives back its own and waits.
    fn reserve(&mut self, i: usize) {
        while let Some(s) = self.running.get_mut(i)
            && !s.extend_blocks(s.computed + s.rows, &mut self.blocks)
        {
            if self.states.as_mut().is_some_and(|states| states.forget(&mut self.blocks)) {
                continue;
            }
            if let Some(mut youngest) = self.running.pop() {
                youngest.release(&mut self.blocks, self.states.as_mut());
                self.waiting.push_front(youngest);
            }
        }
    }

    /// Lets sequences in while all of their tokens so far find blocks.
    fn admit(&mut self, mut budget: usize) {
        while self.running.len() < self.parallel
            && budget > 0
            && let Some(next) = self.waiting.front()
        {
            let all = next.tokens.len().div_ceil(kinfer_core::batch::BLOCK_LEN);
            let (shared, idle) = match &self.states {
                Some(_) => (0, 0),
                None => self.blocks.matching(next.shareable()),
            };
            let needed = all - shared;
            let continued = self.states.as_mut().and_then(|states| states.continued(next.shareable()));
            let own = continued.as_ref().map_or(0, |kept| kept.blocks.len());
            // Shared blocks that are idle stop being available.
            while needed.saturating_sub(own) + idle > self.blocks.available() {
                if !self.states.as_mut().is_some_and(|states| states.forget(&mut self.blocks)) {
                    if let (Some(kept), Some(states)) = (continued, &mut self.states) {
                        states.keep(kept);
                    }
                    return;
                }
            }
            let Some(mut next) = self.waiting.pop_front() else { return };
            let admitted = match &mut self.states {
                Some(states) => next.admit_state(continued, &mut self.blocks, states),
                None => next.admit(&mut self.blocks),
            };
            if !admitted {
                next.release(&mut self.blocks, self.states.as_mut());
                return self.waiting.push_front(next);
            }
            next.rows = next.pending().min(budget);
            budget -= next.rows;
            self.running.push(next);
        }
    }
}
