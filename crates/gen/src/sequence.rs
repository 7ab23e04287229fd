//! A request on its way through the engine.

use crate::blocks::{Blocks, ROOT};
use crate::sample::{Candidates, Rng, Sampler, logprobs};
use crate::states::{Kept, States};
use crate::text::TextStream;
use crate::{
    CancelToken, Done, Error, Event, Finish, LengthLimit, Limits, Params, Request, Result, ScoreRequest,
    StopCause, Timings, TokenLogprobs, Usage, Vocabulary,
};
use kinfer_core::batch::{BLOCK_LEN, Role};
use kinfer_core::draw::{Draw, Drawn};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Tokens, how many of them are in the cache, and what is to be done with the logits.
pub(crate) struct Sequence {
    /// Prompt and drawn tokens.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
    /// Positions `0..computed` are in the cache.
    pub computed: usize,
    /// The cache's blocks, in order of position.
    pub blocks: Vec<u32>,
    /// Its state while it runs, where sequences have such.
    pub state: Option<u32>,
    /// Full blocks that are published, and the serial number of the last of them.
    published: (usize, u64),
    /// Rows that the current schedule gives to it.
    pub rows: usize,
    /// Nothing more is to be computed for it.
    pub ended: bool,
    /// It ended with an error: what was computed of it may be nothing.
    failed: bool,
    cancel: CancelToken,
    limits: Limits,
    work: Work,
}

enum Work {
    Generate(Box<Generating>),
    Score(Scoring),
}

struct Generating {
    params: Params,
    seed: u64,
    rng: Rng,
    text: TextStream,
    events: Sender<Result<Event>>,
    usage: Usage,
    submitted: Instant,
    scheduled: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

struct Scoring {
    top: usize,
    scores: Vec<TokenLogprobs>,
    reply: Sender<Result<Vec<TokenLogprobs>>>,
}

/// What a step found of one position.
#[derive(Clone, Copy)]
pub enum Row<'a> {
    /// Its logits, `[vocab]`.
    All(&'a [f32]),
    /// The token that the device drew.
    Drawn(Drawn),
}

/// What the engine lends to a sequence for working on its logits.
pub(crate) struct Tools<'a> {
    pub vocab: &'a dyn Vocabulary,
    /// All end-of-generation tokens.
    pub eog: &'a [u32],
    pub sampler: &'a mut Sampler,
    pub scratch: &'a mut Candidates,
    pub bytes: &'a mut Vec<u8>,
}

impl Sequence {
    pub fn generate(request: Request, events: Sender<Result<Event>>) -> Self {
        let (cancel, limits, seed) = (request.cancel_token(), request.limits(), request.seed());
        let (mut tokens, params) = request.into_parts();
        let usage = Usage { prompt_tokens: tokens.len(), ..Usage::default() };
        // Reserved now, so that drawing a token does not allocate.
        let most = params.max_tokens.unwrap_or(limits.context).min(limits.context - tokens.len());
        tokens.reserve_exact(most);
        let work = Work::Generate(Box::new(Generating {
            seed,
            rng: Rng::new(seed),
            text: TextStream::new(&params),
            params,
            events,
            usage,
            submitted: Instant::now(),
            scheduled: None,
            first: None,
            last: None,
        }));
        Self::new(tokens, cancel, limits, work)
    }

    pub fn score(request: ScoreRequest, reply: Sender<Result<Vec<TokenLogprobs>>>) -> Self {
        let (cancel, limits) = (request.cancel_token(), request.limits());
        let (tokens, top) = request.into_parts();
        let scores = Vec::with_capacity(tokens.len());
        Self::new(tokens, cancel, limits, Work::Score(Scoring { top, scores, reply }))
    }

