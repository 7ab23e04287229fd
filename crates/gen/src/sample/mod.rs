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
mod weight;

use kinfer_core::draw::{Draw, Drawn, NONE_LEFT, NOT_FINITE};

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
    /// drawn. `unit` is what is random, from 0 (included) to 1: see [`Rng::unit`].
    ///
    /// # Errors
    /// What is wrong with the logits: a NaN or positive infinity among them, or no token left to draw.
    pub fn draw(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: &[u32],
        banned: &[u32],
        unit: f64,
    ) -> Drawn {
        check(logits)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        bias::apply(&mut self.logits, &sampling.logit_bias);
        bias::ban(&mut self.logits, banned);
        penalties::apply(&mut self.logits, sampling, history, &mut self.recent);
        self.finish(&sampling.draw(unit))
    }

    /// Draws from logits as they are.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn draw_unchanged(&mut self, logits: &[f32], draw: &Draw) -> Drawn {
        check(logits)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.finish(draw)
    }

    /// What follows bias and penalties.
    fn finish(&mut self, draw: &Draw) -> Drawn {
        if draw.temperature == 0.0 {
            return greedy::argmax(&self.logits).ok_or(NONE_LEFT);
        }
        let c = &mut self.candidates;
        top_k::gather(&self.logits, draw.top_k, c);
        top_p::apply(c, draw.top_p);
        min_p::apply(c, draw.min_p);
        temperature::apply(c, draw.temperature);
        c.draw(draw.unit).ok_or(NONE_LEFT)
    }
}

impl Sampling {
    /// What follows bias and penalties, with what is random.
    fn draw(&self, unit: f64) -> Draw {
        let Sampling { temperature, top_k, top_p, min_p, .. } = *self;
        Draw { temperature, top_k, top_p, min_p, unit }
    }

    /// The same, if there is neither a bias nor a penalty.
    pub fn draw_of_unchanged(&self, unit: f64) -> Option<Draw> {
        (self.logit_bias.is_empty() && !penalties::any(self)).then(|| self.draw(unit))
    }
}

/// Refuses logits that have no softmax. A fold without an early exit, so that it vectorises.
fn check(logits: &[f32]) -> Result<(), &'static str> {
    let bad = logits.iter().fold(false, |bad, &l| bad | l.is_nan() | (l == f32::INFINITY));
    if bad { Err(NOT_FINITE) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
