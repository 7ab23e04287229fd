//! Sampling: from logits to a token.
//!
//! The chain is, in this order: logit bias, penalties (repeat, frequency, presence), top-k, top-p, min-p, temperature,
//! then a draw. It is llama.cpp's default chain without the samplers that are off by default there, and with its
//! default values. Temperature 0 is greedy: after bias and penalties the likeliest token is taken.
//!
//! Of equally likely tokens the one with the lower id comes first, so the result is a function of logits, history,
//! parameters and random state alone.

mod bias;
mod candidates;
mod greedy;
mod logprobs;
mod min_p;
mod params;
mod penalties;
mod rng;
mod temperature;
mod top_k;
mod top_p;

use kinfer_core::Likely;

pub use candidates::{Candidate, Candidates};
pub use logprobs::logprobs;
pub use params::{Sampling, SamplingOverrides};
pub use rng::Rng;

/// Draws tokens. Holds the buffers of the chain, allocated for the vocabulary once.
#[derive(Debug)]
pub struct Sampler {
    /// The logits after bias and penalties. // [vocab]
    logits: Vec<f32>,
    candidates: Candidates,
    /// Scratch of the penalties: the recent tokens, sorted.
    recent: Vec<u32>,
}

impl Sampler {
    /// A sampler for `vocab` tokens.
    pub fn new(vocab: usize) -> Self {
        Self {
            logits: Vec::with_capacity(vocab),
            candidates: Candidates::with_capacity(vocab),
            recent: Vec::new(),
        }
    }

    /// Draws the token after `history` (prompt and drawn tokens). `logits`: `[vocab]`; tokens in `banned` are never
    /// drawn.
    ///
    /// # Errors
    /// What is wrong with the logits: a NaN or positive infinity among them, or no token left to draw.
    pub fn draw(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: &[u32],
        banned: &[u32],
        rng: &mut Rng,
    ) -> Result<u32, &'static str> {
        check(logits)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        bias::apply(&mut self.logits, &sampling.logit_bias);
        bias::ban(&mut self.logits, banned);
        penalties::apply(&mut self.logits, sampling, history, &mut self.recent);
        if sampling.temperature == 0.0 {
            return greedy::argmax(&self.logits).ok_or(NONE_LEFT);
        }
        top_k::gather(&self.logits, sampling.top_k, &mut self.candidates);
        self.finish(sampling, rng)
    }

    /// The same from the likeliest tokens alone, the likeliest first: as many as [`Sampling::enough`] says.
    ///
    /// # Errors
    /// As [`Sampler::draw`], for the logits that are there.
    pub fn draw_likeliest(
        &mut self,
        likeliest: &[Likely],
        sampling: &Sampling,
        rng: &mut Rng,
    ) -> Result<u32, &'static str> {
        if likeliest.iter().any(|l| l.logit.is_nan() || l.logit == f32::INFINITY) {
            return Err(NOT_FINITE);
        }
        if sampling.temperature == 0.0 {
            let first = likeliest.first().filter(|l| l.logit > f32::NEG_INFINITY);
            return first.map(|l| l.id).ok_or(NONE_LEFT);
        }
        top_k::take(likeliest, sampling.top_k, &mut self.candidates);
        self.finish(sampling, rng)
    }

    /// What follows top-k.
    fn finish(&mut self, sampling: &Sampling, rng: &mut Rng) -> Result<u32, &'static str> {
        let c = &mut self.candidates;
        top_p::apply(c, sampling.top_p);
        min_p::apply(c, sampling.min_p);
        temperature::apply(c, sampling.temperature);
        c.draw(rng.unit()).ok_or(NONE_LEFT)
    }
}

impl Sampling {
    /// How many of the likeliest tokens a draw looks at; `None`: it may be any.
    pub fn enough(&self) -> Option<usize> {
        let unchanged = self.logit_bias.is_empty() && !penalties::any(self);
        match (self.temperature == 0.0, self.top_k) {
            _ if !unchanged => None,
            (true, _) => Some(1),
            (false, 0) => None,
            (false, k) => Some(k),
        }
    }
}

const NONE_LEFT: &str = "no token that may be drawn";
const NOT_FINITE: &str = "a logit that is NaN or infinite";

/// Refuses logits that have no softmax. A fold without an early exit, so that it vectorises.
fn check(logits: &[f32]) -> Result<(), &'static str> {
    let bad = logits.iter().fold(false, |bad, &l| bad | l.is_nan() | (l == f32::INFINITY));
    if bad { Err(NOT_FINITE) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
