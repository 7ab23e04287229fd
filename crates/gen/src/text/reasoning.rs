//! Thinking told from answer by the tags around the thinking.

use super::partial_suffix;
use crate::{Event, Reasoning};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Only white space so far: the opening tag may come.
    Start,
    Thinking,
    Answer,
}

/// Splits text into thinking and answer. The tags are not part of either, nor is the white space after a tag.
#[derive(Debug)]
pub(super) struct Splitter {
    tags: Option<Reasoning>,
    state: State,
    /// Text that may be, or begin, a tag.
    held: String,
    /// A tag has just passed.
    trim: bool,
}

impl Splitter {
    pub fn new(tags: Option<Reasoning>) -> Self {
        let state = match &tags {
            None => State::Answer,
            Some(t) if t.starts_open => State::Thinking,
            Some(_) => State::Start,
        };
        Self { tags, trim: state == State::Thinking, state, held: String::new() }
    }

    pub fn push(&mut self, text: &str, emit: &mut dyn FnMut(Event)) {
        let Some(tags) = &self.tags else {
            return send(text, false, emit);
        };
        self.held.push_str(text);
        if self.state == State::Start {
            let begun = self.held.trim_start();
            if let Some(rest) = begun.strip_prefix(tags.open.as_str()) {
                self.held = rest.into();
                (self.state, self.trim) = (State::Thinking, true);
            } else if let Some(rest) = tags.answer.as_deref().and_then(|tag| begun.strip_prefix(tag)) {
                self.held = rest.into();
                (self.state, self.trim) = (State::Answer, true);
            } else if tags.open.starts_with(begun)
                || tags.answer.as_ref().is_some_and(|tag| tag.starts_with(begun))
            {
                return;
            } else {
                self.state = State::Answer;
            }
        }
        if self.state == State::Thinking {
            if self.trim {
                self.held.drain(..self.held.len() - self.held.trim_start().len());
                self.trim = self.held.is_empty();
            }
            match self.held.find(tags.close.as_str()) {
                Some(at) => {
                    send(&self.held[..at], true, emit);
                    self.held.drain(..at + tags.close.len());
                    (self.state, self.trim) = (State::Answer, true);
                }
                None => {
                    let pass = self.held.len() - partial_suffix(&self.held, &tags.close);
                    send(&self.held[..pass], true, emit);
                    self.held.drain(..pass);
                    return;
                }
            }
        }
        let text = if self.trim { self.held.trim_start() } else { &self.held };
        self.trim &= text.is_empty();
        send(text, false, emit);
        self.held.clear();
    }

    /// The text ends here.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Event)) {
        send(&self.held, self.state == State::Thinking, emit);
        self.held.clear();
    }
}

fn send(text: &str, thinking: bool, emit: &mut dyn FnMut(Event)) {
    if !text.is_empty() {
        emit(Event::Text { text: text.into(), thinking });
    }
}