    fn new(tokens: Vec<u32>, cancel: CancelToken, limits: Limits, work: Work) -> Self {
        let blocks = Vec::with_capacity(limits.context.div_ceil(BLOCK_LEN));
        Self {
            prompt: tokens.len(),
            tokens,
            computed: 0,
            blocks,
            state: None,
            published: (0, ROOT),
            rows: 0,
            ended: false,
            failed: false,
            cancel,
            limits,
            work,
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tokens that are not in the cache yet: one while generating, more of a prompt.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// The first position whose logits are wanted.
    pub fn outputs_from(&self) -> usize {
        match &self.work {
            Work::Generate(_) => self.tokens.len() - 1,
            Work::Score(s) => s.scores.len(),
        }
    }

    /// The tokens whose keys and values may come from the cache: those before the first position whose logits are
    /// wanted.
    pub fn shareable(&self) -> &[u32] {
        &self.tokens[..self.outputs_from()]
    }

    /// Takes what the cache has of its beginning, and blocks for the rest. The caller has checked that there are
    /// enough; `false` if there were not.
    pub fn admit(&mut self, blocks: &mut Blocks) -> bool {
        let shareable = self.outputs_from();
        let serial = blocks.share(&self.tokens[..shareable], &mut self.blocks);
        self.published = (self.blocks.len(), serial);
        self.computed = self.blocks.len() * BLOCK_LEN;
        self.extend_blocks(self.tokens.len(), blocks) && self.started()
    }

    /// The same where it has a state: goes on from an ended sequence, or from a state of its own.
    pub fn admit_state(&mut self, continued: Option<Kept>, blocks: &mut Blocks, states: &mut States) -> bool {
        match continued {
            Some(Kept { tokens, blocks, state }) => {
                self.computed = tokens.len();
                self.blocks.extend_from_slice(&blocks);
                self.state = Some(state);
            }
            None => self.state = states.alloc(blocks),
        }
        self.state.is_some() && self.extend_blocks(self.tokens.len(), blocks) && self.started()
    }

    /// Reports that it runs, the first time. `true`.
    fn started(&mut self) -> bool {
        if let Work::Generate(g) = &mut self.work
            && g.scheduled.is_none()
        {
            g.scheduled = Some(Instant::now());
            g.usage.cached_tokens = self.computed;
            let started = Event::Started {
                prompt_tokens: g.usage.prompt_tokens,
                cached_tokens: self.computed,
                seed: g.seed,
            };
            self.ended |= g.events.send(Ok(started)).is_err();
        }
        true
    }

    /// Takes blocks until the positions `0..end` have one; `false` when there are no more.
    pub fn extend_blocks(&mut self, end: usize, blocks: &mut Blocks) -> bool {
        while self.blocks.len() * BLOCK_LEN < end {
            match blocks.alloc() {
                Some(id) => self.blocks.push(id),
                None => return false,
            }
        }
        true
    }

    /// Gives back its blocks; what was computed is to be computed again, as far as the cache forgets it.
    pub fn release(&mut self, blocks: &mut Blocks, states: Option<&mut States>) {
        blocks.release(&mut self.blocks);
        if let (Some(state), Some(states)) = (self.state.take(), states) {
            states.release(state);
        }
        (self.computed, self.published, self.rows) = (0, (0, ROOT), 0);
    }

    /// Leaves what was computed of it, now that it has ended, to sequences that begin with its tokens.
    pub fn retire(&mut self, blocks: &mut Blocks, states: &mut States) {
        // A short prompt counts as generated, and a longer one that begins with it does not.
        let same_role = self.computed > self.prompt || Role::of_prompt(self.prompt) == Role::Prompt;
        if self.failed || self.computed == 0 || !same_role {
            return self.release(blocks, Some(states));
        }
        let Some(state) = self.state.take() else { return };
        self.tokens.truncate(self.computed);
        let mut unused = self.blocks.split_off(self.computed.div_ceil(BLOCK_LEN).min(self.blocks.len()));
        blocks.release(&mut unused);
        let (tokens, blocks) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.blocks));
        states.keep(Kept { tokens, blocks, state });
    }

    /// `rows` more positions are in the cache; publishes the blocks that they fill.
    pub fn advance(&mut self, rows: usize, blocks: &mut Blocks) {
        self.computed += rows;
        if self.state.is_some() {
            return;
        }
        let (mut count, mut serial) = self.published;
        while (count + 1) * BLOCK_LEN <= self.computed
            && let Some(full) = self.tokens.get(count * BLOCK_LEN..).and_then(|t| t.first_chunk())
        {
            serial = blocks.publish(self.blocks[count], serial, full);
            count += 1;
        }
        self.published = (count, serial);
    }

    /// How its next token is drawn, if a device may do that; `None`: it needs all logits.
    pub fn draw(&self) -> Option<Draw> {
        match &self.work {
            Work::Score(_) => None,
            Work::Generate(g) if g.params.logprobs.is_some() || g.params.ignore_eog => None,
            // The number that is taken when the token is there.
            Work::Generate(g) => g.params.sampling.draw_of_unchanged(g.rng.clone().unit()),
        }
    }

