//! Reading what a person types: line editing, history, several lines between `"""`.
//!
//! rustyline rather than reedline: both edit wide characters right, and rustyline brings a third of the crates.

use super::commands::NAMES;
use crate::ctx::Ctx;
use rustyline::completion::Completer;
use rustyline::config::{BellStyle, Builder};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::path::{Path, PathBuf};

/// Opens and closes a message of several lines.
pub const FENCE: &str = "\"\"\"";

const PROMPT: &str = ">>> ";

/// What a person entered.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, or several between fences, which are taken off.
    Text(String),
    /// Ctrl+C.
    Interrupt,
    /// Ctrl+D.
    End,
}

/// The line editor.
pub struct LineEditor {
    editor: Editor<Rules, FileHistory>,
    prompt: (String, String),
    history: Option<PathBuf>,
}

impl LineEditor {
    /// An editor with the history of earlier chats, unless that is not wanted.
    pub fn new(ctx: &Ctx, keep_history: bool) -> anyhow::Result<Self> {
        let config = Builder::new().bell_style(BellStyle::None).max_history_size(1000)?.build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Rules));
        let mut history = None;
        if keep_history && let Some(path) = history_file() {
            match prepare(&path) {
                Ok(()) => {
                    // An unreadable history is not worth a chat; it is written anew.
                    let _ = editor.load_history(&path);
                    history = Some(path);
                }
                Err(e) => ctx.warn(&format!("no history is kept: {}: {e}", path.display())),
            }
        }
        Ok(Self { editor, prompt: (PROMPT.into(), ctx.out.bold(PROMPT)), history })
    }

    /// The next input.
    pub fn read(&mut self) -> anyhow::Result<Input> {
        match self.editor.readline(&self.prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    self.editor.add_history_entry(line.as_str())?;
                    if let Some(path) = &self.history {
                        // A full disk must not end the chat.
                        let _ = self.editor.append_history(path);
                    }
                }
                Ok(Input::Text(unfence(&line)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupt),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(e) => Err(e.into()),
        }
    }
}

/// `$XDG_STATE_HOME/kinfer/history`, by default below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state.join("kinfer/history"))
}

/// Makes the history file, readable by its owner only: it holds what a person said.
fn prepare(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Whether a message of several lines is still open.
fn is_open(text: &str) -> bool {
    match text.trim_start().strip_prefix(FENCE) {
        Some(rest) => !rest.trim_end().ends_with(FENCE),
        None => false,
    }
}

/// What was said, without the fences and the line breaks next to them.
fn unfence(text: &str) -> String {
    let inner = text.trim_start().strip_prefix(FENCE).and_then(|rest| rest.trim_end().strip_suffix(FENCE));
    match inner {
        Some(inner) => {
            let inner = inner.strip_prefix('\n').unwrap_or(inner);
            inner.strip_suffix('\n').unwrap_or(inner).to_owned()
        }
        None => text.trim().to_owned(),
    }
}

/// The editor's rules.
struct Rules;

impl Helper for Rules {}
impl Highlighter for Rules {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> std::borrow::Cow<'b, str> {
        prompt.into()
    }
}

impl Hinter for Rules {
    type Hint = String;
}

impl Validator for Rules {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_open(ctx.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Rules {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or(line);
        let fits = |name: &&&str| typed.starts_with('/') && name.starts_with(typed);
        Ok((0, NAMES.iter().filter(fits).map(|name| format!("{name} ")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_hold_several_lines() {
        for (text, open) in [
            ("안녕", false),
            ("\"\"\"", true),
            ("\"\"\"a\nb", true),
            ("\"\"\"a\"\"\"", false),
            ("say \"\"\"", false),
        ] {
            assert_eq!(is_open(text), open, "{text:?}");
        }
        assert_eq!(unfence("  hi \n"), "hi");
        assert_eq!(unfence("\"\"\"\n첫째 줄\n  둘째\n\"\"\""), "첫째 줄\n  둘째");
        assert_eq!(unfence("\"\"\"one\"\"\""), "one");
    }
}
