//! Text to token ids and back, from the vocabulary inside a model file.
//!
//! [`VocabSpec`] is what the file says; [`Tokenizer::new`] checks it and builds one of five algorithms: byte-level BPE,
//! SentencePiece BPE, character BPE with byte fallback, Unigram, WordPiece. Ids equal those of the tokenizers the models were
//! trained with; where text could be read as a control token, it is so only when asked for ([`Encode::special`]).

mod bpe;
mod bytes;
mod charsmap;
mod error;
mod merge;
mod metadata;
mod pre;
mod spec;
mod special;
mod spm;
mod unigram;
mod vocab;
mod wordpiece;

pub(crate) use bytes::in_alphabet;
pub use error::TokenizerError;
pub(crate) use pre::pre_tokenizer_of;
pub use pre::pre_tokenizers;
pub use spec::{Strings, VocabSpec};
pub use vocab::TokenKind;

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use bpe::Bpe;
use merge::Merger;
use pre::PreTokenizer;
use special::{Part, Specials};
use spm::Spm;
use unigram::Unigram;
use vocab::{Spelling, Vocab};
use wordpiece::WordPiece;

/// What [`Tokenizer::encode`] does beside splitting the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Whether the text of control tokens (`<|im_start|>`) becomes those tokens. Right for a rendered chat template,
    /// wrong for what a user typed. User-defined tokens are always recognised.
    pub special: bool,
    /// Whether BOS comes first; `None`: as the model declares.
    pub bos: Option<bool>,
    /// Whether EOS comes last (for WordPiece, SEP); `None`: as the model declares.
    pub eos: Option<bool>,
}

impl Encode {
    /// Only the text: no control tokens, nothing added.
    pub fn text() -> Self {
        Self { special: false, bos: Some(false), eos: Some(false) }
    }

    /// A rendered chat template, which writes its own BOS: control tokens are recognised, nothing is added.
    pub fn rendered() -> Self {
        Self { special: true, bos: Some(false), eos: Some(false) }
    }
}

