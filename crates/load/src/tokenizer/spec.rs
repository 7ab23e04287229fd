//! A vocabulary as a model file describes it, before anything is checked.

use crate::gguf::{GgufError, Metadata};

/// Many short byte strings in one allocation.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// Room for `count` strings of `bytes` bytes in all.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Appends a string.
    pub fn push(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.ends.push(self.bytes.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.bytes.get(start..end)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let s = &self.bytes[start..end];
            start = end;
            s
        })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        let iter = iter.into_iter();
        // Pieces of the usual vocabularies average 6 to 8 bytes.
        let mut out = Self::with_capacity(iter.size_hint().0, iter.size_hint().0 * 8);
        for s in iter {
            out.push(s.as_ref());
        }
        out
    }
}

/// The `tokenizer.ggml.*` metadata of a GGUF file. `None` where the file says nothing; each field names its key.
///
/// `pre` is the field to set for an override (`--pre NAME`).
#[derive(Clone, Debug, Default)]
pub struct VocabSpec {
    /// `model`: the algorithm.
    pub model: String,
    /// `pre`: name of the pre-tokenizer, for byte-level BPE.
    pub pre: Option<String>,
    /// `tokens`: texts by id, in the algorithm's spelling (byte-level alphabet, `▁` for a space, …).
    pub tokens: Strings,
    /// `token_type`: by id; absent means all normal.
    pub types: Option<Vec<i32>>,
    /// `scores`: by id, for SentencePiece BPE.
    pub scores: Option<Vec<f32>>,
    /// `merges`: `left right`, best first, for BPE.
    pub merges: Strings,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `seperator_token_id` (spelled so in the format).
    pub sep: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `cls_token_id`.
    pub cls: Option<u32>,
    /// `mask_token_id`.
    pub mask: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_sep_token`.
    pub add_sep: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`; empty means none.
    pub precompiled_charsmap: Vec<u8>,
    /// `normalizer.lowercase`, for WordPiece.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`, for WordPiece.
    pub strip_accents: Option<bool>,
}

impl VocabSpec {
    /// The `tokenizer.ggml.*` keys of a GGUF file.
    ///
    /// # Errors
    /// The file names no tokenizer model or has no tokens, or a key is of another type than it should be.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, GgufError> {
        let id = |key: &str| match metadata.opt::<i64>(key)? {
            // Writers put -1, or what becomes of it in an unsigned field, for "none".
            None | Some(-1 | 0xFFFF_FFFF) => Ok(None),
            Some(_) => metadata.opt::<u32>(key),
        };
        let strings = |texts: Vec<&[u8]>| texts.into_iter().collect::<Strings>();
        Ok(Self {
            model: metadata.get::<&str>("tokenizer.ggml.model")?.to_owned(),
            pre: metadata.opt::<&str>("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens: strings(metadata.get("tokenizer.ggml.tokens")?),
            types: metadata.opt("tokenizer.ggml.token_type")?,
            scores: metadata.opt("tokenizer.ggml.scores")?,
            merges: metadata.opt("tokenizer.ggml.merges")?.map(strings).unwrap_or_default(),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            sep: id("tokenizer.ggml.seperator_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            cls: id("tokenizer.ggml.cls_token_id")?,
            mask: id("tokenizer.ggml.mask_token_id")?,
            add_bos: metadata.opt("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.opt("tokenizer.ggml.add_eos_token")?,
            add_sep: metadata.opt("tokenizer.ggml.add_sep_token")?,
            add_space_prefix: metadata.opt("tokenizer.ggml.add_space_prefix")?,
            remove_extra_whitespaces: metadata.opt("tokenizer.ggml.remove_extra_whitespaces")?,
            precompiled_charsmap: metadata.opt("tokenizer.ggml.precompiled_charsmap")?.unwrap_or_default(),
            lowercase: metadata.opt("tokenizer.ggml.normalizer.lowercase")?,
            strip_accents: metadata.opt("tokenizer.ggml.normalizer.strip_accents")?,
        })
    }
}
