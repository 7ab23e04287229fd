//! An engine: one running state of a model, on its own thread.

use crate::plan::of_runner;
use crate::worker::Worker;
use crate::{Error, Message, Model, Plan, Result, Session, Thinking};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{KvTypes, ModelSpec, RunnerLimits};
use kinfer_gen::{
    CancelToken, Event, Limits, Options, Params, Request, Sampling, ScoreRequest, TokenLogprobs,
};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Default context length, where the model was trained for as much.
const DEFAULT_CONTEXT: usize = 4096;
/// Default rows of a micro-batch: enough to keep matrix units busy, and a cancelled prompt ends soon.
const DEFAULT_UBATCH: usize = 512;
/// Rows of logits that an engine has memory for: one per parallel sequence, and for scoring at least these, since the
/// output head is slow row by row. At a vocabulary of 262144 that is 16 MiB.
const DEFAULT_OUTPUTS: usize = 16;

/// A running state of a [`Model`]: its cache of keys and values and the thread that computes. Generations run side by
/// side in one batch. Clones are handles to the same engine; dropping the last one stops its thread.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    worker: Arc<Worker>,
    options: Options,
    limits: RunnerLimits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, worker: _, options, limits } = self;
        f.debug_struct("Engine")
            .field("model", model)
            .field("options", options)
            .field("limits", limits)
            .finish()
    }
}

/// Options of an [`Engine`].
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    model: Option<Arc<Model>>,
    context: Option<usize>,
    batch: Option<usize>,
    ubatch: Option<usize>,
    parallel: Option<usize>,
    kv: KvTypes,
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

    /// Most tokens computed between two tokens of a running generation. Default: one micro-batch.
    pub fn batch(mut self, tokens: usize) -> Self {
        self.batch = Some(tokens);
        self
    }

    /// Most tokens computed at once, the micro-batch: the grain of cancellation. Never more than a batch. Default 512.
    pub fn ubatch(mut self, tokens: usize) -> Self {
        self.ubatch = Some(tokens);
        self
    }

    /// Most generations that run side by side; further ones wait. Default 1.
    pub fn parallel(mut self, sequences: usize) -> Self {
        self.parallel = Some(sequences);
        self
    }

    /// Types of cached keys and values: a [`crate::KvType`] for both, or [`KvTypes`]. Default f16.
    pub fn kv(mut self, types: impl Into<KvTypes>) -> Self {
        self.kv = types.into();
        self
    }

    /// Tokens that the cache holds for all sequences together. Default: `context` times `parallel`.
    pub fn cache_tokens(mut self, tokens: usize) -> Self {
        self.cache_tokens = Some(tokens);
        self
    }

    /// The runner's limits for these options.
    pub(crate) fn runner_limits(&self, spec: &ModelSpec) -> Result<(Options, RunnerLimits)> {
        let context = self.context.unwrap_or(spec.context.min(DEFAULT_CONTEXT));
        if context > spec.context {
            return Err(Error::Usage(format!(
                "a context of {context} tokens was asked for; the model was trained for {}",
                spec.context
            )));
        }
        let parallel = self.parallel.unwrap_or(1);
        let all = context.div_ceil(BLOCK_LEN).checked_mul(parallel);
        let blocks = self.cache_tokens.map(|t| t.div_ceil(BLOCK_LEN)).or(all);
        let Some(blocks) = blocks.filter(|&b| u32::try_from(b).is_ok()) else {
            return Err(Error::Usage(format!(
                "{parallel} sequences of {context} tokens are too many to count"
            )));
        };
        // No step has more rows than the cache has places.
        let rows = self.ubatch.unwrap_or(DEFAULT_UBATCH).min(blocks.saturating_mul(BLOCK_LEN));
        let batch = self.batch.unwrap_or(rows.max(parallel));
        let rows = rows.min(batch);
        let outputs = parallel.max(DEFAULT_OUTPUTS).min(rows);
        let options = Options { limits: Limits { context, vocab: spec.vocab }, batch, parallel };
        let limits =
            RunnerLimits { rows, outputs, logits: true, blocks, states: parallel, context, kv: self.kv };
        options.check(&limits)?;
        Ok((options, limits))
    }

    /// Memory that the engine would take, its model included. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Generate`] for an option that is missing or not legal.
    pub fn plan(&self) -> Result<Plan> {
        let model = self.model.as_ref().ok_or_else(no_model)?;
        let (_, limits) = self.runner_limits(model.spec())?;
        Ok(Plan::of_model(model, &limits))
    }

    /// Allocates the engine's memory and starts its thread.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Generate`] for an option that is missing or not legal, [`Error::Memory`] when it
    /// does not fit.
    pub fn build(self) -> Result<Engine> {
        let model = self.model.as_ref().ok_or_else(no_model)?;
        let (options, limits) = self.runner_limits(model.spec())?;
        let what =
            format!("an engine for {} sequences of {} tokens", options.parallel, options.limits.context);
        Plan::of_model(model, &limits).check(&what, of_runner)?;
        let runner = model.inner().clone().runner(limits)?;
        let engine = kinfer_gen::Engine::new(runner, model.vocabulary(), options)?;
        Ok(Engine { worker: Arc::new(Worker::start(engine)?), model: model.clone(), options, limits })
    }
}