    /// Uses the logits of position `position`.
    pub fn output(&mut self, position: usize, logits: Row<'_>, tools: &mut Tools<'_>) {
        let result = match (&mut self.work, logits) {
            // Not asked for: see `draw`.
            (Work::Score(_), Row::Drawn(_)) => Err("a token where logits are needed"),
            (Work::Score(s), Row::All(logits)) => {
                let next = self.tokens.get(position + 1).copied();
                logprobs(logits, next, s.top, tools.scratch).map(|scored| {
                    s.scores.push(scored);
                    if s.scores.len() == self.tokens.len() {
                        // A caller that has gone does not want the scores.
                        let _ = s.reply.send(Ok(std::mem::take(&mut s.scores)));
                        self.ended = true;
                    }
                })
            }
            (Work::Generate(g), logits) => {
                g.draw(logits, &mut self.tokens, self.limits, tools).map(|on| self.ended |= !on)
            }
        };
        if let Err(what) = result {
            self.fail(Error::Logits { what, position });
        }
    }

    /// Ends it with an error.
    pub fn fail(&mut self, error: Error) {
        self.failed = true;
        if !self.ended {
            self.ended = true;
            match &self.work {
                Work::Generate(g) => drop(g.events.send(Err(error))),
                Work::Score(s) => drop(s.reply.send(Err(error))),
            }
        }
    }

    /// Ends it if its caller asked for that.
    pub fn end_if_cancelled(&mut self) {
        if self.ended || !self.cancel.is_cancelled() {
            return;
        }
        match &mut self.work {
            Work::Generate(g) => {
                g.finish(Finish::Cancelled);
                self.ended = true;
            }
            Work::Score(_) => self.fail(Error::Cancelled),
        }
    }
}

impl Generating {
    /// Draws the next token and reports it. `false`: the generation has ended.
    fn draw(
        &mut self,
        logits: Row<'_>,
        tokens: &mut Vec<u32>,
        limits: Limits,
        tools: &mut Tools<'_>,
    ) -> Result<bool, &'static str> {
        let banned = if self.params.ignore_eog { tools.eog } else { &[] };
        let unit = self.rng.unit();
        let id = match logits {
            Row::All(logits) => tools.sampler.draw(logits, &self.params.sampling, tokens, banned, unit)?,
            Row::Drawn(drawn) => drawn?,
        };
        let logprobs = match (self.params.logprobs, logits) {
            (Some(top), Row::All(logits)) => Some(logprobs(logits, Some(id), top, tools.scratch)?),
            _ => None,
        };
        tokens.push(id);
        self.usage.completion_tokens += 1;
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        if self.events.send(Ok(Event::Token { id, logprobs })).is_err() {
            return Ok(false);
        }
        if self.params.stop_tokens.contains(&id) {
            self.finish(Finish::Stop(StopCause::Token(id)));
            return Ok(false);
        }
        if tools.eog.contains(&id) {
            self.finish(Finish::Stop(StopCause::Eog(id)));
            return Ok(false);
        }
        tools.bytes.clear();
        let control = self.params.reasoning.as_ref().is_some_and(|tags| tags.control);
        tools.vocab.append_bytes(id, control, tools.bytes);
        let (mut gone, events) = (false, &self.events);
        let stop = self.text.push(tools.bytes, &mut |e| gone |= events.send(Ok(e)).is_err());
        let finish = if let Some(stop) = stop {
            Finish::Stop(StopCause::String(stop.into()))
        } else if self.params.max_tokens == Some(self.usage.completion_tokens) {
            Finish::Length(LengthLimit::MaxTokens)
        } else if tokens.len() == limits.context {
            Finish::Length(LengthLimit::Context)
        } else {
            return Ok(!gone);
        };
        self.finish(finish);
        Ok(false)
    }

    /// Hands on the text that was held back, and the end. Who no longer listens misses nothing.
    fn finish(&mut self, finish: Finish) {
        let events = &self.events;
        if !matches!(finish, Finish::Stop(StopCause::String(_))) {
            // A stop string that would begin in the last, incomplete character is none.
            self.text.finish(&mut |e| drop(events.send(Ok(e))));
        }
        let between = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => b - a,
            _ => Duration::ZERO,
        };
        let timings = Timings {
            queue: between(Some(self.submitted), self.scheduled.or_else(|| Some(Instant::now()))),
            prefill: between(self.scheduled, self.first.or_else(|| Some(Instant::now()))),
            decode: between(self.first, self.last),
        };
        drop(self.events.send(Ok(Event::Done(Done { finish, usage: self.usage, timings }))));
    }
}
