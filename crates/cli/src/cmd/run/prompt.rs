//! What to say to the model, and where it comes from.

use crate::exit::{CliError, exclusive};
use crate::input::read;
use crate::nfc::NfcArgs;
use clap::builder::FalseyValueParser;
use kinfer::{Message, Role};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// The prompt.
#[derive(clap::Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// What to say to the model, as PROMPT
    #[arg(short, long, env = "KINFER_PROMPT", value_name = "TEXT", hide_env_values = true)]
    pub prompt: Option<String>,
    /// Take the prompt from a file, `-` is standard input; after the text of --prompt where that is given too
    #[arg(short, long, env = "KINFER_FILE", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Instructions for the whole conversation, also written -sys
    #[arg(
        long,
        env = "KINFER_SYSTEM_PROMPT",
        value_name = "TEXT",
        hide_env_values = true,
        conflicts_with = "system_prompt_file"
    )]
    pub system_prompt: Option<String>,
    /// The same from a file, also written -sysf
    #[arg(long, env = "KINFER_SYSTEM_PROMPT_FILE", value_name = "FILE")]
    pub system_prompt_file: Option<PathBuf>,
    /// Continue the prompt as it is, without a chat template: for models that are not made for chats
    #[arg(long, env = "KINFER_RAW", value_parser = FalseyValueParser::new())]
    pub raw: bool,
    #[command(flatten)]
    pub nfc: NfcArgs,
}

/// What is to be done.
pub enum Task {
    /// Talk, with this system message.
    Chat(Option<String>),
    /// Continue this text.
    Raw(String),
    /// Answer this conversation.
    Messages(Vec<Message>),
}

impl Task {
    /// The texts that the user gave.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Task::Chat(system) => system.iter().map(String::as_str).collect(),
            Task::Raw(text) => vec![text],
            Task::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
        }
    }
}

impl PromptArgs {
    /// The task; `positional` is PROMPT.
    pub fn task(&self, positional: Option<String>) -> anyhow::Result<Task> {
        if positional.is_some() && self.prompt.is_some() {
            return Err(CliError::usage(
                "the prompt is given twice: as PROMPT and by --prompt (or KINFER_PROMPT)",
            ));
        }
        let (text_given, file_given) = (self.system_prompt.is_some(), self.system_prompt_file.is_some());
        exclusive(("--raw", self.raw), ("--system-prompt", text_given))?;
        exclusive(("--raw", self.raw), ("--system-prompt-file", file_given))?;
        let text = positional.or_else(|| self.prompt.clone());
        let file = self.file.as_deref().map(read).transpose()?;
        let prompt = match (text, file) {
            (Some(text), Some(file)) => format!("{text}\n\n{file}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) if !std::io::stdin().is_terminal() => read(Path::new("-"))?,
            (None, None) if std::io::stdout().is_terminal() => return Ok(Task::Chat(self.system()?)),
            (None, None) => {
                return Err(CliError::usage("a chat needs a terminal; give a prompt, or pipe one in"));
            }
        };
        let prompt = self.nfc.apply(prompt);
        if self.raw {
            return match prompt.is_empty() {
                true => Err(CliError::usage("the prompt is empty")),
                false => Ok(Task::Raw(prompt)),
            };
        }
        // The line end that a pipe adds is not part of what is said.
        let prompt = prompt.trim_end_matches(['\r', '\n']);
        if prompt.trim().is_empty() {
            return Err(CliError::usage("the prompt is empty"));
        }
        let mut messages = Vec::new();
        if let Some(system) = self.system()? {
            messages.push(Message::new(Role::System, system));
        }
        messages.push(Message::new(Role::User, prompt));
        Ok(Task::Messages(messages))
    }

    /// The system message.
    fn system(&self) -> anyhow::Result<Option<String>> {
        let text = match (&self.system_prompt, &self.system_prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read(path)?.trim_end().to_owned(),
            (None, None) => return Ok(None),
        };
        Ok(Some(self.nfc.apply(text)))
    }
}
