//! The tokens that are still in the draw.

use super::weight::weight;
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

impl Candidate {
    /// Likelier first, equally likely ones by id.
    pub fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Tokens that are still in the draw: a prefix in order of rank, then the rest in any order, each less likely than
/// the prefix.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The tokens.
    pub items: Vec<Candidate>,
    /// Length of the ordered prefix.
    sorted: usize,
}

impl Candidates {
    /// None yet, with memory for `n`.
    pub fn with_capacity(n: usize) -> Self {
        Self { items: Vec::with_capacity(n), sorted: 0 }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.items.clear();
        self.sorted = 0;
    }

    /// Brings the `n` likeliest to the front, in order.
    pub fn sort(&mut self, n: usize) {
        let n = n.min(self.items.len());
        if n <= self.sorted {
            return;
        }
        let rest = &mut self.items[self.sorted..];
        let more = n - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more - 1, Candidate::rank);
        }
        rest[..more].sort_unstable_by(Candidate::rank);
        self.sorted = n;
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.items.truncate(n);
        self.sorted = self.sorted.min(n);
    }

    /// The largest logit; `-inf` of none.
    pub fn max(&self) -> f32 {
        match self.sorted {
            0 => self.items.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit)),
            _ => self.items[0].logit,
        }
    }

    /// Keeps the tokens whose logit is at least `floor`.
    pub fn keep_from(&mut self, floor: f32) {
        let sorted = self.items[..self.sorted].partition_point(|c| c.logit >= floor);
        if sorted < self.sorted {
            return self.truncate(sorted);
        }
        self.items.retain(|c| c.logit >= floor);
    }

    /// Draws by the softmax of the logits: the token in whose share of the total `unit`, from 0 (included) to 1, falls.
    pub fn draw(&self, unit: f64) -> Option<u32> {
        let max = self.max();
        let weight = |c: &Candidate| weight(c.logit - max);
        let total: u64 = self.items.iter().map(weight).sum();
        let mut left = (unit * total as f64) as u64;
        let mut last = None;
        for c in &self.items {
            let w = weight(c);
            if w > 0 {
                last = Some(c.id);
                if left < w {
                    break;
                }
                left -= w;
            }
        }
        // Rounding may leave a little after the last one, where the total has more than 53 bits.
        last
    }
}
