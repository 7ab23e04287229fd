//! How tokenizer.json prepares the text that Unigram spells: the components that stand for SentencePiece's options.

use base64::Engine;
use serde_json::Value as Json;

use super::vocab::{kind, parts, unknown};
use crate::gguf::Problem;

/// What happens to a text before Unigram spells it.
#[derive(Default)]
pub(super) struct Preparation {
    /// A table of characters.
    pub charsmap: Option<Vec<u8>>,
    /// A space comes before it.
    pub prefix: bool,
    /// All white space parts words.
    pub whitespace: bool,
    /// Words are spelled one by one.
    pub split: bool,
}

impl Preparation {
    /// From the components of tokenizer.json.
    pub fn read(normalizer: &Json, pre_tokenizer: &Json) -> Result<Preparation, Problem> {
        let mut found = Preparation::default();
        let (mut squeezed, mut stripped, mut spaced) = (false, false, false);
        for part in parts(normalizer, "normalizers") {
            let flag = |name: &str| part.get(name).and_then(Json::as_bool);
            let content = part.get("content").and_then(Json::as_str);
            let runs = part.pointer("/pattern/Regex").and_then(Json::as_str) == Some(" {2,}");
            match kind(part) {
                "Precompiled" if !squeezed && !stripped && found.charsmap.is_none() => {
                    let text = part.get("precompiled_charsmap").and_then(Json::as_str).unwrap_or_default();
                    let blob = base64::engine::general_purpose::STANDARD.decode(text);
                    found.charsmap = Some(blob.map_err(|_| unknown("normalizer", part))?);
                }
                "Strip" if flag("strip_right") == Some(true) => stripped = true,
                "Replace" if runs && matches!(content, Some("▁" | " ")) => squeezed = true,
                _ => return Err(unknown("normalizer", part)),
            }
        }
        for part in parts(pre_tokenizer, "pretokenizers") {
            // `add_prefix_space` is what it was called before.
            let scheme = part.get("prepend_scheme").and_then(Json::as_str);
            let prefix =
                scheme.map_or(part.get("add_prefix_space") != Some(&Json::Bool(false)), |s| s != "never");
            match kind(part) {
                "WhitespaceSplit" if !spaced => {
                    (found.whitespace, squeezed, stripped) = (true, true, true);
                }
                "Metaspace" if scheme != Some("first") && !spaced => {
                    (found.prefix, spaced) = (prefix, true);
                    found.split = part.get("split") != Some(&Json::Bool(false));
                }
                _ => return Err(unknown("pre_tokenizer", part)),
            }
        }
        // As SentencePiece's `remove_extra_whitespaces`; without it a space before the text would count in another way.
        if !(squeezed && stripped) {
            return Err(unknown("normalizer", normalizer));
        }
        // Metaspace is what writes spaces as the vocabulary has them.
        match spaced {
            true => Ok(found),
            false => Err(unknown("pre_tokenizer", pre_tokenizer)),
        }
    }
}