/// A vocabulary and the algorithm that spells text with it. `Send + Sync`; encoding takes `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    algorithm: Algorithm,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    // Added after the text where the model says so: EOS, SEP.
    closing: Vec<u32>,
    end_ids: Vec<u32>,
    space_prefix: bool,
    squeeze_spaces: bool,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// Checks `spec` and builds its tables.
    ///
    /// # Errors
    /// An algorithm or pre-tokenizer that is not implemented (the message lists those that are), and every
    /// inconsistency of the arrays and ids.
    pub fn new(spec: &VocabSpec) -> Result<Self, TokenizerError> {
        let pre = match spec.model.as_str() {
            "gpt2" => {
                let mut pre = PreTokenizer::named(spec.pre.as_deref().ok_or_else(PreTokenizer::missing)?)?;
                pre.nfc |= spec.nfc;
                Some(pre)
            }
            "gemma4" => Some(PreTokenizer::gemma4()?),
            "whitespace" => Some(PreTokenizer::whitespace(spec.pre.as_deref())?),
            _ => None,
        };
        let spelling = match (spec.model.as_str(), &pre) {
            ("gpt2", Some(pre)) if !pre.raw => Spelling::ByteLevel,
            ("gpt2" | "llama" | "gemma4" | "whitespace" | "t5" | "bert", _) => Spelling::Underline,
            _ => return Err(TokenizerError::UnsupportedModel { found: spec.model.clone() }),
        };
        let unsupported = |key| TokenizerError::UnsupportedNormalizer { key, model: spec.model.clone() };
        let is_unigram = spec.model == "t5";
        if !spec.precompiled_charsmap.is_empty() && !is_unigram {
            return Err(unsupported("tokenizer.ggml.precompiled_charsmap"));
        }
        let mut vocab = Vocab::new(spec, spelling)?;
        check_ids(spec, vocab.len())?;
        let end_ids = special::end_ids(spec, &mut vocab);
        let algorithm = match (spec.model.as_str(), pre) {
            (_, Some(pre)) => Algorithm::Bpe(Box::new(Bpe::new(spec, &vocab, pre, spelling)?)),
            ("t5", None) => Algorithm::Unigram(Unigram::new(spec, &vocab)?),
            ("bert", None) => Algorithm::WordPiece(WordPiece::new(spec, &vocab)?),
            (_, None) => Algorithm::Spm(Spm::new(spec, &vocab)?),
        };
        let (is_spm, is_wordpiece) =
            (matches!(algorithm, Algorithm::Spm(_)), matches!(algorithm, Algorithm::WordPiece(_)));
        // Unigram does it after its table of characters.
        let squeeze_spaces = spec.remove_extra_whitespaces == Some(true) && !is_unigram;
        if squeeze_spaces && !is_spm {
            return Err(unsupported("tokenizer.ggml.remove_extra_whitespaces"));
        }
        // BERT's sentence frame: CLS in the place of BOS, SEP in the place of EOS.
        let bos = if is_wordpiece { spec.cls.or(spec.bos) } else { spec.bos };
        let add_bos = match (&algorithm, spec.add_bos) {
            // Gemma 4 needs BOS; files that say otherwise are known to be wrong.
            (Algorithm::Bpe(_), _) if spec.model == "gemma4" => true,
            (_, Some(declared)) => declared,
            (Algorithm::Bpe(bpe), None) => bpe.pre.add_bos,
            (Algorithm::Unigram(_), None) => false,
            (Algorithm::Spm(_) | Algorithm::WordPiece(_), None) => true,
        };
        let missing = |key| TokenizerError::MissingKey { model: spec.model.clone(), key };
        if add_bos && bos.is_none() {
            return Err(missing("tokenizer.ggml.bos_token_id"));
        }
        let mut closing = vec![];
        if spec.add_eos.unwrap_or(is_unigram && spec.eos.is_some()) {
            closing.push(spec.eos.ok_or_else(|| missing("tokenizer.ggml.eos_token_id"))?);
        }
        if spec.add_sep.unwrap_or(is_wordpiece) {
            closing.push(spec.sep.ok_or_else(|| missing("tokenizer.ggml.seperator_token_id"))?);
        }
        Ok(Self {
            specials: Specials::new(&vocab, spec)?,
            vocab,
            bos,
            eos: spec.eos,
            unk: spec.unk,
            pad: spec.pad,
            add_bos,
            closing,
            end_ids,
            space_prefix: match &algorithm {
                Algorithm::Spm(_) => spec.add_space_prefix.unwrap_or(true),
                Algorithm::Unigram(unigram) => unigram.adds_space(),
                Algorithm::Bpe(_) | Algorithm::WordPiece(_) => false,
            },
            algorithm,
            squeeze_spaces,
        })
    }

    /// The ids of `text`. As in the reference implementations, bytes that a byte-level vocabulary without an unknown token
    /// cannot spell are left out; those that lack any lack a few control characters and bytes of unassigned planes.
    ///
    /// # Errors
    /// A character that the vocabulary has no token for, not even an unknown one; a BOS or EOS that was asked for but does
    /// not exist; a text of more than 1 GiB.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>, TokenizerError> {
        self.encode_around(text, options, &[])
    }

    /// The ids of a rendered chat template ([`Encode::rendered`]), in which no control token begins at a byte offset of
    /// `plain` (ascending): there the text was typed, see [`Self::control_texts`].
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, plain: &[usize]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_around(text, Encode::rendered(), plain)
    }

    /// Where `text` spells control tokens (`<|im_start|>`), by ascending start. User-defined tokens are none: they are text
    /// that is one token wherever it stands.
    pub fn control_texts(&self, text: &str) -> Vec<Range<usize>> {
        self.specials.controls(&self.vocab, text)
    }

    fn encode_around(
        &self,
        text: &str,
        options: Encode,
        plain: &[usize],
    ) -> Result<Vec<u32>, TokenizerError> {
        // Offsets are u32, and an escaped or normalised text can be three times as long.
        const LIMIT: usize = 1 << 30;
        if text.len() > LIMIT {
            return Err(TokenizerError::TextTooLong { found: text.len(), limit: LIMIT });
        }
        // About 4 bytes a token in English, 3 in Korean.
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if options.bos.unwrap_or(self.add_bos) {
            let key = "tokenizer.ggml.bos_token_id";
            ids.push(self.bos.ok_or(TokenizerError::NoSuchSpecial { name: "BOS", key })?);
        }
        let mut merger = Merger::default();
        let mut after_special = true;
        let squeezed = if self.squeeze_spaces { squeeze(text) } else { Cow::Borrowed(text) };
        let plain = moved(text, &squeezed, plain);
        self.specials.split(&squeezed, options.special, &plain, |part| {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.encode_text(text, after_special, &mut merger, &mut ids)?,
            }
            after_special = matches!(part, Part::Token(_));
            Ok(())
        })?;
        match options.eos {
            Some(true) if self.closing.is_empty() => {
                let key = "tokenizer.ggml.eos_token_id";
                ids.push(self.eos.ok_or(TokenizerError::NoSuchSpecial { name: "EOS", key })?);
            }
            Some(false) => {}
            Some(true) | None => ids.extend_from_slice(&self.closing),
        }
        Ok(ids)
    }

    fn encode_text(
        &self,
        text: &str,
        after_special: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => {
                let text = if bpe.pre.nfc && !is_nfc(text) {
                    Cow::Owned(text.nfc().collect())
                } else {
                    Cow::Borrowed(text)
                };
                bpe.encode(&self.vocab, &plain_spaces(&text, bpe.spelling()), merger, ids)
            }
            Algorithm::Spm(spm) => {
                let text = plain_spaces(text, Spelling::Underline);
                let text =
                    if self.space_prefix && after_special { Cow::Owned(format!(" {text}")) } else { text };
                spm.encode(&self.vocab, &text, merger, ids)
            }
            Algorithm::Unigram(unigram) => unigram.encode(&self.vocab, text, ids),
            Algorithm::WordPiece(wordpiece) => {
                wordpiece.encode(&self.vocab, text, ids);
                Ok(())
            }
        }
    }

    /// The exact bytes `id` adds to a text: parts of characters for byte-level pieces and byte tokens, the token's own text
    /// (`<|im_end|>`) for control tokens. `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.bytes(id)
    }

    /// What `id` is for. `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kind(id)
    }

    /// Whether `id` steers the model rather than being text: a control or unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The bytes of a sequence, without the space that [`Self::strips_leading_space`] tells of. Not always whole
    /// characters: a sequence may end inside one.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<Vec<u8>, TokenizerError> {
        let mut out = Vec::with_capacity(ids.len() * 4);
        let mut strip = self.strips_leading_space();
        for &id in ids {
            let size = self.vocab_size();
            let bytes = self.token_bytes(id).ok_or(TokenizerError::NoSuchToken { id, size })?;
            if self.is_special(id) {
                if !skip_special {
                    out.extend_from_slice(bytes);
                }
                continue;
            }
            out.extend_from_slice(if strip { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes });
            strip = false;
        }
        Ok(out)
    }

    /// Whether encoding puts a space before the text's first word, so that the first piece that is not special loses
    /// one leading space when a whole text (not a continuation) is decoded.
    pub fn strips_leading_space(&self) -> bool {
        self.space_prefix || matches!(self.algorithm, Algorithm::WordPiece(_))
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text (for WordPiece, CLS).
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what the vocabulary cannot spell.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// The token that fills up batches.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Whether the model expects BOS before a text.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The ids that end a generation, ascending: EOS, end of turn, end of message, and known ones by name.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Whether `id` ends a generation.
    pub fn is_end(&self, id: u32) -> bool {
        self.end_ids.binary_search(&id).is_ok()
    }

    /// The special or user-defined token whose text is `text` (`<think>`).
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.specials.find(text)
    }
}

