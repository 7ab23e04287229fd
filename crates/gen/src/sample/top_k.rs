//! Top-k (Fan et al. 2018): keeps the k likeliest tokens.

use super::{Candidate, Candidates};

/// Collects the `k` tokens with the largest logits in order of rank, or all in any order for `k == 0`; `-inf` is never among them.
///
/// For small `k` one pass keeps at most `2k` tokens above a rising floor, instead of sorting the vocabulary.
pub(super) fn gather(logits: &[f32], k: usize, out: &mut Candidates) {
    let all = k == 0;
    let k = if all { logits.len() } else { k.min(logits.len()) };
    out.clear();
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // Equal to the floor is worse than the floor's token, whose id is lower.
        if logit > floor {
            // -0 is as likely as 0.
            out.items.push(Candidate { id: id as u32, logit: logit + 0.0 });
            if out.items.len() == 2 * k {
                out.items.select_nth_unstable_by(k - 1, Candidate::rank);
                out.items.truncate(k);
                floor = out.items[k - 1].logit;
            }
        }
    }
    if !all {
        out.sort(k);
        out.truncate(k);
    }
}
