//! From token bytes to text that may be shown: whole characters, no stop string, thinking told from answer.

mod detokenize;
mod reasoning;
mod stop;

use crate::{Event, Params};
use detokenize::Detokenizer;
use reasoning::Splitter;
use stop::Stopper;

/// The text of one generation, fed with the bytes of its tokens.
#[derive(Debug)]
pub struct TextStream {
    detokenizer: Detokenizer,
    stopper: Stopper,
    splitter: Splitter,
    /// Whole characters on their way from the detokenizer to the stopper; kept for its memory.
    chars: String,
    /// Text on its way from the stopper to the splitter; kept for its memory.
    passed: String,
}

impl TextStream {
    /// A stream with the stop strings and think tags of `params`.
    pub fn new(params: &Params) -> Self {
        Self {
            detokenizer: Detokenizer::default(),
            stopper: Stopper::new(params.stop.clone()),
            splitter: Splitter::new(params.reasoning.clone()),
            chars: String::new(),
            passed: String::new(),
        }
    }

    /// Takes the bytes of the next token and hands on, as [`Event::Text`], what became final. Returns the stop string
    /// that ended the text; nothing may be fed after it.
    pub fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Event)) -> Option<&str> {
        self.chars.clear();
        self.detokenizer.push(bytes, &mut self.chars);
        self.advance(emit)
    }

    /// Hands on what was held back: the text ends here. May still find a stop string.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Event)) -> Option<&str> {
        self.chars.clear();
        self.detokenizer.finish(&mut self.chars);
        // Found again below; the borrow of `advance` would not end otherwise.
        if self.advance(emit).is_none() {
            self.passed.clear();
            self.stopper.finish(&mut self.passed);
            self.splitter.push(&self.passed, emit);
            self.splitter.finish(emit);
        }
        self.stopper.found()
    }

    fn advance(&mut self, emit: &mut dyn FnMut(Event)) -> Option<&str> {
        self.passed.clear();
        self.stopper.push(&self.chars, &mut self.passed);
        self.splitter.push(&self.passed, emit);
        if self.stopper.found().is_some() {
            self.splitter.finish(emit);
        }
        self.stopper.found()
    }
}

/// Length of the longest suffix of `text` that begins, but does not complete, `pattern`.
fn partial_suffix(text: &str, pattern: &str) -> usize {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    (1..pattern.len().min(text.len() + 1)).rev().find(|&n| text.ends_with(&pattern[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
