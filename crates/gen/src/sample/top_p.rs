//! Top-p, or nucleus sampling (Holtzman et al. 2019): keeps the likeliest tokens that reach a probability together.

use super::Candidates;
use super::weight::weight;

/// Keeps the shortest prefix, in order of rank, whose probabilities sum to `p` or more.
pub(super) fn apply(c: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    let max = c.max();
    let weight = |logit: f32| weight(logit - max);
    let total: u64 = c.items.iter().map(|c| weight(c.logit)).sum();
    let goal = (f64::from(p) * total as f64).ceil() as u64;
    let (mut sum, mut done) = (0, 0);
    // The nucleus is nearly always small: sort a little, and more only if that does not suffice.
    let mut sorted = 128;
    while done < c.items.len() {
        c.sort(sorted);
        for item in &c.items[done..sorted.min(c.items.len())] {
            sum += weight(item.logit);
            done += 1;
            if sum >= goal {
                return c.truncate(done);
            }
        }
        sorted *= 8;
    }
}
