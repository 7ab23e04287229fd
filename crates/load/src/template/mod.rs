//! A conversation as the prompt a model was trained on, by the Jinja template in its file.
//!
//! The environment is that of Python's transformers: blocks are trimmed, `raise_exception`, `strftime_now` and its
//! `tojson` exist, values print as Python prints them, and Python's string, dict and list methods work. There is no
//! fallback: a template that is missing or fails is an error that tells the way out.

mod error;
mod guard;
mod python;

pub use error::TemplateError;
pub use guard::Guarded;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;

/// One turn of a conversation, with whatever else its template may read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// Usually a string; null beside tool calls; a list of parts where the template reads parts.
    #[serde(default)]
    pub content: serde_json::Value,
    /// `reasoning_content`, `tool_calls`, `tool_call_id`, `name`, …
    #[serde(flatten)]
    pub extra: Map<String, serde_json::Value>,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: serde_json::Value::String(content.into()), extra: Map::new() }
    }
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Render<'a> {
    /// The conversation so far.
    pub messages: &'a [Message],
    /// Whether the prompt ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tool definitions: a list of `{"type": "function", "function": {…}}`.
    pub tools: Option<&'a serde_json::Value>,
    /// More variables, such as `enable_thinking`.
    pub extra: Option<&'a Map<String, serde_json::Value>>,
    /// The time that `strftime_now` tells, in the local time zone; `None`: now.
    pub now: Option<SystemTime>,
}

/// Variables that rendering sets.
const RESERVED: &[&str] =
    &["messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token", "strftime_now"];

/// Steps a template may take: about ten times what the longest templates need for a thousand turns, and a second or two.
const FUEL: u64 = 20_000_000;

/// The built-in templates, for `--chat-template NAME`.
const BUILTIN: &[(&str, &str)] = &[
    ("chatml", include_str!("builtin/chatml.jinja")),
    ("exaone3", include_str!("builtin/exaone3.jinja")),
    ("gemma", include_str!("builtin/gemma.jinja")),
    ("llama2", include_str!("builtin/llama2.jinja")),
    ("llama3", include_str!("builtin/llama3.jinja")),
    ("mistral", include_str!("builtin/mistral.jinja")),
    ("mistral-v7", include_str!("builtin/mistral-v7.jinja")),
    ("phi3", include_str!("builtin/phi3.jinja")),
    ("zephyr", include_str!("builtin/zephyr.jinja")),
];

/// Names of the built-in templates.
pub fn builtin_templates() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|&(name, _)| name)
}

fn known() -> String {
    builtin_templates().collect::<Vec<_>>().join(", ")
}

/// A compiled chat template. `Send + Sync`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles `source`, the text of `tokenizer.chat_template`. `bos_token` and `eos_token` are those tokens' texts.
    ///
    /// # Errors
    /// The source does not parse.
    pub fn new(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TemplateError> {
        let parse = |e: Error| TemplateError::Parse { reason: describe(&e) };
        let mut environment = environment().map_err(parse)?;
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(parse)?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos_token: bos_token.map(str::to_owned),
            eos_token: eos_token.map(str::to_owned),
        })
    }

    /// The built-in template `name`.
    ///
    /// # Errors
    /// There is none of that name; the message lists those there are.
    pub fn builtin(
        name: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TemplateError> {
        let (_, source) = BUILTIN
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| TemplateError::UnknownName { name: name.to_owned(), known: known() })?;
        Self::new(source, bos_token, eos_token)
    }

    /// The template `wanted`: a built-in one by name, or Jinja source.
    ///
    /// # Errors
    /// It is no name, and does not parse.
    pub fn wanted(
        wanted: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TemplateError> {
        // Without a tag it can only be meant as a name.
        match wanted.contains("{{") || wanted.contains("{%") {
            true => Self::new(wanted, bos_token, eos_token),
            false => Self::builtin(wanted, bos_token, eos_token),
        }
    }

    /// The template in a GGUF file, for its tokenizer.
    ///
    /// # Errors
    /// The file has none, or one that does not parse.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let source = metadata
            .opt::<&str>("tokenizer.chat_template")?
            .ok_or_else(|| TemplateError::Missing { known: known() })?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_bytes(id)).map(String::from_utf8_lossy);
        Self::new(source, text(tokenizer.bos()).as_deref(), text(tokenizer.eos()).as_deref())
    }

    /// The source it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// The template raises an exception (an unsupported role, turns that do not alternate), reads something that is not
    /// there, or runs away.
    pub fn render(&self, with: &Render) -> Result<String, TemplateError> {
        let Render { messages, add_generation_prompt, tools, extra, now } = *with;
        let extra = extra.cloned().unwrap_or_default();
        if let Some(name) = extra.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(TemplateError::ReservedName { name: name.clone() });
        }
        let failed = |e: Error| match raised(&e) {
            Some(message) => TemplateError::Refused { message },
            None => TemplateError::Render { reason: describe(&e) },
        };
        let strftime_now = move |format: &str| strftime(now.unwrap_or_else(SystemTime::now), format);
        let template = self.environment.get_template(NAME).map_err(failed)?;
        // Absent tools and documents are None, not undefined, in transformers.
        let own = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            tools => tools.map(|t| Value::from(Serde(t))),
            documents => (),
            strftime_now => Value::from_function(strftime_now),
        };
        let tokens: Map<_, _> = [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)]
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), text.clone()?.into())))
            .collect();
        let extra = Value::from(Serde(extra));
        template.render(context! { ..own, ..Value::from(Serde(tokens)), ..extra }).map_err(failed)
    }
}

/// The environment of transformers' chat templates.
fn environment() -> Result<Environment<'static>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, _, value| Ok(out.write_str(&python::str(value)?)?));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", |value: &Value| python::str(value));
    // In Python a string is a sequence of characters, and a dict has a length and can be iterated.
    let sequence = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map);
    environment.add_test("sequence", sequence);
    environment.add_test("iterable", move |v: &Value| sequence(v) || !v.is_none() && v.try_iter().is_ok());
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    Ok(environment)
}

/// What `raise_exception` throws.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raised(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// The engine's message and the causes below it.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// `{% generation %}` marks the assistant's words for training; in a prompt it does nothing, so it becomes `{% if true %}`.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some(length) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(length);
        let name = tag.trim_start_matches("{%").trim_start_matches(['-', '+']);
        let name = name.trim_end_matches(['-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
        if after.is_empty() {
            break;
        }
    }
    out.push_str(rest);
    out
}

fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    use std::fmt::Write as _;
    let local = chrono::DateTime::<chrono::Local>::from(now);
    let mut out = String::new();
    write!(out, "{}", local.format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the format '{format}'"))
    })?;
    Ok(out)
}
