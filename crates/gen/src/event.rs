//! What a running request reports.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One report of a running request, in the order `Started`, then `Token` and `Text` mixed, then `Done`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request left the queue; its prompt is being computed.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the prompt whose keys and values were in the cache already.
        cached_tokens: usize,
        /// The seed in use, chosen at random when the request had none.
        seed: u64,
    },
    /// A token was drawn, the one that ends the generation included. Its text may come later, or never.
    Token {
        /// The token.
        id: u32,
        /// Its log-probability and the most likely alternatives, when the request asked for them.
        logprobs: Option<TokenLogprobs>,
    },
    /// Text became final: whole characters, never part of a stop string.
    Text {
        /// The text, never empty.
        text: String,
        /// Whether it lies between think tags.
        thinking: bool,
    },
    /// The generation ended. Nothing follows.
    Done(Done),
}

/// How a generation ended, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens.
    pub usage: Usage,
    /// Durations.
    pub timings: Timings,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model, a stop token or a stop string ended it.
    Stop(StopCause),
    /// A limit ended it.
    Length(LengthLimit),
    /// It was cancelled.
    Cancelled,
}

impl Finish {
    /// The reason in one word: `stop`, `length` or `cancelled`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Finish::Stop(_) => "stop",
            Finish::Length(_) => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// What stopped a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The model drew an end-of-generation token, this one.
    Eog(u32),
    /// A stop token of the request.
    Token(u32),
    /// A stop string of the request. The text ends before it.
    String(String),
}

/// The limit that a generation reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthLimit {
    /// The request's `max_tokens`.
    MaxTokens,
    /// The context is full.
    Context,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose keys and values were in the cache already.
    pub cached_tokens: usize,
    /// Tokens drawn, the one that ended the generation included.
    pub completion_tokens: usize,
}

/// Durations of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From submission until its prompt was first scheduled.
    pub queue: Duration,
    /// From then until the first token was drawn.
    pub prefill: Duration,
    /// From then until the last token was drawn.
    pub decode: Duration,
}

/// A token and the natural logarithm of its probability over the whole vocabulary, by the model's unmodified logits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Log-probabilities at one position, by the model's unmodified logits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Of the token that follows in the sequence; `None` after the last token of a scored text.
    pub logprob: Option<f32>,
    /// The most likely tokens, most likely first; equal ones by ascending id.
    pub top: Vec<Logprob>,
}
