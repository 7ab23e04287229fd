//! The checked vocabulary: each token's bytes and kind, and tokens by bytes.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use super::merge::NONE;
use super::spec::{Strings, VocabSpec};
use super::{TokenizerError, bytes};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Steers the model (BOS, turn marks); never made from text unless asked for.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Kept free, or spelled so that no text reaches it.
    Unused,
    /// One byte, for characters the vocabulary lacks.
    Byte,
}

impl TokenKind {
    fn of(id: usize, code: i32) -> Result<Self, TokenizerError> {
        Ok(match code {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(TokenizerError::BadTokenType { id: id as u32, found: code }),
        })
    }
}

/// How token texts are spelled in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Every byte as a printable character (byte-level BPE).
    ByteLevel,
    /// `▁` for a space (SentencePiece and WordPiece).
    Underline,
}

#[derive(Debug)]
pub(super) struct Vocab {
    // What each token emits, one after the other.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    pieces: HashTable<u32>,
    hasher: DefaultHashBuilder,
    byte_ids: [u32; 256],
}

impl Vocab {
    pub fn new(spec: &VocabSpec, spelling: Spelling) -> Result<Self, TokenizerError> {
        let count = spec.tokens.len();
        if count == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        // Ids and offsets are u32, with u32::MAX kept for "none".
        let limit = NONE as usize - 1;
        if count > limit || spec.tokens.byte_len() > limit {
            return Err(TokenizerError::VocabularyTooLarge {
                found: spec.tokens.byte_len().max(count),
                limit,
            });
        }
        if let Some(types) = &spec.types
            && types.len() != count
        {
            let key = "tokenizer.ggml.token_type";
            return Err(TokenizerError::LengthMismatch { key, expected: count, found: types.len() });
        }
        let mut vocab = Self {
            bytes: Vec::with_capacity(spec.tokens.byte_len()),
            ends: Vec::with_capacity(count),
            kinds: kinds(spec, count)?,
            pieces: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            byte_ids: [NONE; 256],
        };
        vocab.emit(&spec.tokens, spelling)?;
        vocab.index();
        Ok(vocab)
    }

    fn emit(&mut self, tokens: &Strings, spelling: Spelling) -> Result<(), TokenizerError> {
        for (id, text) in tokens.iter().enumerate() {
            match (self.kinds[id], spelling) {
                (TokenKind::Byte, _) => {
                    let byte = byte_token(text).ok_or_else(|| TokenizerError::BadByteToken {
                        id: id as u32,
                        text: String::from_utf8_lossy(text).into_owned(),
                    })?;
                    self.bytes.push(byte);
                    self.byte_ids[byte as usize] = id as u32;
                }
                (TokenKind::Normal, Spelling::ByteLevel) => {
                    if !bytes::decode_into(text, &mut self.bytes) {
                        // Outside the alphabet it stands for itself when decoded, as the reference decoders have it, and
                        // no text is encoded to it (Command R has a bare zero-width joiner beside the spelled one).
                        self.bytes.extend_from_slice(text);
                        self.kinds[id] = TokenKind::Unused;
                    }
                }
                (_, Spelling::ByteLevel) => self.bytes.extend_from_slice(text),
                (_, Spelling::Underline) => bytes::unescape_into(text, &mut self.bytes),
            }
            self.ends.push(self.bytes.len() as u32);
        }
        Ok(())
    }

    /// Indexes what may be made from text: normal pieces, then user-defined ones that no normal piece spells.
    fn index(&mut self) {
        for kind in [TokenKind::Normal, TokenKind::UserDefined] {
            for id in 0..self.len() {
                if self.kinds[id] != kind {
                    continue;
                }
                let piece = slice(&self.bytes, &self.ends, id);
                if piece.is_empty() {
                    continue;
                }
                let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
                self.pieces
                    .entry(
                        hasher.hash_one(piece),
                        |&other| slice(bytes, ends, other as usize) == piece,
                        |&other| hasher.hash_one(slice(bytes, ends, other as usize)),
                    )
                    .or_insert(id as u32);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The token that spells `piece`.
    pub fn find(&self, piece: &[u8]) -> Option<u32> {
        self.pieces
            .find(self.hasher.hash_one(piece), |&id| slice(&self.bytes, &self.ends, id as usize) == piece)
            .copied()
    }

    /// The byte token of `byte`.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        Some(self.byte_ids[byte as usize]).filter(|&id| id != NONE)
    }

    /// The bytes `id` emits.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.len()).then(|| slice(&self.bytes, &self.ends, id as usize))
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Makes `id` a control token, which text alone never gives.
    pub fn make_control(&mut self, id: u32) {
        let Some(kind) = self.kinds.get_mut(id as usize) else { return };
        *kind = TokenKind::Control;
        let hash = self.hasher.hash_one(slice(&self.bytes, &self.ends, id as usize));
        if let Ok(entry) = self.pieces.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
    }

    /// All tokens with their kinds and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, TokenKind, &[u8])> {
        self.kinds.iter().enumerate().map(|(id, &kind)| (id as u32, kind, slice(&self.bytes, &self.ends, id)))
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], id: usize) -> &'a [u8] {
    let start = if id == 0 { 0 } else { ends[id - 1] as usize };
    &bytes[start..ends[id] as usize]
}

fn kinds(spec: &VocabSpec, count: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    match &spec.types {
        Some(types) => types.iter().enumerate().map(|(id, &code)| TokenKind::of(id, code)).collect(),
        None => Ok(vec![TokenKind::Normal; count]),
    }
}

/// `<0x0A>` as 10.
fn byte_token(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    (hex.len() == 2).then_some(())?;
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}