/// Every id the file gives must be a token.
fn check_ids(spec: &VocabSpec, size: usize) -> Result<(), TokenizerError> {
    let ids = [
        ("tokenizer.ggml.bos_token_id", spec.bos),
        ("tokenizer.ggml.eos_token_id", spec.eos),
        ("tokenizer.ggml.eot_token_id", spec.eot),
        ("tokenizer.ggml.eom_token_id", spec.eom),
        ("tokenizer.ggml.unknown_token_id", spec.unk),
        ("tokenizer.ggml.seperator_token_id", spec.sep),
        ("tokenizer.ggml.padding_token_id", spec.pad),
        ("tokenizer.ggml.cls_token_id", spec.cls),
        ("tokenizer.ggml.mask_token_id", spec.mask),
    ];
    for (key, id) in ids {
        if let Some(id) = id
            && id as usize >= size
        {
            return Err(TokenizerError::IdOutOfRange { key, id, size });
        }
    }
    Ok(())
}

/// `▁` is a space to vocabularies that write spaces so, also when it stands in the text.
fn plain_spaces(text: &str, spelling: Spelling) -> Cow<'_, str> {
    if spelling == Spelling::Underline && text.contains(bytes::UNDERLINE) {
        Cow::Owned(text.replace(bytes::UNDERLINE, " "))
    } else {
        Cow::Borrowed(text)
    }
}

/// The offsets in `squeezed` of the same characters: all but spaces are in both texts.
fn moved<'o>(text: &str, squeezed: &str, offsets: &'o [usize]) -> Cow<'o, [usize]> {
    if text.len() == squeezed.len() {
        return Cow::Borrowed(offsets);
    }
    let others = |text: &str| text.bytes().filter(|&b| b != b' ').count();
    let place = |n| squeezed.bytes().enumerate().filter(|&(_, b)| b != b' ').nth(n).map(|(at, _)| at);
    offsets.iter().filter_map(|&at| place(others(&text[..at]))).collect()
}

/// Runs of spaces as one, none at the ends (sentencepiece's `remove_extra_whitespaces`).
fn squeeze(text: &str) -> Cow<'_, str> {
    let text = text.trim_matches(' ');
    if !text.contains("  ") {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}
