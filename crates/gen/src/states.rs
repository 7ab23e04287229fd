//! Who has which of the runner's states, in models whose sequences have such: a state has taken in all of its sequence so far, and can
//! only go on at the end.
//!
//! So blocks are not shared. A sequence that has ended keeps its state and its blocks until they are needed for another one, and what
//! begins with all of its tokens goes on from there.

use crate::blocks::Blocks;
use std::collections::VecDeque;

/// States and their sequences.
#[derive(Debug)]
pub struct States {
    free: Vec<u32>,
    /// Ended sequences, the longest ago first.
    kept: VecDeque<Kept>,
}

/// What was computed of a sequence that has ended.
#[derive(Debug)]
pub struct Kept {
    /// Its tokens, as far as the state has taken them in.
    pub tokens: Vec<u32>,
    /// Blocks of all of them.
    pub blocks: Vec<u32>,
    /// Its state.
    pub state: u32,
}

impl States {
    /// Manages the states `0..count`.
    pub fn new(count: usize) -> Self {
        Self { free: (0..count as u32).rev().collect(), kept: VecDeque::with_capacity(count) }
    }

    /// Takes the ended sequence of the most tokens with which all of `tokens` begins.
    pub fn continued(&mut self, tokens: &[u32]) -> Option<Kept> {
        let fits = |(_, kept): &(usize, &Kept)| tokens.starts_with(&kept.tokens);
        let kept = self.kept.iter().enumerate().filter(fits).max_by_key(|(_, kept)| kept.tokens.len());
        kept.map(|(at, _)| at).and_then(|at| self.kept.remove(at))
    }

    /// Takes a state, if need be that of the sequence that ended the longest ago.
    pub fn alloc(&mut self, blocks: &mut Blocks) -> Option<u32> {
        if self.free.is_empty() {
            self.forget(blocks);
        }
        self.free.pop()
    }

    /// Gives back a state.
    pub fn release(&mut self, state: u32) {
        self.free.push(state);
    }

    /// Keeps what was computed of an ended sequence.
    pub fn keep(&mut self, kept: Kept) {
        self.kept.push_back(kept);
    }

    /// Forgets the sequence that ended the longest ago, and gives back its blocks; `false`: there is none.
    pub fn forget(&mut self, blocks: &mut Blocks) -> bool {
        let Some(mut kept) = self.kept.pop_front() else { return false };
        blocks.release(&mut kept.blocks);
        self.free.push(kept.state);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_is_continued_and_the_oldest_forgotten() {
        let (mut states, mut blocks) = (States::new(3), Blocks::new(4));
        for n in [2, 5, 3] {
            let state = states.alloc(&mut blocks).unwrap();
            let block = blocks.alloc().unwrap();
            states.keep(Kept { tokens: (0..n).collect(), blocks: vec![block], state });
        }
        assert!(states.continued(&[0]).is_none());
        assert!(states.continued(&[1, 1, 2, 3, 4, 5]).is_none());
        let kept = states.continued(&[0, 1, 2, 3]).unwrap();
        assert_eq!((kept.tokens.len(), kept.state, kept.blocks.len()), (3, 2, 1));
        assert_eq!(blocks.available(), 1);
        // The one of two tokens ended first.
        assert_eq!((states.alloc(&mut blocks), blocks.available()), (Some(0), 2));
        assert!(states.continued(&[0, 1, 2]).is_none());
        states.release(0);
        assert_eq!((states.alloc(&mut blocks), blocks.available()), (Some(0), 2));
        assert!(states.forget(&mut blocks) && !states.forget(&mut blocks));
        assert_eq!((states.alloc(&mut blocks), blocks.available()), (Some(1), 3));
        assert_eq!(states.alloc(&mut blocks), None);
    }
}
