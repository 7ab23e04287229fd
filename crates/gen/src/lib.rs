//! Generation: turns a [`kinfer_core::Runner`] into text.
//!
//! One [`Engine::step`] is `schedule → runner.step → sample → postprocess`. The scheduler and the block manager own
//! ids only; keys and values stay in the runner. Input is validated once into a [`Request`], and text leaves through
//! one incremental detokenizer that holds back partial characters and partial stop strings.
//!
//! The tokens of a request depend on model, prompt, parameters and seed only: not on what else runs, on how the
//! prompt is cut into chunks, on prefix-cache hits or on preemption.
#![forbid(unsafe_code)]

mod blocks;
mod engine;
mod error;
mod event;
mod request;
pub mod sample;
mod scheduler;
mod sequence;
mod states;
mod text;

pub use engine::{Engine, Options};
pub use error::{Error, Result};
pub use event::{Done, Event, Finish, LengthLimit, Logprob, StopCause, Timings, TokenLogprobs, Usage};
pub use request::{CancelToken, Limits, Params, Reasoning, Request, ScoreRequest};
pub use sample::{Sampling, SamplingOverrides};
pub use text::TextStream;

/// What the engine must know of a tokenizer.
pub trait Vocabulary: Send + Sync {
    /// Appends the bytes that the token adds to the text: none for a control token, or with `control` its own text
    /// (`<|channel|>`). They need not be whole characters. An id outside the vocabulary appends nothing.
    fn append_bytes(&self, id: u32, control: bool, out: &mut Vec<u8>);
    /// Whether the token ends a generation (end of text, of turn, of message).
    fn is_eog(&self, id: u32) -> bool;
}
