//! Texts from files that the user names.

use crate::exit::CliError;
use anyhow::Context;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The text of a file; `-` is standard input, which can be read once only.
///
/// # Errors
/// A usage error when there is no such file, or when it is not UTF-8.
pub fn read(path: &Path) -> anyhow::Result<String> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let (bytes, name) = if path == Path::new("-") {
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(CliError::usage("standard input is asked for twice; give one of the two as a file"));
        }
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
        (bytes, "standard input".to_owned())
    } else {
        let name = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|e| CliError::usage(format!("{name} cannot be read: {e}")))?;
        (bytes, name)
    };
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        CliError::usage(format!("{name} is not UTF-8 (byte {at}); convert it first, for example with iconv"))
    })?;
    if text.starts_with('\u{feff}') {
        // A byte order mark is an editor's note to other editors.
        text.remove(0);
    }
    Ok(text)
}
