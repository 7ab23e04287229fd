//! Penalties on recent tokens: repeat (Keskar et al. 2019), frequency and presence (as in OpenAI's API).

use super::Sampling;

/// Whether there are any.
pub(super) fn any(s: &Sampling) -> bool {
    s.repeat_penalty != 1.0 || s.frequency_penalty != 0.0 || s.presence_penalty != 0.0
}

/// Applies the three penalties to the tokens among the last `repeat_last_n` of `history`. `recent` is scratch.
pub(super) fn apply(logits: &mut [f32], s: &Sampling, history: &[u32], recent: &mut Vec<u32>) {
    if !any(s) {
        return;
    }
    let n = s.repeat_last_n.unwrap_or(usize::MAX).min(history.len());
    recent.clear();
    recent.extend_from_slice(&history[history.len() - n..]);
    recent.sort_unstable();
    for same in recent.chunk_by(|a, b| a == b) {
        let Some(l) = logits.get_mut(same[0] as usize) else { continue };
        *l = if *l > 0.0 { *l / s.repeat_penalty } else { *l * s.repeat_penalty };
        *l -= same.len() as f32 * s.frequency_penalty + s.presence_penalty;
    }
}
