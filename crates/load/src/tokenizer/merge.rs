//! The merge loop that byte-level BPE and SentencePiece BPE share: starting from characters or bytes, the best-ranked
//! neighbouring pair becomes one symbol until no pair has a rank (Sennrich et al. 2016, arXiv:1508.07909). A queue
//! makes it O(n log n), so a long run without spaces costs no more than the same text with spaces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// "No symbol" in links, and "not in the vocabulary" as an id.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of text that is one token so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Its token, or [`NONE`] for a character the vocabulary lacks.
    pub id: u32,
    /// First byte in the text.
    pub start: u32,
    /// One past its last byte; equal to `start` once merged into its left neighbour.
    pub end: u32,
    prev: u32,
    next: u32,
}

/// A pair that could be merged. Ordered by rank, then from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    // Both symbols' bytes when queued: a pair whose symbols have grown since is stale.
    len: u32,
    id: u32,
}

/// Buffers of the loop, kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Starts a new word.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends the next initial symbol, `start..end` of the text.
    pub fn push(&mut self, id: u32, start: u32, end: u32) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol { id, start, end, prev: index.wrapping_sub(1), next: NONE });
    }

    /// Merges until nothing merges. `pair` gives a pair's rank (lower first) and the merged token.
    /// Returns what is left, in order.
    pub fn run(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() as u32 {
            self.offer(right - 1, right, &pair);
        }
        while let Some(Reverse(c)) = self.queue.pop() {
            let (left, right) = (self.symbols[c.left as usize], self.symbols[c.right as usize]);
            let alive = left.start < left.end && right.start < right.end;
            if !alive || right.end - left.start != c.len {
                continue;
            }
            let merged = &mut self.symbols[c.left as usize];
            merged.id = c.id;
            merged.end = right.end;
            merged.next = right.next;
            let dead = &mut self.symbols[c.right as usize];
            dead.end = dead.start;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = c.left;
                self.offer(c.left, right.next, &pair);
            }
            if left.prev != NONE {
                self.offer(left.prev, c.left, &pair);
            }
        }
        self.symbols.iter().filter(|s| s.start < s.end)
    }

    fn offer(&mut self, left: u32, right: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, id)) = pair(l, r) {
            self.queue.push(Reverse(Candidate { rank, left, right, len: r.end - l.start, id }));
        }
    }
}
