//! The command `kinfer`.
#![deny(clippy::print_stdout, clippy::print_stderr)] // both panic on a closed pipe; see `term`

mod argv;
mod bandwidth;
mod cmd;
mod ctx;
mod exit;
mod input;
mod interrupt;
mod keyboard;
mod model;
mod nfc;
mod progress;
mod system;
mod table;
mod term;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ctx::{Common, Ctx};
use std::process::ExitCode;

/// Runs large language models on this machine
#[derive(Parser)]
#[command(name = "kinfer", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kinfer run                              chat with the default model
  kinfer run gemma3:270m --raw \"봄이 오면\" -n 60
  git show --stat | kinfer run smollm2 -p \"Explain this change:\" -f -

`kinfer help COMMAND` shows what a command can do.";

#[derive(Subcommand)]
enum Command {
    Run(Box<cmd::run::RunArgs>),
    Embed(cmd::embed::EmbedArgs),
    Score(cmd::score::ScoreArgs),
    Perplexity(cmd::perplexity::PerplexityArgs),
    Imatrix(cmd::imatrix::ImatrixArgs),
    Quantize(cmd::quantize::QuantizeArgs),
    Convert(cmd::quantize::ConvertArgs),
    Pull(cmd::pull::PullArgs),
    List(cmd::list::ListArgs),
    Rm(cmd::rm::RmArgs),
    Show(cmd::show::ShowArgs),
    Tokenize(cmd::tokenize::TokenizeArgs),
    Template(cmd::template::TemplateArgs),
    Doctor(cmd::doctor::DoctorArgs),
    Check(Box<cmd::check::CheckArgs>),
    Bench(cmd::bench::BenchArgs),
    Completions(cmd::completions::CompletionsArgs),
}

/// The command line's grammar, for help and completions.
fn command() -> clap::Command {
    Cli::command()
}

fn main() -> ExitCode {
    let words = match argv::normalise(std::env::args_os()) {
        Ok(words) => words,
        Err(message) => return exit::usage(&message),
    };
    let matches = match command().color(term::help_color(&words)).try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(e) => return exit::clap(e),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => return exit::clap(e.format(&mut command())),
    };
    let ctx = match Ctx::new(&cli.common, &matches) {
        Ok(ctx) => ctx,
        Err(e) => return exit::report(&e, &term::Style::plain()),
    };
    let done = match cli.command {
        Command::Run(args) => cmd::run::run(*args, &ctx),
        Command::Embed(args) => cmd::embed::run(args, &ctx),
        Command::Perplexity(args) => cmd::perplexity::run(args, &ctx),
        Command::Score(args) => cmd::score::run(args, &ctx),
        Command::Imatrix(args) => cmd::imatrix::run(args, &ctx),
        Command::Quantize(args) => cmd::quantize::run(args, &ctx),
        Command::Convert(args) => cmd::quantize::convert(args, &ctx),
        Command::Pull(args) => cmd::pull::run(args, &ctx),
        Command::List(args) => cmd::list::run(args, &ctx),
        Command::Rm(args) => cmd::rm::run(args, &ctx),
        Command::Show(args) => cmd::show::run(args, &ctx),
        Command::Tokenize(args) => cmd::tokenize::run(args, &ctx),
        Command::Template(args) => cmd::template::run(args, &ctx),
        Command::Doctor(args) => cmd::doctor::run(args, &ctx),
        Command::Check(args) => cmd::check::run(*args, &ctx),
        Command::Bench(args) => cmd::bench::run(args, &ctx),
        Command::Completions(args) => cmd::completions::run(args, &ctx),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::report(&e, &ctx.err),
    }
}