fn no_model() -> Error {
    Error::Usage("an engine needs a model".into())
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
        self.options.limits
    }

    /// Memory that it takes, its model included.
    pub fn plan(&self) -> Plan {
        Plan::of_model(&self.model, &self.limits)
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
        Ok(Request::new(prompt, params, self.limits())?)
    }

    /// Starts a generation. Dropping the [`Generation`] cancels it.
    pub fn generate(&self, request: Request) -> Generation {
        let (cancel, prompt) = (request.cancel_token(), request.prompt().to_vec());
        let events = Some(self.worker.generate(request));
        Generation { events, cancel, prompt, _engine: self.clone() }
    }

    /// Continues a text as it is, without a chat template.
    ///
    /// # Errors
    /// As [`Engine::request`], or when the text cannot be encoded.
    pub fn complete(&self, text: &str, params: Params) -> Result<Generation> {
        Ok(self.generate(self.request(self.model.encode(text)?, params)?))
    }

    /// Answers a conversation. Where `params.reasoning` is `None`, it is set from the chat template.
    ///
    /// # Errors
    /// As [`Engine::request`]; [`Error::Template`] when the model has no chat template or it fails; [`Error::Usage`] when
    /// thinking is asked for and the template has no switch for it.
    pub fn chat(&self, messages: &[Message], thinking: Thinking, params: Params) -> Result<Generation> {
        let prompt = self.model.prompt(messages, thinking)?;
        let reasoning = params.reasoning.or(prompt.reasoning);
        Ok(self.generate(self.request(prompt.ids, Params { reasoning, ..params })?))
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
        let request = ScoreRequest::new(ids.to_vec(), top, self.limits())?;
        Ok(self.worker.score(request).recv().map_err(|_| kinfer_gen::Error::Stopped)??)
    }
}

/// A running generation: an iterator of its events, which blocks until the next one. It ends after
/// [`Event::Done`] or an error. Dropping it cancels the generation.
#[derive(Debug)]
pub struct Generation {
    /// `None` after the end.
    events: Option<Receiver<kinfer_gen::Result<Event>>>,
    cancel: CancelToken,
    prompt: Vec<u32>,
    /// Keeps the thread alive.
    _engine: Engine,
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
        let event = self.events.as_ref()?.recv().unwrap_or(Err(kinfer_gen::Error::Stopped));
        if matches!(event, Ok(Event::Done(_)) | Err(_)) {
            self.events = None;
        }
        Some(event.map_err(Error::from))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
