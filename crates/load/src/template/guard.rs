//! Telling what a template writes from what a message says.
//!
//! `<|im_start|>` is a token where the template writes it and plain text where a person typed it, but a rendered prompt is
//! one string. So where a message has such a text, the conversation is rendered a second time with a mark before each of
//! them: a character that the prompt does not have. Without the marks the second prompt must equal the first, which is
//! the one that is used, and where the marks were, no control token begins. The mark stands before the text, not in it,
//! so that templates may still look for the text in a message and split the message there.

use std::ops::Range;
use std::time::SystemTime;

use serde_json::Value;

use super::{ChatTemplate, Message, Render, TemplateError};

/// A rendered prompt in which the texts of control tokens are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The prompt, byte for byte what [`ChatTemplate::render`] gives.
    pub text: String,
    /// Byte offsets, ascending, at which a message wrote the text of a control token: there it is text.
    pub plain: Vec<usize>,
}

impl ChatTemplate {
    /// The prompt for a conversation, and where in it messages spell control tokens. `find` gives the places of such texts
    /// in a string of a message of that role (the empty role for tool definitions), by ascending start.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateError::Inspected`] where the template's output depends on such a text, so that
    /// it cannot be followed into the prompt.
    pub fn render_guarded(
        &self,
        with: &Render,
        find: &dyn Fn(&str, &str) -> Vec<Range<usize>>,
    ) -> Result<Guarded, TemplateError> {
        let with = Render { now: Some(with.now.unwrap_or_else(SystemTime::now)), ..*with };
        let text = self.render(&with)?;
        // Private characters, more of them than any prompt has.
        let mark = ('\u{F0000}'..='\u{10FFFD}').find(|&c| !text.contains(c)).unwrap_or('\u{10FFFE}');
        let mut marker = Marker { mark, find, found: Vec::new() };
        let mut messages: Vec<Message> = with.messages.to_vec();
        for Message { role, content, extra } in &mut messages {
            marker.mark(role, content);
            extra.values_mut().for_each(|value| marker.mark(role, value));
        }
        let mut tools = with.tools.cloned();
        tools.iter_mut().for_each(|tools| marker.mark("", tools));
        let Some(first) = marker.found.first() else { return Ok(Guarded { text, plain: Vec::new() }) };

        let marked = self.render(&Render { messages: &messages, tools: tools.as_ref(), ..with });
        let marked = marked.unwrap_or_default();
        let (mut plain, mut unmarked) = (Vec::new(), String::with_capacity(text.len()));
        for part in marked.split_inclusive(mark) {
            unmarked.push_str(part.trim_end_matches(mark));
            if part.ends_with(mark) {
                plain.push(unmarked.len());
            }
        }
        if unmarked != text {
            return Err(TemplateError::Inspected { text: first.clone() });
        }
        // Where the template split a message, the mark is left without its text, before what the template writes.
        plain.retain(|&at| marker.found.iter().any(|found| text[at..].starts_with(found.as_str())));
        Ok(Guarded { text, plain })
    }
}

struct Marker<'a> {
    mark: char,
    find: &'a dyn Fn(&str, &str) -> Vec<Range<usize>>,
    /// The texts that were marked, each once.
    found: Vec<String>,
}

impl Marker<'_> {
    fn mark(&mut self, role: &str, value: &mut Value) {
        match value {
            Value::String(text) => {
                for range in (self.find)(role, text).into_iter().rev() {
                    let spelled = &text[range.clone()];
                    if !self.found.iter().any(|known| known == spelled) {
                        self.found.push(spelled.to_owned());
                    }
                    text.insert(range.start, self.mark);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(role, item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.mark(role, field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}
