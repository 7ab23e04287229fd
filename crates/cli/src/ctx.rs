//! What every command is given.

use crate::exit::exclusive;
use crate::interrupt::Interrupt;
use crate::term::{self, Color, Style};
use clap::ArgMatches;
use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;

/// Options of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Tell more, on stderr
    #[arg(short, long, global = true, env = "KINFER_VERBOSE", value_parser = FalseyValueParser::new(), display_order = 900)]
    pub verbose: bool,
    /// Tell errors only
    #[arg(short, long, global = true, env = "KINFER_QUIET", value_parser = FalseyValueParser::new(), display_order = 901)]
    pub quiet: bool,
    /// No network: use what is on this machine
    #[arg(long, global = true, env = "KINFER_OFFLINE", value_parser = FalseyValueParser::new(), display_order = 902)]
    pub offline: bool,
    /// When to use colours
    #[arg(
        long,
        global = true,
        env = "KINFER_COLOR",
        value_name = "WHEN",
        default_value = "auto",
        display_order = 903
    )]
    pub color: Color,
}

/// What every command is given: how to talk, and how to be interrupted.
pub struct Ctx {
    /// `--verbose`.
    pub verbose: bool,
    /// `--quiet`.
    pub quiet: bool,
    /// `--offline`.
    pub offline: bool,
    /// Style of stdout.
    pub out: Style,
    /// Style of stderr.
    pub err: Style,
    /// Ctrl+C.
    pub interrupt: Interrupt,
    /// The subcommand's matches, to ask where a value came from.
    matches: ArgMatches,
}

impl Ctx {
    pub fn new(common: &Common, matches: &ArgMatches) -> anyhow::Result<Self> {
        exclusive(("--verbose", common.verbose), ("--quiet", common.quiet))?;
        Ok(Self {
            verbose: common.verbose,
            quiet: common.quiet,
            offline: common.offline,
            out: Style::of_stdout(common.color),
            err: Style::of_stderr(common.color),
            interrupt: Interrupt::install()?,
            matches: matches.subcommand().map(|(_, m)| m.clone()).unwrap_or_default(),
        })
    }

    /// A line on stderr, unless `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            term::error_line(text);
        }
    }

    /// A warning on stderr, unless `--quiet`.
    pub fn warn(&self, text: &str) {
        self.note(&format!("{} {text}", self.err.yellow("warning:")));
    }

    /// An error on stderr that does not end the command.
    pub fn fail(&self, text: &str) {
        term::error_line(&format!("{} {text}", self.err.red("error:")));
    }

    /// A line on stderr with `--verbose`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            term::error_line(&self.err.dim(text));
        }
    }

    /// Whether the user set this argument (by its field's name), and where.
    pub fn source(&self, argument: &str) -> Option<&'static str> {
        match self.matches.value_source(argument)? {
            ValueSource::CommandLine => Some("flag"),
            ValueSource::EnvVariable => Some("environment"),
            _ => None,
        }
    }
}
