//! From a conversation to the prompt that the model was trained on.

use crate::{Error, Message, Result, Role, Thinking};
use kinfer_gen::Reasoning;
use kinfer_load::gguf::Metadata;
use kinfer_load::template::{self, ChatTemplate, Guarded, Render, TemplateError};
use kinfer_load::tokenizer::Tokenizer;
use std::sync::Arc;

/// A model's chat template, or why there is none.
#[derive(Debug)]
pub struct Chat(std::result::Result<ChatTemplate, Arc<TemplateError>>);

/// A conversation as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the template wrote.
    pub text: String,
    /// Its tokens, with BOS where the model wants one and the template wrote none.
    pub ids: Vec<u32>,
}

/// The prompt of a conversation.
pub(crate) struct Prompt {
    pub ids: Vec<u32>,
    /// The tags between which the model thinks, if it does.
    pub reasoning: Option<Reasoning>,
}

impl Chat {
    /// The template `wanted`, a built-in one by name or Jinja source, or else that of the model file. A missing or broken
    /// one of the file is an error only when it is used, since the model can do without.
    ///
    /// # Errors
    /// `wanted` is no name and does not compile.
    pub fn new(wanted: Option<&str>, metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |id: Option<u32>| id.and_then(|id| std::str::from_utf8(tokenizer.token_bytes(id)?).ok());
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        Ok(Self(match wanted {
            Some(wanted) => Ok(ChatTemplate::wanted(wanted, bos, eos)?),
            None => ChatTemplate::from_metadata(metadata, tokenizer).map_err(Arc::new),
        }))
    }

    /// The template.
    ///
    /// # Errors
    /// There is none, or it does not compile.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.0.as_ref().map_err(|e| Error::Template(e.clone()))
    }

    /// Whether the template has a switch for thinking.
    pub fn has_thinking_switch(&self) -> bool {
        self.0.as_ref().is_ok_and(|t| t.source().contains("enable_thinking"))
    }

    /// The prompt of a conversation. What a message spells is text, never a control token; but the think tags in the model's
    /// own messages, which templates look for, are what they were.
    ///
    /// # Errors
    /// [`Error::Template`] when there is no template, or when it refuses the conversation or fails; [`Error::Tokenizer`].
    pub fn render(&self, with: &Render, tokenizer: &Tokenizer) -> Result<Rendered> {
        let tags = Reasoning::default();
        let spelled = |role: &str, text: &str| {
            let mut found = tokenizer.control_texts(text);
            if role == "assistant" {
                found.retain(|range| ![tags.open.as_str(), &tags.close].contains(&&text[range.clone()]));
            }
            found
        };
        let Guarded { text, plain } = self.template()?.render_guarded(with, &spelled)?;
        let mut ids = tokenizer.encode_prompt(&text, &plain)?;
        // A template may leave BOS to the tokenizer.
        if let Some(bos) = tokenizer.bos().filter(|&b| tokenizer.add_bos() && ids.first() != Some(&b)) {
            ids.insert(0, bos);
        }
        Ok(Rendered { text, ids })
    }

    /// The prompt for the next message of the model.
    pub(crate) fn prompt(
        &self,
        messages: &[Message],
        thinking: Thinking,
        tokenizer: &Tokenizer,
    ) -> Result<Prompt> {
        self.template()?;
        let messages: Vec<template::Message> = messages.iter().map(to_template).collect();
        let switch = match thinking {
            Thinking::Auto => None,
            Thinking::Off => Some(false),
            Thinking::On if self.has_thinking_switch() => Some(true),
            Thinking::On => {
                let problem =
                    "the model's chat template has no switch for thinking, so it cannot be asked for it";
                return Err(Error::Usage(problem.into()));
            }
        };
        let extra = switch.map(|on| [("enable_thinking".to_string(), on.into())].into_iter().collect());
        let with = Render {
            messages: &messages,
            add_generation_prompt: true,
            extra: extra.as_ref(),
            ..Render::default()
        };
        let Rendered { text, ids } = self.render(&with, tokenizer)?;
        Ok(Prompt { ids, reasoning: self.reasoning(&text, tokenizer) })
    }

    /// The think tags, where the template writes them or the vocabulary has them.
    fn reasoning(&self, prompt: &str, tokenizer: &Tokenizer) -> Option<Reasoning> {
        let channels = Reasoning::harmony();
        if self.0.as_ref().is_ok_and(|t| t.source().contains(&channels.open)) {
            return Some(channels);
        }
        let tags = Reasoning::default();
        let writes = self.0.as_ref().is_ok_and(|t| t.source().contains(&tags.close));
        if !writes && tokenizer.special_id(&tags.open).is_none() {
            return None;
        }
        let starts_open = prompt.trim_end().ends_with(&tags.open);
        Some(Reasoning { starts_open, ..tags })
    }
}

fn to_template(message: &Message) -> template::Message {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let mut out = template::Message::new(role, message.content.as_str());
    if !message.reasoning.is_empty() {
        out.extra.insert("reasoning_content".into(), message.reasoning.as_str().into());
    }
    out
}
