//! A vocabulary as a model file describes it, before anything is checked.

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
    /// `scores`: by id, for SentencePiece BPE and Unigram.
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
    /// `kinfer.nfc`: text is brought to normal form C, also where files with this pre-tokenizer do not ask for it; for byte-level BPE.
    pub nfc: bool,
    /// `kinfer.whitespace_split`: all white space parts words as spaces do, for Unigram (`WhitespaceSplit` in tokenizer.json).
    pub whitespace_split: bool,
    /// `kinfer.lstrip_token_ids`: control tokens that swallow the white space before them (`lstrip` in tokenizer.json).
    pub lstrip: Vec<u32>,
    /// `kinfer.rstrip_token_ids`: control tokens that swallow the white space after them (`rstrip` in tokenizer.json).
    pub rstrip: Vec<u32>,
    /// `normalizer.lowercase`, for WordPiece and BPE of words.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`, for WordPiece.
    pub strip_accents: Option<bool>,
}
