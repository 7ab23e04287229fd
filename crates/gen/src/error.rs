//! What a request or a generation can fail with.

use std::sync::Arc;

/// An invalid request, or the failure of a running one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The prompt leaves no room for a single new token.
    #[error(
        "the prompt has {prompt} tokens and the context holds {context}, of which one must stay free for the \
             answer; shorten the prompt or raise the context length"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The engine's context length in tokens.
        context: usize,
    },
    /// A text to be scored does not fit the context.
    #[error(
        "the text has {text} tokens and the context holds {context}; score it in windows or raise the context length"
    )]
    TextTooLong {
        /// Tokens of the text.
        text: usize,
        /// The engine's context length in tokens.
        context: usize,
    },
    /// The prompt has no tokens, so there is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id of the prompt or of a parameter is outside the vocabulary.
    #[error("{what}: token id {id} is outside the vocabulary of {vocab} tokens")]
    Token {
        /// Where the id stands.
        what: &'static str,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A parameter has a value that it cannot have.
    #[error("{name} is {got}; it must be {expected}")]
    Param {
        /// The parameter.
        name: &'static str,
        /// Its legal values.
        expected: &'static str,
        /// The value given.
        got: String,
    },
    /// The request was validated for an engine with other limits.
    #[error("the request was validated for {request:?} and this engine has {engine:?}")]
    ForeignRequest {
        /// Limits that the request was validated for.
        request: crate::Limits,
        /// Limits of the engine.
        engine: crate::Limits,
    },
    /// The model computed logits that no token can be drawn from.
    #[error("the model computed {what} at position {position}; the model file may be damaged")]
    Logits {
        /// What is wrong with them.
        what: &'static str,
        /// Position in the sequence whose next token was to be drawn.
        position: usize,
    },
    /// The device or the model failed in a step that computed rows of this request.
    #[error(transparent)]
    Step(Arc<kinfer_core::Error>),
    /// A scoring was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The engine was stopped before the request was done.
    #[error("the engine was stopped before the request was done")]
    Stopped,
}

/// The result of validating or running a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;
