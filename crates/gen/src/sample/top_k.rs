//! Top-k (Fan et al. 2018): keeps the k likeliest tokens.

use super::{Candidate, Candidates};

/// Collects the `k` tokens with the largest logits, or all for `k == 0`; `-inf` is never among them.
///
/// For small `k` one pass keeps at most `2k` tokens above a rising floor, instead of sorting the vocabulary.
pub(super) fn gather(logits: &[f32], k: usize, out: &mut Candidates) {
    let k = if k == 0 { logits.len() } else { k.min(logits.len()) };
    out.clear();
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // Equal to the floor is worse than the floor's token, whose id is lower.
        if logit > floor {
            out.items.push(Candidate { id: id as u32, logit });
            if out.items.len() == 2 * k {
                out.items.select_nth_unstable_by(k - 1, Candidate::rank);
                out.items.truncate(k);
                floor = out.items[k - 1].logit;
            }
        }
    }
    if out.items.len() > k {
        out.sort(k);
        out.truncate(k);
    }
}
