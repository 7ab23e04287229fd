//! Writing an answer as it comes.

use crate::ctx::Ctx;
use crate::term::{self, Style};
use kinfer::{Done, Event, Finish, LengthLimit, StopCause, TokenLogprobs};
use std::io;
use std::time::Duration;

/// Where the text goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The answer to stdout, thinking to stderr.
    Streams,
    /// Nothing is shown while it comes.
    Nothing,
}

/// Collects and shows the events of one answer.
pub struct Answer<'a> {
    ctx: &'a Ctx,
    show: Show,
    state: State,
    /// The answer's text, without thinking.
    pub text: String,
    /// The thinking.
    pub thinking: String,
    /// The tokens drawn.
    pub ids: Vec<u32>,
    /// Their log-probabilities, where they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// The seed in use.
    pub seed: Option<u64>,
    /// How it ended.
    pub done: Option<Done>,
}

/// What was last written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Thinking,
    Text,
}

impl<'a> Answer<'a> {
    pub fn new(ctx: &'a Ctx, show: Show) -> Self {
        Self {
            ctx,
            show,
            state: State::Nothing,
            text: String::new(),
            thinking: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            seed: None,
            done: None,
        }
    }

    /// Takes one event. An error is that of a closed stdout.
    pub fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Started { seed, .. } => self.seed = Some(seed),
            Event::Token { id, logprobs } => {
                self.ids.push(id);
                self.logprobs.extend(logprobs);
            }
            Event::Text { text, thinking: true } => {
                self.thinking.push_str(&text);
                self.think(&text);
            }
            Event::Text { text, thinking: false } => {
                // After thinking, templates let the answer begin with empty lines.
                let text = match self.text.is_empty() && !self.thinking.is_empty() {
                    true => text.trim_start_matches('\n'),
                    false => &text,
                };
                self.text.push_str(text);
                self.speak(text)?;
            }
            Event::Done(done) => self.done = Some(done),
        }
        Ok(())
    }

    fn think(&mut self, text: &str) {
        if self.show == Show::Nothing || self.ctx.quiet {
            return;
        }
        let style = &self.ctx.err;
        if self.state == State::Nothing && !style.is_on() {
            // Where it cannot be dimmed, it is marked.
            term::error("[thinking]\n");
        }
        self.state = State::Thinking;
        term::error(&dim_lines(style, text));
    }

    fn speak(&mut self, text: &str) -> io::Result<()> {
        if self.show == Show::Nothing || text.is_empty() {
            return Ok(());
        }
        self.end_thinking();
        self.state = State::Text;
        term::out(text)
    }

    fn end_thinking(&self) {
        if self.state == State::Thinking {
            let end = if self.thinking.ends_with('\n') { "" } else { "\n" };
            let mark = if self.ctx.err.is_on() { "\n" } else { "[answer]\n" };
            term::error(&format!("{end}{mark}"));
        }
    }

    /// Ends the last line.
    pub fn close(&mut self) -> io::Result<()> {
        match self.state {
            State::Text if !self.text.ends_with('\n') => term::out("\n"),
            State::Thinking => {
                term::error("\n");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Dims each line by itself, so that no line break lies between escape codes.
fn dim_lines(style: &Style, text: &str) -> String {
    let dim = |line: &str| if line.is_empty() { String::new() } else { style.dim(line) };
    text.split('\n').map(dim).collect::<Vec<_>>().join("\n")
}

/// Why an answer ended, in more detail than [`Finish::as_str`].
pub fn detail(finish: &Finish) -> String {
    match finish {
        Finish::Stop(StopCause::Eog(id)) => format!("end-of-generation token {id}"),
        Finish::Stop(StopCause::Token(id)) => format!("stop token {id}"),
        Finish::Stop(StopCause::String(text)) => format!("stop string {text:?}"),
        Finish::Length(LengthLimit::MaxTokens) => "--predict reached".into(),
        Finish::Length(LengthLimit::Context) => "context full".into(),
        Finish::Cancelled => "Ctrl+C".into(),
    }
}

/// Tokens per second; `None` where nothing was computed.
pub fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// Prompt tokens that were computed, and answer tokens after the first: what the two durations are for.
pub fn computed(done: &Done) -> (usize, usize) {
    let usage = &done.usage;
    (usage.prompt_tokens.saturating_sub(usage.cached_tokens), usage.completion_tokens.saturating_sub(1))
}

/// Speeds for people, two lines.
pub fn speeds(done: &Done, bytes_per_token: u64) -> String {
    let (prompt, decoded) = computed(done);
    let timings = &done.timings;
    let line = |what: &str, tokens: usize, time: Duration| {
        let rate = rate(tokens, time).map_or(String::new(), |r| format!(", {r:.1} tok/s"));
        format!("{what}: {tokens} tokens in {:.3} s{rate}", time.as_secs_f64())
    };
    let cached = match done.usage.cached_tokens {
        0 => String::new(),
        n => format!(" ({n} more were cached)"),
    };
    let bandwidth = rate(decoded, timings.decode)
        .map_or(String::new(), |r| format!(", {:.1} GB/s", r * bytes_per_token as f64 / 1e9));
    format!(
        "{}{cached}\n{}{bandwidth}",
        line("prefill", prompt, timings.prefill),
        line("decode", decoded, timings.decode)
    )
}
