//! A conversation.

use crate::{Engine, Generation, Result};
use kinfer_gen::{CancelToken, Event, Params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
    /// What the model thought before it, empty where it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
}

impl Message {
    /// A message without reasoning.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), reasoning: String::new() }
    }
}

/// Whether the model is asked to think before it answers, where its chat template has that switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// As the template does by itself.
    #[default]
    Auto,
    /// Ask for it.
    On,
    /// Ask not to.
    Off,
}

/// A conversation with its history. The keys and values of earlier turns are reused from the engine's cache.
#[derive(Clone, Debug)]
pub struct Session {
    engine: Engine,
    messages: Vec<Message>,
    /// Parameters of the next replies; where `reasoning` is `None`, it is set from the chat template.
    pub params: Params,
    /// Whether the next replies are to be thought about.
    pub thinking: Thinking,
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        let params = Params { sampling: engine.sampling(), ..Params::default() };
        Self { engine, messages: Vec::new(), params, thinking: Thinking::Auto }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Sets the system message; an empty one removes it.
    pub fn system(&mut self, text: impl Into<String>) -> &mut Self {
        let text = text.into();
        self.messages.retain(|m| m.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, Message::new(Role::System, text));
        }
        self
    }

    /// The conversation so far, the system message first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Says something and starts the reply, which joins the history as it ends, also when cancelled or dropped.
    ///
    /// # Errors
    /// When the conversation does not fit the context or the chat template fails; the history stays as it was.
    pub fn send(&mut self, text: impl Into<String>) -> Result<Reply<'_>> {
        self.messages.push(Message::new(Role::User, text));
        match self.engine.chat(&self.messages, self.thinking, self.params.clone()) {
            Ok(generation) => Ok(Reply::new(self, generation)),
            Err(e) => {
                self.messages.pop();
                Err(e)
            }
        }
    }

    /// Replaces the last reply by another one to the same message. `None`: nothing was said yet. With a seed in
    /// [`Session::params`] the reply will be the same.
    ///
    /// # Errors
    /// As [`Session::send`]; the last reply stays.
    pub fn regenerate(&mut self) -> Result<Option<Reply<'_>>> {
        let Some(last) = self.messages.iter().rposition(|m| m.role == Role::User) else { return Ok(None) };
        let generation = self.engine.chat(&self.messages[..=last], self.thinking, self.params.clone())?;
        self.messages.truncate(last + 1);
        Ok(Some(Reply::new(self, generation)))
    }

    /// Takes back the last message of the person and the reply to it. Returns the message.
    pub fn undo(&mut self) -> Option<Message> {
        let at = self.messages.iter().rposition(|m| m.role == Role::User)?;
        let message = self.messages.swap_remove(at);
        self.messages.truncate(at);
        Some(message)
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == Role::System);
    }

    /// The conversation as JSON.
    ///
    /// # Errors
    /// [`crate::Error::Transcript`] when it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.messages)?)
    }

    /// Replaces the conversation by one from [`Session::to_json`].
    ///
    /// # Errors
    /// [`crate::Error::Transcript`]; the conversation stays as it was.
    pub fn from_json(&mut self, json: &str) -> Result<()> {
        self.messages = serde_json::from_str(json)?;
        Ok(())
    }

    /// Writes the conversation to a file.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, self.to_json()?).map_err(|source| crate::Error::Io { path: path.into(), source })
    }

    /// Replaces the conversation by one from a file.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Transcript`]; the conversation stays as it was.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let json =
            std::fs::read_to_string(path).map_err(|source| crate::Error::Io { path: path.into(), source })?;
        self.from_json(&json)
    }
}

/// A reply as it comes: an iterator of its events. When it ends, fails, is cancelled or dropped, what came until then
/// joins the history.
#[derive(Debug)]
pub struct Reply<'a> {
    session: &'a mut Session,
    generation: Generation,
    /// What came until now; `None` once it has joined the history.
    message: Option<Message>,
}

impl<'a> Reply<'a> {
    fn new(session: &'a mut Session, generation: Generation) -> Self {
        Self { session, generation, message: Some(Message::new(Role::Assistant, "")) }
    }
}

impl Reply<'_> {
    /// Cancels it, from any thread; what came until then joins the history.
    pub fn cancel_token(&self) -> CancelToken {
        self.generation.cancel_token()
    }

    /// The token ids of its prompt.
    pub fn prompt_ids(&self) -> &[u32] {
        self.generation.prompt_ids()
    }

    /// Waits for the end and returns the answer's text without the thinking.
    ///
    /// # Errors
    /// The generation's error.
    pub fn text(mut self) -> Result<String> {
        self.try_for_each(|event| event.map(drop))?;
        Ok(self.session.messages.last().map(|m| m.content.clone()).unwrap_or_default())
    }

    fn commit(&mut self) {
        if let Some(mut message) = self.message.take() {
            message.reasoning.truncate(message.reasoning.trim_end().len());
            self.session.messages.push(message);
        }
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.generation.next();
        match (&event, &mut self.message) {
            (Some(Ok(Event::Text { text, thinking })), Some(message)) => match thinking {
                true => message.reasoning.push_str(text),
                false => message.content.push_str(text),
            },
            (None | Some(Err(_) | Ok(Event::Done(_))), _) => self.commit(),
            _ => {}
        }
        event
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        self.commit();
    }
}
