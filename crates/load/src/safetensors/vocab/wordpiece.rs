//! WordPiece, as BERT has it.

use serde_json::{Map, Value as Json};

use super::{CONTROL, MAX_IDS, NORMAL, Tokenizer, UNUSED, USER_DEFINED, Vocab, kind, parts, unknown};
use crate::gguf::{Problem, Value};
use crate::safetensors::config::Entries;

impl Tokenizer {
    /// Adds the vocabulary to `entries`, for a model that computes `rows` tokens.
    pub(super) fn wordpiece(
        &self,
        config: &Map<String, Json>,
        rows: usize,
        entries: &mut Entries,
    ) -> Result<(), Problem> {
        let Vocab::Ids(ids) = &self.model.vocab else {
            return Err(unknown("model.vocab", &Json::from("no object of ids")));
        };
        if self.model.continuing_subword_prefix.as_deref() != Some("##") {
            let got = Json::from(self.model.continuing_subword_prefix.as_deref());
            return Err(unknown("model.continuing_subword_prefix", &got));
        }
        let last = ids.values().copied().chain(self.added_tokens.iter().map(|t| t.id)).max().unwrap_or(0);
        if last as usize >= MAX_IDS {
            let (what, got, limit) = ("ids of tokens", u64::from(last), MAX_IDS as u64);
            return Err(Problem::TooMany { what, got, limit });
        }
        let count = rows.min(MAX_IDS).max(last as usize + 1);
        let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; count];
        for (text, &id) in ids {
            // GGUF files mark the beginnings of words, not their other pieces.
            let piece = text.strip_prefix("##").map_or_else(|| format!("▁{text}"), str::to_owned);
            (tokens[id as usize], types[id as usize]) = (piece, NORMAL);
        }
        for token in &self.added_tokens {
            let kind = if token.special { CONTROL } else { USER_DEFINED };
            (tokens[token.id as usize], types[token.id as usize]) = (token.content.clone(), kind);
        }
        let id = |text: &str| tokens.iter().position(|t| t == text).map(|id| id as u32);
        let special = |key: &str, default: &str| {
            let token = config.get(key);
            let text = token.and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str()));
            id(text.unwrap_or(default))
        };
        let (cls, sep) = (special("cls_token", "[CLS]"), special("sep_token", "[SEP]"));
        self.frames(id, cls, sep)?;
        let mut set = |key: &str, value: Value| entries.push((format!("tokenizer.ggml.{key}"), value));
        for (key, flag) in self.bert_normalizer()? {
            set(key, flag.into());
        }
        for (key, id) in [
            ("cls_token_id", cls),
            ("seperator_token_id", sep),
            ("unknown_token_id", self.model.unk_token.as_deref().and_then(id)),
            ("padding_token_id", special("pad_token", "[PAD]")),
            ("mask_token_id", special("mask_token", "[MASK]")),
        ] {
            if let Some(id) = id {
                set(key, id.into());
            }
        }
        set("model", "bert".into());
        set("tokens", tokens.iter().map(String::as_str).collect::<Vec<_>>().as_slice().into());
        set("token_type", types.as_slice().into());
        Ok(())
    }

    /// What BERT's normaliser does that GGUF files tell of.
    fn bert_normalizer(&self) -> Result<Vec<(&'static str, bool)>, Problem> {
        let normalizer = &self.normalizer;
        let flag = |key: &str| normalizer.get(key).and_then(Json::as_bool);
        let all = flag("clean_text") == Some(true) && flag("handle_chinese_chars") == Some(true);
        let (Some(lowercase), true) = (flag("lowercase"), all && kind(normalizer) == "BertNormalizer") else {
            return Err(unknown("normalizer", normalizer));
        };
        if kind(&self.pre_tokenizer) != "BertPreTokenizer" {
            return Err(unknown("pre_tokenizer", &self.pre_tokenizer));
        }
        let strip = flag("strip_accents").unwrap_or(lowercase);
        Ok(vec![("normalizer.lowercase", lowercase), ("normalizer.strip_accents", strip)])
    }

    /// Fails unless a text is put between CLS and SEP, which is how such a vocabulary is read from GGUF files.
    fn frames(
        &self,
        id: impl Fn(&str) -> Option<u32>,
        cls: Option<u32>,
        sep: Option<u32>,
    ) -> Result<(), Problem> {
        let found = match parts(&self.post_processor, "processors")[..] {
            [part] if kind(part) == "BertProcessing" => {
                let token = |key: &str| part.pointer(&format!("/{key}/1"))?.as_u64().map(|id| id as u32);
                cls.is_some() && token("cls") == cls && sep.is_some() && token("sep") == sep
            }
            [part] if kind(part) == "TemplateProcessing" => {
                let pieces = part.get("single").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
                let token = |piece: &Json| piece.pointer("/SpecialToken/id")?.as_str().and_then(&id);
                matches!(pieces, [first, text, end] if cls.is_some() && token(first) == cls
                    && text.get("Sequence").is_some() && sep.is_some() && token(end) == sep)
            }
            _ => false,
        };
        match found {
            true => Ok(()),
            false => Err(unknown("post_processor", &self.post_processor)),
        }
    }
}
