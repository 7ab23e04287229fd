//! A mock runner whose logits depend on everything that a real one's do: on each token of the history and its
//! position, read through the block table. A wrong table, position or order changes the tokens.

#![allow(dead_code)]

use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{Batch, Drawn, Error, KvType, Outputs, Runner, RunnerLimits};
use kinfer_gen::sample::Sampler;
use kinfer_gen::{Done, Engine, Event, Limits, Options, Params, Request, Sampling, Vocabulary};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// Bytes 0 to 255 are tokens; so are a few longer pieces and the end of text.
pub const VOCAB: usize = 264;
pub const EOG: u32 = 256;
/// Of a mock whose sequences have some.
pub const STATES: usize = 8;
pub const PIECES: [&str; 7] = ["Hello", " world", "<think>", "</think>", "STO", "P now", "안녕"];

pub struct Bytes;

impl Vocabulary for Bytes {
    fn append_bytes(&self, id: u32, _control: bool, out: &mut Vec<u8>) {
        match id {
            0..=255 => out.push(id as u8),
            EOG => {}
            _ => out.extend_from_slice(PIECES.get(id as usize - 257).map_or(b"", |p| p.as_bytes())),
        }
    }

    fn is_eog(&self, id: u32) -> bool {
        id == EOG
    }
}

/// Called before a step.
pub type Hook = Arc<dyn Fn(&Batch) + Send + Sync>;

/// What the mock does besides answering.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// After position `i` comes `script[i]`; beyond it the history decides.
    pub script: Vec<u32>,
    /// Steps that fail, by number.
    pub fail: Vec<usize>,
    /// All logits are NaN from this position on.
    pub nan_from: Option<usize>,
    /// Draws by itself where that is enough, and counts these steps.
    pub draws: Option<Arc<AtomicUsize>>,
    /// Sequences have states, which go on at their ends only.
    pub states: bool,
    /// Called before each step.
    pub before: Option<Hook>,
    /// Steps so far.
    pub steps: Arc<AtomicUsize>,
    /// Rows computed so far.
    pub rows: Arc<AtomicUsize>,
}

pub struct Mock {
    limits: RunnerLimits,
    /// Per block and place: the token that was written. // [blocks, BLOCK_LEN]
    cache: Vec<Option<(usize, u32)>>,
    /// Positions that each state has taken in.
    ends: Vec<usize>,
    logits: Vec<f32>,
    drawn: Vec<Drawn>,
    behaviour: Behaviour,
}

impl Mock {
    pub fn new(rows: usize, outputs: usize, blocks: usize, behaviour: Behaviour) -> Self {
        let limits = RunnerLimits {
            rows,
            outputs,
            logits: true,
            blocks,
            states: STATES,
            context: blocks * BLOCK_LEN,
            kv: KvType::F16.into(),
        };
        Self {
            limits,
            cache: vec![None; blocks * BLOCK_LEN],
            ends: vec![0; STATES],
            logits: Vec::new(),
            drawn: Vec::new(),
            behaviour,
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Runner for Mock {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn has_states(&self) -> bool {
        self.behaviour.states
    }

    fn step(&mut self, batch: &Batch) -> kinfer_core::Result<Outputs<'_>> {
        let l = self.limits;
        batch.check(l.rows, l.outputs, l.blocks, VOCAB).map_err(Error::Batch)?;
        let b = &self.behaviour;
        if let Some(before) = &b.before {
            before(batch);
        }
        b.rows.fetch_add(batch.rows(), Ordering::Relaxed);
        if b.fail.contains(&b.steps.fetch_add(1, Ordering::Relaxed)) {
            return Err(Error::Backend { device: "mock".into(), source: "told to fail".into() });
        }
        self.logits.clear();
        for (i, run) in batch.runs.iter().enumerate().filter(|_| b.states) {
            assert!(batch.runs[..i].iter().all(|other| other.state != run.state), "two runs with a state");
            let end = &mut self.ends[run.state as usize];
            assert!(run.start == 0 || run.start == *end, "a state at {end} for a run from {}", run.start);
            *end = run.start + run.rows.len();
        }
        for run in &batch.runs {
            let table = &batch.blocks[run.blocks.clone()];
            let place = |p: usize| table[p / BLOCK_LEN] as usize * BLOCK_LEN + p % BLOCK_LEN;
            for (i, row) in run.rows.clone().enumerate() {
                let position = run.start + i;
                self.cache[place(position)] = Some((position, batch.tokens[row]));
                if !batch.outputs.contains(&(row as u32)) {
                    continue;
                }
                let mut state = 0;
                for p in 0..=position {
                    let (at, token) = self.cache[place(p)].expect("a key that was never written");
                    assert_eq!(at, p, "a key of another position");
                    state = mix(state ^ mix(u64::from(token) << 32 | p as u64));
                }
                for id in 0..VOCAB as u64 {
                    let unit = (mix(state ^ mix(id + 1)) >> 40) as f32 / (1 << 24) as f32;
                    self.logits.push(if id == u64::from(EOG) { -9.0 } else { 8.0 * unit });
                }
                let row = self.logits.len() - VOCAB;
                if let Some(&next) = self.behaviour.script.get(position) {
                    self.logits[row + next as usize] = 100.0;
                }
                if self.behaviour.nan_from.is_some_and(|from| position >= from) {
                    self.logits[row..].fill(f32::NAN);
                }
            }
        }
        match &self.behaviour.draws {
            Some(steps) if !batch.draws.is_empty() => {
                steps.fetch_add(1, Ordering::Relaxed);
                let mut sampler = Sampler::new(VOCAB);
                let rows = self.logits.chunks_exact(VOCAB).zip(&batch.draws);
                self.drawn.clear();
                self.drawn.extend(rows.map(|(logits, draw)| sampler.draw_unchanged(logits, draw)));
                Ok(Outputs { data: &[], width: VOCAB, drawn: &self.drawn })
            }
            _ => Ok(Outputs { data: &self.logits, width: VOCAB, drawn: &[] }),
        }
    }
}

/// How an engine is built for a test.
#[derive(Clone)]
pub struct Setup {
    pub context: usize,
    pub batch: usize,
    pub ubatch: usize,
    pub outputs: usize,
    pub parallel: usize,
    pub blocks: usize,
    pub behaviour: Behaviour,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            context: 512,
            batch: 64,
            ubatch: 64,
            outputs: 8,
            parallel: 8,
            blocks: 128,
            behaviour: Behaviour::default(),
        }
    }
}

