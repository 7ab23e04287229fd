//! Logit bias: a constant per token.

/// Adds each bias to its token's logit. The last entry of a token counts.
pub(super) fn apply(logits: &mut [f32], bias: &[(u32, f32)]) {
    for (i, &(id, b)) in bias.iter().enumerate() {
        let last = !bias[i + 1..].iter().any(|later| later.0 == id);
        if let (true, Some(l)) = (last, logits.get_mut(id as usize)) {
            *l += b;
        }
    }
}

/// Makes sure that none of `ids` is drawn.
pub(super) fn ban(logits: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(l) = logits.get_mut(id as usize) {
            *l = f32::NEG_INFINITY;
        }
    }
}
