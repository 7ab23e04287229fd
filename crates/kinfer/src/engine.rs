//! An engine: one running state of a model, on its own thread.

use crate::{Error, Message, Model, Result, Session, Thinking};
use kinfer_core::KvType;
use kinfer_gen::{CancelToken, Event, Limits, Params, Request, Sampling, TokenLogprobs};
use std::sync::Arc;

/// A running state of a [`Model`]: its cache of keys and values and the thread that computes. Generations run side by
/// side in one batch. Clones are handles to the same engine; dropping the last one stops its thread.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    limits: Limits,
}

/// Options of an [`Engine`].
#[derive(Clone, Default)]
pub struct EngineBuilder {
    model: Option<Arc<Model>>,
    context: Option<usize>,
    batch: Option<usize>,
    ubatch: Option<usize>,
    parallel: Option<usize>,
    kv: KvType,
    cache_tokens: Option<usize>,
}

impl EngineBuilder {
    /// The model. Required.
    pub fn model(mut self, model: Arc<Model>) -> Self {
        self.model = Some(model);
        self
    }

    /// Most tokens of prompt and answer together. Default: what the model was trained for, at most 4096.
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Most prompt tokens computed between two tokens of a running generation. Default 2048.
    pub fn batch(mut self, tokens: usize) -> Self {
        self.batch = Some(tokens);
        self
    }

    /// Most tokens computed at once, the grain of cancellation. Default 512.
    pub fn ubatch(mut self, tokens: usize) -> Self {
        self.ubatch = Some(tokens);
        self
    }

    /// Most generations that run side by side; further ones wait. Default 1.
    pub fn parallel(mut self, sequences: usize) -> Self {
        self.parallel = Some(sequences);
        self
    }

    /// Element type of the cache. Default f16.
    pub fn kv(mut self, kind: KvType) -> Self {
        self.kv = kind;
        self
    }

    /// Tokens that the cache holds for all sequences together. Default: `context` times `parallel`.
    pub fn cache_tokens(mut self, tokens: usize) -> Self {
        self.cache_tokens = Some(tokens);
        self
    }

    /// Allocates the engine's memory and starts its thread.
    ///
    /// # Errors
    /// [`Error::Usage`] for an option that is missing or not legal, [`Error::Memory`] when it does not fit.
    pub fn build(self) -> Result<Engine> {
        let model = self.model.ok_or_else(|| Error::Usage("an engine needs a model".into()))?;
        let limits = Limits { context: self.context.unwrap_or(4096), vocab: model.spec().vocab };
        Ok(Engine { model, limits })
    }
}

impl Engine {
    /// Options of a new engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What requests are validated against: context length and vocabulary.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// kinfer's default sampling, with the values that the model file asks for.
    pub fn sampling(&self) -> Sampling {
        Sampling::default().with(self.model.defaults())
    }

    /// Validates a request for this engine.
    ///
    /// # Errors
    /// [`Error::Generate`]: see [`Request::new`].
    pub fn request(&self, prompt: Vec<u32>, params: Params) -> Result<Request> {
        Ok(Request::new(prompt, params, self.limits)?)
    }

    /// Starts a generation. Dropping the [`Generation`] cancels it.
    pub fn generate(&self, request: Request) -> Generation {
        Generation { cancel: request.cancel_token(), prompt: request.prompt().to_vec() }
    }

    /// Continues a text as it is, without a chat template.
    ///
    /// # Errors
    /// As [`Engine::request`], or when the text cannot be encoded.
    pub fn complete(&self, text: &str, params: Params) -> Result<Generation> {
        Ok(self.generate(self.request(self.model.encode(text, true)?, params)?))
    }

    /// Answers a conversation. `params.reasoning` is set from the chat template.
    ///
    /// # Errors
    /// As [`Engine::request`], or when the model has no chat template or it fails.
    pub fn chat(&self, messages: &[Message], thinking: Thinking, params: Params) -> Result<Generation> {
        let _ = (messages, thinking, params);
        Err(Error::Usage("the chat template is not connected yet".into()))
    }

    /// A new conversation.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Log-probabilities of a text by the model (teacher-forced): for each position the natural logarithm of the
    /// next token's probability, `None` at the last one, and the `top` most likely tokens.
    ///
    /// # Errors
    /// As [`Engine::request`]; a text may fill the whole context.
    pub fn score(&self, ids: &[u32], top: usize) -> Result<Vec<TokenLogprobs>> {
        let _ = (ids, top);
        Err(Error::Usage("scoring is not connected yet".into()))
    }
}

/// A running generation: an iterator of its events, which blocks until the next one. It ends after
/// [`Event::Done`] or an error. Dropping it cancels the generation.
pub struct Generation {
    cancel: CancelToken,
    prompt: Vec<u32>,
}

impl Generation {
    /// Cancels it, from any thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The token ids of its prompt.
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt
    }

    /// Waits for the end and returns the answer's text without the thinking.
    ///
    /// # Errors
    /// The generation's error.
    pub fn text(self) -> Result<String> {
        let mut out = String::new();
        for event in self {
            if let Event::Text { text, thinking: false } = event? {
                out.push_str(&text);
            }
        }
        Ok(out)
    }
}

impl Iterator for Generation {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}
