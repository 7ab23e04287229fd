//! Temperature: flattens (above 1) or sharpens (below 1) the distribution.

use super::Candidates;

/// Divides the logits, taken relative to the largest so that no small temperature overflows.
pub(super) fn apply(c: &mut Candidates, temperature: f32) {
    let max = c.max();
    for item in &mut c.items {
        item.logit = (item.logit - max) / temperature;
    }
}
