//! Min-p (Nguyen et al. 2024): drops tokens less likely than a fraction of the likeliest.

use super::Candidates;

/// Keeps the tokens with `probability >= p * largest probability`, that is `logit >= max + ln p`.
pub(super) fn apply(c: &mut Candidates, p: f32) {
    if p > 0.0 {
        c.keep_from(c.max() + p.ln());
    }
}
