//! Exit codes, and errors to them.

use crate::term::{self, Style};
use kinfer::ErrorKind;
use kinfer::hub::HubError;
use std::fmt;
use std::io;
use std::process::ExitCode;

const RUNTIME: u8 = 1;
const USAGE: u8 = 2;
const MEMORY: u8 = 3;
const DEVICE: u8 = 4;
const NOT_FOUND: u8 = 5;
const BAD_MODEL: u8 = 6;
/// As shells count it: 128 and the number of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The codes, for `--help`.
pub const HELP: &str = "\
Exit codes: 0 done, 1 failed while running, 2 wrong usage, 3 does not fit in memory,
4 device not available, 5 model not found or download failed, 6 damaged or unsupported
model file, 130 interrupted";

/// Errors of the command itself.
#[derive(Debug)]
pub enum CliError {
    /// The user asked for something that cannot be.
    Usage(String),
    /// Ctrl+C.
    Interrupted,
}

impl CliError {
    /// A usage error as what commands return.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        CliError::Usage(message.into()).into()
    }
}

/// Refuses two flags that exclude each other, when both are given. By hand, since clap's `conflicts_with` counts a flag
/// that the environment switches off (`KINFER_RAW=0`) as given.
pub fn exclusive(a: (&str, bool), b: (&str, bool)) -> anyhow::Result<()> {
    match (a, b) {
        ((a, true), (b, true)) => {
            Err(CliError::usage(format!("{a} and {b} exclude each other; give one of them")))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Usage(message) => f.write_str(message),
            CliError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for CliError {}

/// What an error means for the process: `None` ends it in silence, as done.
fn code(error: &anyhow::Error) -> Option<u8> {
    for cause in error.chain() {
        if let Some(e) = cause.downcast_ref::<io::Error>()
            && e.kind() == io::ErrorKind::BrokenPipe
        {
            return None;
        }
        if let Some(e) = cause.downcast_ref::<CliError>() {
            return Some(match e {
                CliError::Usage(_) => USAGE,
                CliError::Interrupted => INTERRUPTED,
            });
        }
        if let Some(e) = cause.downcast_ref::<kinfer::Error>() {
            return Some(of_kinfer(e));
        }
        if let Some(e) = cause.downcast_ref::<HubError>() {
            return Some(of_hub(e));
        }
    }
    Some(RUNTIME)
}

fn of_kinfer(error: &kinfer::Error) -> u8 {
    if let kinfer::Error::Hub(e) = error {
        return of_hub(e);
    }
    match error.kind() {
        ErrorKind::Usage => USAGE,
        ErrorKind::Memory => MEMORY,
        ErrorKind::Device => DEVICE,
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::BadModel => BAD_MODEL,
        _ => RUNTIME,
    }
}

fn of_hub(error: &HubError) -> u8 {
    match error {
        HubError::Reference(_) | HubError::NotInCache { .. } => USAGE,
        HubError::Cancelled => INTERRUPTED,
        _ => NOT_FOUND,
    }
}

/// Tells the user, and gives the process's exit code.
pub fn report(error: &anyhow::Error, style: &Style) -> ExitCode {
    match code(error) {
        None => ExitCode::SUCCESS,
        // The shell shows `^C`, and who pressed it knows why it ended.
        Some(INTERRUPTED) => ExitCode::from(INTERRUPTED),
        Some(code) => {
            // The causes' own texts often hold those below them: print only what is new.
            let mut text = String::new();
            for cause in error.chain().map(ToString::to_string) {
                if text.is_empty() {
                    text = cause;
                } else if !text.contains(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            term::error_line(&format!("{} {text}", style.red("error:")));
            ExitCode::from(code)
        }
    }
}

/// Reports a usage error found before the context exists.
pub fn usage(message: &str) -> ExitCode {
    report(&CliError::usage(message), &Style::of_stderr(term::Color::Auto))
}

/// Reports what clap found: help and version go to stdout with code 0, the rest to stderr with code 2.
pub fn clap(error: clap::Error) -> ExitCode {
    let error = crate::argv::explain(error);
    let code = if error.use_stderr() { USAGE } else { 0 };
    // A closed pipe is no reason to fail.
    let _ = error.print();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_code() {
        let hub = |e: HubError| anyhow::Error::from(e);
        let kinfer = |e: kinfer::Error| anyhow::Error::from(e);
        let cases = [
            (anyhow::anyhow!("x"), Some(1)),
            (CliError::usage("x"), Some(2)),
            (kinfer(kinfer::Error::Usage("x".into())), Some(2)),
            (kinfer(kinfer::Error::Memory { what: "w".into(), needed: 2, available: 1 }), Some(3)),
            (kinfer(kinfer::Error::Device { device: "d".into(), reason: "r".into() }), Some(4)),
            (hub(HubError::NoGguf { repo: "u/r".into() }), Some(5)),
            (hub(HubError::NotInCache { path: "m.gguf".into() }), Some(2)),
            (hub(HubError::Cancelled), Some(130)),
            (CliError::Interrupted.into(), Some(130)),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), None),
            (
                kinfer(kinfer::Error::Device { device: "d".into(), reason: "r".into() }).context("while"),
                Some(4),
            ),
        ];
        for (error, want) in cases {
            assert_eq!(code(&error), want, "{error:#}");
        }
    }
}