impl Setup {
    pub fn limits(&self) -> Limits {
        Limits { context: self.context, vocab: VOCAB }
    }

    pub fn engine(&self) -> Engine {
        let mock = Mock::new(self.ubatch, self.outputs, self.blocks, self.behaviour.clone());
        let options = Options { limits: self.limits(), batch: self.batch, parallel: self.parallel };
        Engine::new(Box::new(mock), Arc::new(Bytes), options).unwrap()
    }

    pub fn request(&self, prompt: &[u32], params: Params) -> Request {
        Request::new(prompt.to_vec(), params, self.limits()).unwrap()
    }
}

/// All that a request reported.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Output {
    pub started: Option<(usize, usize, u64)>,
    pub ids: Vec<u32>,
    pub logprobs: Vec<kinfer_gen::TokenLogprobs>,
    pub text: String,
    pub thinking: String,
    pub done: Option<Done>,
    pub error: Option<String>,
}

impl Output {
    pub fn finish(&self) -> &kinfer_gen::Finish {
        &self.done.as_ref().unwrap_or_else(|| panic!("not done: {self:?}")).finish
    }

    pub fn usage(&self) -> kinfer_gen::Usage {
        self.done.as_ref().expect("not done").usage
    }
}

pub type Events = Receiver<kinfer_gen::Result<Event>>;

pub fn submit(engine: &mut Engine, request: Request) -> Events {
    let (tx, rx) = channel();
    engine.submit(request, tx);
    rx
}

pub fn run(engine: &mut Engine) {
    let mut steps = 0;
    while !engine.is_idle() {
        engine.step();
        steps += 1;
        assert!(steps < 100_000, "the engine makes no progress");
    }
}

pub fn collect(events: &Events) -> Output {
    let mut out = Output::default();
    for event in events.try_iter() {
        assert!(out.done.is_none() && out.error.is_none(), "an event after the end");
        match event {
            Ok(Event::Started { prompt_tokens, cached_tokens, seed }) => {
                assert!(out.started.is_none());
                out.started = Some((prompt_tokens, cached_tokens, seed));
            }
            Ok(Event::Token { id, logprobs }) => {
                out.ids.push(id);
                out.logprobs.extend(logprobs);
            }
            Ok(Event::Text { text, thinking: false }) => out.text.push_str(&text),
            Ok(Event::Text { text, thinking: true }) => out.thinking.push_str(&text),
            Ok(Event::Done(done)) => out.done = Some(done),
            Err(e) => out.error = Some(e.to_string()),
        }
    }
    out
}

/// Runs one request alone on a fresh engine.
pub fn alone(setup: &Setup, prompt: &[u32], params: Params) -> Output {
    let mut engine = setup.engine();
    let events = submit(&mut engine, setup.request(prompt, params));
    run(&mut engine);
    collect(&events)
}

/// A prompt of `n` tokens; another one for each `salt`.
pub fn prompt(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 31 + salt * 97) % 256).collect()
}

/// Seeded parameters that draw `n` tokens.
pub fn seeded(seed: u64, n: usize) -> Params {
    let sampling =
        Sampling { seed: Some(seed), repeat_penalty: 1.1, frequency_penalty: 0.1, ..Sampling::default() };
    Params { sampling, max_tokens: Some(n), ..Params::default() }
}

/// A log that a [`Behaviour::before`] can write to.
pub type Log<T> = Arc<Mutex<Vec<T>>>;
