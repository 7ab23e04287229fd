//! Requests: validated once, trusted afterwards.

use crate::sample::Sampling;
use crate::{Error, Result};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a request wants besides its prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most tokens to draw; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// The generation ends before the first of these strings in its text.
    pub stop: Vec<String>,
    /// The generation ends at the first of these tokens, which adds no text.
    pub stop_tokens: Vec<u32>,
    /// End-of-generation tokens do not end the generation; they are never drawn.
    pub ignore_eog: bool,
    /// Report the log-probability of each token, and this many of the most likely ones.
    pub logprobs: Option<usize>,
    /// Tell thinking from answer by these tags; `None`: all text is answer.
    pub reasoning: Option<Reasoning>,
}

impl Params {
    /// Checks all that can be judged without a model; [`Request::new`] checks the rest too.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn check(&self) -> Result<()> {
        let Self { sampling, max_tokens, stop, reasoning, stop_tokens: _, ignore_eog: _, logprobs: _ } = self;
        sampling.check()?;
        let wrong = |name, expected, got: &str| Err(Error::Param { name, expected, got: got.into() });
        if *max_tokens == Some(0) {
            return wrong("max_tokens", "at least 1", "0");
        }
        if stop.iter().any(String::is_empty) {
            return wrong("stop", "strings that are not empty", "\"\"");
        }
        if reasoning.as_ref().is_some_and(|r| r.open.is_empty() || r.close.is_empty()) {
            return wrong("reasoning", "two tags that are not empty", "an empty tag");
        }
        Ok(())
    }
}

/// The tags between which a model thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasoning {
    /// Opens the thinking; recognised at the start of the reply only.
    pub open: String,
    /// Closes it.
    pub close: String,
    /// The prompt ends inside the thinking, so the reply starts there.
    pub starts_open: bool,
    /// Opens an answer that nothing was thought before.
    pub answer: Option<String>,
    /// The tags are made of control tokens, whose own text then belongs to the reply's.
    pub control: bool,
}

impl Reasoning {
    /// The channels of gpt-oss (OpenAI's harmony format): `analysis` is thinking, `final` the answer.
    pub fn harmony() -> Self {
        let answer = "<|channel|>final<|message|>";
        Self {
            open: "<|channel|>analysis<|message|>".into(),
            close: format!("<|end|><|start|>assistant{answer}"),
            starts_open: false,
            answer: Some(answer.into()),
            control: true,
        }
    }
}

impl Default for Reasoning {
    fn default() -> Self {
        Self {
            open: "<think>".into(),
            close: "</think>".into(),
            starts_open: false,
            answer: None,
            control: false,
        }
    }
}

/// What requests are validated against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of prompt and answer together.
    pub context: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
}

impl Limits {
    fn check_prompt(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        ids.iter().try_for_each(|&id| self.check_token("prompt", id))
    }

    fn check_token(&self, what: &'static str, id: u32) -> Result<()> {
        let Self { vocab, .. } = *self;
        if (id as usize) < vocab { Ok(()) } else { Err(Error::Token { what, id, vocab }) }
    }

    fn check_top(&self, top: usize) -> Result<()> {
        let expected = "at most the size of the vocabulary";
        if top <= self.vocab {
            Ok(())
        } else {
            Err(Error::Param { name: "logprobs", expected, got: top.to_string() })
        }
    }
}

/// A prompt and its parameters, known to be legal: it fits the context, and every parameter is in its range.
#[derive(Clone, Debug)]
pub struct Request {
    prompt: Vec<u32>,
    params: Params,
    limits: Limits,
    seed: u64,
    cancel: CancelToken,
}

impl Request {
    /// Validates a request.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::Token`], [`Error::Param`].
    pub fn new(prompt: Vec<u32>, params: Params, limits: Limits) -> Result<Self> {
        if prompt.len() >= limits.context {
            return Err(Error::PromptTooLong { prompt: prompt.len(), context: limits.context });
        }
        limits.check_prompt(&prompt)?;
        params.stop_tokens.iter().try_for_each(|&id| limits.check_token("stop_tokens", id))?;
        params.sampling.logit_bias.iter().try_for_each(|b| limits.check_token("logit_bias", b.0))?;
        limits.check_top(params.logprobs.unwrap_or(0))?;
        params.check()?;
        // The seed of the standard library's hash maps is random per instance.
        let seed =
            params.sampling.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        Ok(Self { prompt, params, limits, seed, cancel: CancelToken::new() })
    }

    /// The same request, cancelled by `token`.
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// The prompt's token ids.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What it was validated against.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The seed in use: that of the parameters, or the one chosen at random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The token that cancels it.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    pub(crate) fn into_parts(self) -> (Vec<u32>, Params) {
        (self.prompt, self.params)
    }
}

/// A text to be scored (teacher-forced), known to fit the context.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    ids: Vec<u32>,
    top: usize,
    limits: Limits,
    cancel: CancelToken,
}

impl ScoreRequest {
    /// Validates a text, which may fill the whole context, and how many of the most likely tokens to report for each of
    /// its positions.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TextTooLong`], [`Error::Token`], [`Error::Param`].
    pub fn new(ids: Vec<u32>, top: usize, limits: Limits) -> Result<Self> {
        if ids.len() > limits.context {
            return Err(Error::TextTooLong { text: ids.len(), context: limits.context });
        }
        limits.check_prompt(&ids)?;
        limits.check_top(top)?;
        Ok(Self { ids, top, limits, cancel: CancelToken::new() })
    }

    /// The same request, cancelled by `token`.
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// What it was validated against.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The token that cancels it.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    pub(crate) fn into_parts(self) -> (Vec<u32>, usize) {
        (self.ids, self.top)
    }
}

/// Cancels a generation, from any thread. Clones cancel the same one.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. The generation ends before its next micro-batch. An atomic store, so fit for a signal handler.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
