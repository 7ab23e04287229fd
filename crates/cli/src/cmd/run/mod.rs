//! `kinfer run`: one answer, or a chat.

mod answer;
mod chat;
mod prompt;
mod sampling;
mod stream;

pub use answer::{Pairs, pairs};

use crate::ctx::Ctx;
use crate::exit::{self, CliError};
use crate::model::{self, EngineArgs, LoadArgs};
use clap::builder::FalseyValueParser;
use kinfer::{Engine, Params, Thinking};
use std::time::{Duration, Instant};

/// Answers a prompt, or chats
///
/// With a prompt (PROMPT, --prompt, --file, or a pipe on standard input) the answer goes to standard output, and nothing
/// else does. On a terminal without a prompt, a chat begins. A model that is not on this machine is fetched first.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct RunArgs {
    /// The model, see below [default: smollm2]
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// What to say to it
    #[arg(value_name = "PROMPT")]
    second: Option<String>,
    /// The model, as MODEL
    #[arg(
        short,
        long,
        env = "KINFER_MODEL",
        value_name = "MODEL",
        visible_alias = "hf-repo",
        hide_env_values = true
    )]
    model: Option<String>,
    #[command(flatten)]
    prompt: prompt::PromptArgs,
    /// Most tokens to answer with; -1: until the context is full
    #[arg(short = 'n', long, env = "KINFER_PREDICT", value_name = "N", default_value = "-1", help_heading = "Sampling", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    predict: i64,
    /// Whether a model that can think before it answers shall; thinking goes to stderr
    #[arg(long, env = "KINFER_THINK", value_name = "WHEN", default_value = "auto")]
    think: ThinkArg,
    #[command(flatten)]
    sampling: sampling::SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Print one JSON object: text, token ids, usage, timings, seed, finish reason, device
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new(), help_heading = "Output")]
    json: bool,
    /// Add the K likeliest tokens of each step to --json, with natural logarithms of their probabilities
    #[arg(long, env = "KINFER_LOGPROBS", value_name = "K", help_heading = "Output")]
    logprobs: Option<usize>,
    /// Keep no history of what is typed in a chat
    #[arg(long, env = "KINFER_NO_HISTORY", value_parser = FalseyValueParser::new(), help_heading = "Output")]
    no_history: bool,
}

fn help() -> String {
    format!(
        "\
{}

Examples:
  kinfer run                                      chat with the default model
  kinfer run gemma3:270m --raw \"봄이 오면\" -n 60
  kinfer run -sys \"Answer in one word.\" -p \"What is the capital of Japan?\" --temp 0
  git show --stat | kinfer run smollm2 -p \"Explain this change:\" -f -
  kinfer run smollm2 \"Hi\" --seed 7 --json | jq .usage
  kinfer run smollm2 --raw \"Once upon a time\" -n 20

Sampling options not given are the model file's, else kinfer's; --verbose tells which. Every
option can be set by an environment variable, shown beside it in --help.

{}",
        model::MODEL_HELP,
        exit::HELP
    )
}

/// [`Thinking`] on the command line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum ThinkArg {
    /// As the model's chat template does by itself
    #[default]
    Auto,
    /// Ask for it
    On,
    /// Ask not to
    Off,
}

impl From<ThinkArg> for Thinking {
    fn from(arg: ThinkArg) -> Self {
        match arg {
            ThinkArg::Auto => Thinking::Auto,
            ThinkArg::On => Thinking::On,
            ThinkArg::Off => Thinking::Off,
        }
    }
}

/// An engine ready to answer, and what led to it.
struct Ready {
    engine: Engine,
    params: Params,
    thinking: Thinking,
    /// How long finding and loading the model took.
    loaded_in: Duration,
}

/// Runs it.
pub fn run(args: RunArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let (model, text) = args.model_and_text(ctx)?;
    let task = args.prompt.task(text)?;
    if matches!(task, prompt::Task::Chat(_)) && args.json {
        return Err(CliError::usage("--json needs a prompt: a chat has no single answer"));
    }
    // All that can be wrong without a model is told before one is fetched or loaded.
    let mut params = args.params()?;

    let start = Instant::now();
    let model = args.load.load(ctx, model.as_deref(), args.engine.builder())?;
    let loaded_in = start.elapsed();
    model.spec().check_generates().map_err(kinfer::Error::from)?;
    if !args.prompt.raw {
        // Before anything is typed.
        model.template()?;
    }
    for text in task.texts() {
        args.prompt.nfc.tell(ctx, model.tokenizer(), text)?;
    }
    params.sampling = args.sampling.resolve(ctx, &model, params.sampling.logit_bias);
    let engine = args.engine.engine(model)?;
    ctx.detail(&format!("context: {} tokens", engine.limits().context));
    let ready = Ready { engine, params, thinking: args.think.into(), loaded_in };
    match task {
        prompt::Task::Chat(system) => chat::run(ctx, ready, &args, system),
        prompt::Task::Raw(text) => answer::run(ctx, ready, &args, answer::Ask::Raw(&text)),
        prompt::Task::Messages(messages) => answer::run(ctx, ready, &args, answer::Ask::Chat(&messages)),
    }
}

impl RunArgs {
    /// The parameters as far as the flags say, checked.
    fn params(&self) -> anyhow::Result<Params> {
        if self.logprobs.is_some() && !self.json {
            return Err(CliError::usage("--logprobs needs --json, which is where they are printed"));
        }
        if self.prompt.raw && !matches!(self.think, ThinkArg::Auto) {
            return Err(CliError::usage(
                "--think needs a chat template, and --raw uses none; give one of them",
            ));
        }
        if self.predict == 0 {
            return Err(CliError::usage("--predict is 0; it must be at least 1, or -1 for no limit"));
        }
        let params = Params {
            sampling: self.sampling.given()?,
            max_tokens: usize::try_from(self.predict).ok(),
            stop: self.sampling.stop.clone(),
            ignore_eog: self.sampling.ignore_eos,
            logprobs: self.logprobs,
            ..Params::default()
        };
        params.check().map_err(kinfer::Error::from)?;
        Ok(params)
    }

    /// MODEL and PROMPT. With --model on the command line, the first word without a flag is the prompt.
    fn model_and_text(&self, ctx: &Ctx) -> anyhow::Result<(Option<String>, Option<String>)> {
        match (ctx.source("model"), &self.first, &self.second) {
            (Some("flag"), Some(_), Some(second)) => Err(CliError::usage(format!(
                "the model is given by --model, so `{second}` is a second prompt; put the prompt in quotes"
            ))),
            (Some("flag"), text, None) => Ok((self.model.clone(), text.clone())),
            (_, first, second) => Ok((first.clone().or_else(|| self.model.clone()), second.clone())),
        }
    }
}
