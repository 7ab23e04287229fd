//! How tokenizer.json splits text before merging, as patterns.

use serde_json::Value as Json;

use super::{Merge, kind, parts, unknown};
use crate::gguf::Problem;

/// How text is split before merging.
pub(super) enum Split {
    /// Into pieces of a byte-level alphabet: patterns, and whether white space before a word is shared out.
    ByteLevel(Vec<(String, bool)>),
    /// Not at all.
    None,
}

/// The patterns of a `pre_tokenizer`, whose pieces are merged by `merges`.
pub(super) fn stages(pre_tokenizer: &Json, merges: &[Merge]) -> Result<Split, Problem> {
    /// What ByteLevel splits by.
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
    const TAIL: &str = r"|\s+(?!\S)|\s+";
    /// Digits of ASCII, which the alphabet of bytes spells as they are.
    const THREE_DIGITS: &str = "[0-9][0-9][0-9]";
    let (mut stages, mut bytes) = (Vec::new(), false);
    let all = parts(pre_tokenizer, "pretokenizers");
    if !all.iter().any(|part| kind(part) == "ByteLevel") {
        return Ok(Split::None);
    }
    for part in all {
        let flag = |name: &str| part.get(name).and_then(Json::as_bool);
        let behavior = part.get("behavior").and_then(Json::as_str);
        let pattern = part.pointer("/pattern/Regex").and_then(Json::as_str);
        match kind(part) {
            "ByteLevel" if flag("add_prefix_space") != Some(true) && !bytes => {
                bytes = true;
                if flag("use_regex").unwrap_or(true) {
                    stages.push((GPT2.to_owned(), true));
                }
            }
            "Punctuation" if !bytes && behavior == Some("Contiguous") => {
                stages.push((r"[\p{P}$+<=>^~|`]+".to_owned(), false));
            }
            // After ByteLevel patterns see its alphabet instead of the text.
            "Digits" if !bytes => {
                let each = flag("individual_digits") == Some(true);
                stages.push((if each { r"\p{N}" } else { r"\p{N}+" }.to_owned(), false));
            }
            // What no merge would join is parted in any case.
            "Digits" if flag("individual_digits") == Some(false) && !join_digits(merges) => {}
            "Split" if !bytes || pattern == Some(THREE_DIGITS) => {
                let pattern = pattern.ok_or_else(|| unknown("pre_tokenizer", part))?;
                let words = pattern.strip_suffix(TAIL);
                // The pattern of words matches all of a text, so keeping its matches is cutting them out.
                let kept = behavior == Some("Removed") && flag("invert") == Some(true) && words.is_some();
                if !kept && (behavior != Some("Isolated") || flag("invert") == Some(true)) {
                    return Err(unknown("pre_tokenizer", part));
                }
                stages.push((words.unwrap_or(pattern).to_owned(), words.is_some()));
            }
            _ => return Err(unknown("pre_tokenizer", part)),
        }
    }
    Ok(Split::ByteLevel(stages))
}

/// Whether a merge joins a digit with something else.
fn join_digits(merges: &[Merge]) -> bool {
    let is_digit = |c: Option<char>| c.is_some_and(char::is_numeric);
    merges.iter().any(|merge| match merge.halves() {
        Some((l, r)) => is_digit(l.chars().next_back()) != is_digit(r.chars().next()),
        None => true,
    })
}
