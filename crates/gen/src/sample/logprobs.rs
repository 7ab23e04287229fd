//! Log-probabilities of the unmodified distribution.

use super::{Candidates, check, top_k};
use crate::{Logprob, TokenLogprobs};

/// The natural logarithm of the probability of `token` and of the `top` likeliest tokens, by the softmax of `logits`
/// (`[vocab]`). `scratch` is overwritten.
///
/// # Errors
/// What is wrong with the logits: a NaN or positive infinity among them, or all of them `-inf`.
pub fn logprobs(
    logits: &[f32],
    token: Option<u32>,
    top: usize,
    scratch: &mut Candidates,
) -> Result<TokenLogprobs, &'static str> {
    check(logits)?;
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(l));
    if max == f32::NEG_INFINITY {
        return Err(super::NONE_LEFT);
    }
    let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
    let norm = f64::from(max) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    scratch.clear();
    if top > 0 {
        top_k::gather(logits, top, scratch);
        scratch.sort(top);
    }
    Ok(TokenLogprobs {
        logprob: token.and_then(|t| logits.get(t as usize)).map(|&l| logprob(l)),
        top: scratch.items.iter().map(|c| Logprob { id: c.id, logprob: logprob(c.logit) }).collect(),
    })
}
