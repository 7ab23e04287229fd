//! Writing to the terminal: what is styled, what goes where, and closed pipes.
//!
//! stdout carries results only. Everything else goes to stderr, where a failed write is nobody's concern.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// When to use escape codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On terminals, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    fn on(self, terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
                terminal && !set("NO_COLOR") && !dumb
            }
        }
    }
}

/// Dresses text for one stream, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    on: bool,
}

impl Style {
    /// No escape codes.
    pub fn plain() -> Self {
        Self { on: false }
    }

    /// For stdout.
    pub fn of_stdout(color: Color) -> Self {
        Self { on: color.on(io::stdout().is_terminal()) }
    }

    /// For stderr.
    pub fn of_stderr(color: Color) -> Self {
        Self { on: color.on(io::stderr().is_terminal()) }
    }

    /// Whether escape codes may be written.
    pub fn is_on(&self) -> bool {
        self.on
    }

    fn dress(&self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Secondary text.
    pub fn dim(&self, text: &str) -> String {
        self.dress("2", text)
    }

    /// Headings.
    pub fn bold(&self, text: &str) -> String {
        self.dress("1", text)
    }

    /// Errors.
    pub fn red(&self, text: &str) -> String {
        self.dress("1;31", text)
    }

    /// Warnings.
    pub fn yellow(&self, text: &str) -> String {
        self.dress("33", text)
    }
}

/// Writes to stdout and flushes, so that streamed text is seen at once. A closed pipe comes back as an error that ends
/// the command in silence.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// [`out`] with a line end.
pub fn out_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes to stderr and flushes.
pub fn error(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// [`error`] with a line end.
pub fn error_line(text: &str) {
    error(&format!("{text}\n"));
}

/// Whether clap's help is coloured, which is decided before the command line is parsed.
pub fn help_color(words: &[OsString]) -> clap::ColorChoice {
    let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    let value = words.iter().enumerate().find_map(|(i, word)| match word.strip_prefix("--color")? {
        "" => words.get(i + 1).map(|next| next.to_string()),
        rest => rest.strip_prefix('=').map(str::to_owned),
    });
    match value.or_else(|| std::env::var("KINFER_COLOR").ok()).as_deref() {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}
