//! `kinfer template`: what a chat template makes of a conversation.

use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::input::read;
use crate::model;
use crate::term;
use kinfer::template::{ChatTemplate, Message, Render};
use kinfer::{Chat, Rendered};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Work with chat templates
#[derive(clap::Args)]
pub struct TemplateArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(clap::Subcommand)]
enum TemplateCommand {
    Render(RenderArgs),
}

/// Print the prompt that a chat template makes of a conversation
///
/// Byte for byte the text that `kinfer run` gives the model, without a line end of its own. No weights are loaded.
#[derive(clap::Args)]
#[command(after_help = help())]
struct RenderArgs {
    /// The model whose template and tokenizer it is, see below [default: smollm2; none with a template of yours]
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    template: model::TemplateArgs,
    /// The conversation in JSON, see below; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["system", "user"])]
    messages: Option<PathBuf>,
    /// Instructions for the whole conversation, also written -sys
    #[arg(long, value_name = "TEXT", alias = "system-prompt")]
    system: Option<String>,
    /// What the person says
    #[arg(long, value_name = "TEXT")]
    user: Option<String>,
    /// Tools that the model may call: a JSON list of definitions
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Leave out the opening of the model's turn
    #[arg(long)]
    no_generation_prompt: bool,
    /// Set a variable of the template to a JSON value; can be given several times
    #[arg(long, value_name = "KEY=JSON")]
    set: Vec<String>,
    /// Print the prompt's token ids, with BOS where the model wants it, and how many there are
    #[arg(long)]
    tokens: bool,
}

fn help() -> String {
    format!(
        "\
{}

The conversation is a JSON list of messages, or an object with `messages`, and perhaps `tools`, `add_generation_prompt`
and more variables of the template. What `/save` writes in a chat is such a list.
  [{{\"role\": \"system\", \"content\": \"Be brief.\"}}, {{\"role\": \"user\", \"content\": \"Hi\"}}]
  {{\"messages\": […], \"tools\": […], \"enable_thinking\": false}}

Examples:
  kinfer template render smollm2 --user \"Hi\"
  kinfer template render smollm2 --system \"Be brief.\" --user \"Hi\" --tokens
  kinfer template render user/repo --messages chat.json --tools tools.json --set enable_thinking=false
  kinfer template render --template chat.jinja --user \"Hi\"           a template by itself, without a model
  kinfer template render smollm2 --chat-template chatml --user \"Hi\"   another template, with the model's tokens
  kinfer template render smollm2 --messages - < chat.json | sha256sum

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// Runs it.
pub fn run(args: TemplateArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let TemplateCommand::Render(args) = args.command;
    let source = args.template.source()?;
    let Conversation { messages, tools, add_generation_prompt, variables } = args.conversation()?;
    let with = Render {
        messages: &messages,
        add_generation_prompt: add_generation_prompt.unwrap_or(true) && !args.no_generation_prompt,
        tools: tools.as_ref(),
        extra: Some(&variables),
        now: None,
    };
    let unread = |template: &ChatTemplate| {
        for name in variables.keys().map(String::as_str).chain(tools.as_ref().map(|_| "tools")) {
            if !template.source().contains(name) {
                ctx.warn(&format!("the chat template reads no `{name}`"));
            }
        }
    };
    // A template given by itself needs no model.
    if let (None, Some(source)) = (&args.model, &source) {
        if args.tokens {
            return Err(CliError::usage(
                "--tokens needs a model, whose tokens they are: kinfer template render MODEL",
            ));
        }
        let template = ChatTemplate::wanted(source, None, None).map_err(kinfer::Error::from)?;
        let text = template.render(&with).map_err(kinfer::Error::from)?;
        unread(&template);
        let writes = |name: &&str| template.source().contains(*name);
        for name in ["bos_token", "eos_token"].iter().filter(|name| writes(name)) {
            ctx.warn(&format!("the chat template reads `{name}`, which a MODEL has; here there is none"));
        }
        return Ok(term::out(&text)?);
    }
    let (gguf, tokenizer) = model::vocabulary(ctx, args.model.as_deref())?;
    let chat = Chat::new(source.as_deref(), gguf.metadata(), &tokenizer)?;
    let Rendered { text, ids } = chat.render(&with, &tokenizer)?;
    unread(chat.template()?);
    if args.tokens {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        return Ok(term::out_line(&format!("{}\n{} tokens", list.join(" "), ids.len()))?);
    }
    Ok(term::out(&text)?)
}

/// A conversation, and what else its template reads.
#[derive(Default, Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    tools: Option<Value>,
    add_generation_prompt: Option<bool>,
    #[serde(flatten)]
    variables: Map<String, Value>,
}

impl RenderArgs {
    fn conversation(&self) -> anyhow::Result<Conversation> {
        let mut all = match (&self.messages, &self.system, &self.user) {
            (Some(path), ..) => from_json(path)?,
            (None, None, None) => {
                return Err(CliError::usage("a conversation is needed: --user TEXT, or --messages FILE"));
            }
            (None, system, user) => {
                let system = system.as_deref().map(|text| Message::new("system", text));
                // As `run` reads a prompt.
                let user = user.as_deref().map(|text| text.trim_end_matches(['\r', '\n']));
                let user = user.map(|text| Message::new("user", text));
                Conversation { messages: system.into_iter().chain(user).collect(), ..Conversation::default() }
            }
        };
        for message in &mut all.messages {
            // A saved chat calls it so; templates know it by the other name.
            if let Some(thought) = message.extra.shift_remove("reasoning") {
                message.extra.entry("reasoning_content").or_insert(thought);
            }
        }
        if let Some(path) = &self.tools {
            let tools = serde_json::from_str(&read(path)?)
                .map_err(|e| CliError::usage(format!("--tools {}: {e}", path.display())))?;
            if all.tools.replace(tools).is_some() {
                return Err(CliError::usage("the tools are given twice: in --messages and by --tools"));
            }
        }
        if let Some(other) = all.tools.as_ref().filter(|tools| !tools.is_array()) {
            let got = if other.is_object() { "an object; put it into [brackets]" } else { "none" };
            return Err(CliError::usage(format!("tools: expected a list of definitions, got {got}")));
        }
        for rule in &self.set {
            let Some((key, value)) = rule.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(CliError::usage(format!(
                    "--set `{rule}`: expected KEY=JSON, such as enable_thinking=false"
                )));
            };
            let value = serde_json::from_str(value).map_err(|e| {
                CliError::usage(format!("--set `{rule}`: {e}; a text has quotes: --set '{key}=\"{value}\"'"))
            })?;
            all.variables.insert(key.into(), value);
        }
        Ok(all)
    }
}

/// A list of messages, or an object that has one.
fn from_json(path: &Path) -> anyhow::Result<Conversation> {
    let text = read(path)?;
    let read = match text.trim_start().starts_with('[') {
        true => {
            serde_json::from_str(&text).map(|messages| Conversation { messages, ..Conversation::default() })
        }
        false => serde_json::from_str(&text),
    };
    read.map_err(|e| {
        let form = "a JSON list of messages with `role` and `content`, or an object with `messages`";
        CliError::usage(format!("--messages {}: {e}; expected {form}", path.display()))
    })
}
