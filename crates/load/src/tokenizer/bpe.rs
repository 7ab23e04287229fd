//! BPE by merge list: byte-level (GPT-2 and most models since), and over characters with byte fallback (Gemma 4).

use std::borrow::Cow;

use hashbrown::HashMap;

use super::merge::{Merger, NONE};
use super::pre::{PreTokenizer, WholePiece};
use super::spec::{Strings, VocabSpec};
use super::vocab::{Spelling, TokenKind, Vocab};
use super::{TokenizerError, bytes};

#[derive(Debug)]
pub(super) struct Bpe {
    pub pre: PreTokenizer,
    spelling: Spelling,
    // (left id, right id) -> (rank, merged id)
    merges: HashMap<u64, (u32, u32)>,
    byte_ids: [u32; 256],
    unk: Option<u32>,
    words: Option<Words>,
}

/// What of a text reaches the merges where they are of words (`whitespace`): no white space, and no character without a token.
#[derive(Clone, Copy, Debug)]
struct Words {
    lowercase: bool,
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    pub fn new(
        spec: &VocabSpec,
        vocab: &Vocab,
        pre: PreTokenizer,
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        if spec.merges.is_empty() {
            let key = "tokenizer.ggml.merges";
            return Err(TokenizerError::MissingKey { model: spec.model.clone(), key });
        }
        let mut byte_ids = [NONE; 256];
        for (byte, id) in (0..=255).zip(&mut byte_ids) {
            *id = match spelling {
                Spelling::ByteLevel => vocab.find(&[byte]),
                Spelling::Underline => vocab.byte(byte),
            }
            .unwrap_or(NONE);
        }
        // Byte-level files often name their end of text here, which no text may turn into.
        let unk = spec.unk.filter(|&id| vocab.kind(id) != Some(TokenKind::Control));
        let unk = unk.filter(|_| spec.model != "whitespace");
        let words = (spec.model == "whitespace").then(|| Words { lowercase: spec.lowercase == Some(true) });
        Ok(Self { pre, spelling, merges: merges(&spec.merges, vocab, spelling)?, byte_ids, unk, words })
    }

    /// How the vocabulary's pieces are written.
    pub fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// Appends the ids of `text`, which holds no special tokens.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match self.words {
            Some(words) => {
                let lower = if words.lowercase {
                    Cow::Owned(text.chars().flat_map(char::to_lowercase).collect())
                } else {
                    Cow::Borrowed(text)
                };
                self.pre.split(&lower, |piece| match piece.trim().is_empty() {
                    true => Ok(()),
                    false => self.encode_piece(vocab, piece, merger, out),
                })
            }
            None => self.pre.split(text, |piece| self.encode_piece(vocab, piece, merger, out)),
        }
    }

    fn encode_piece(
        &self,
        vocab: &Vocab,
        piece: &str,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let whole = match self.pre.whole_piece {
            WholePiece::Never => false,
            WholePiece::Always => true,
            WholePiece::LineFeeds => piece.bytes().all(|b| b == b'\n'),
        };
        if whole && let Some(id) = vocab.find(piece.as_bytes()) {
            out.push(id);
            return Ok(());
        }
        merger.clear();
        match self.spelling {
            Spelling::ByteLevel => {
                for (at, byte) in (0u32..).zip(piece.bytes()) {
                    // Like the reference implementations: a byte that was never seen in training (SmolLM2 lacks six
                    // control characters and two lead bytes of unassigned planes) is the unknown token or, without
                    // one, nothing.
                    let id = self.byte_ids[byte as usize];
                    if id != NONE || self.unk.is_some() {
                        merger.push(id, at, at + 1);
                    }
                }
            }
            Spelling::Underline => {
                for (at, c) in piece.char_indices() {
                    let end = at + c.len_utf8();
                    if let Some(id) = vocab.find(&piece.as_bytes()[at..end]) {
                        merger.push(id, at as u32, end as u32);
                        continue;
                    }
                    for (at, byte) in (at..).zip(piece[at..end].bytes()) {
                        let id = self.byte_ids[byte as usize];
                        if id == NONE && self.unk.is_none() && self.words.is_none() {
                            return Err(TokenizerError::Unencodable { byte, text: piece.into() });
                        }
                        merger.push(id, at as u32, at as u32 + 1);
                    }
                }
            }
        }
        let merged = merger.run(|l, r| self.merges.get(&key(l.id, r.id)).copied());
        out.extend(merged.filter_map(|s| if s.id == NONE { self.unk } else { Some(s.id) }));
        Ok(())
    }
}

fn merges(
    list: &Strings,
    vocab: &Vocab,
    spelling: Spelling,
) -> Result<HashMap<u64, (u32, u32)>, TokenizerError> {
    let mut merges = HashMap::with_capacity(list.len());
    let mut buffer = Vec::new();
    for (rank, merge) in list.iter().enumerate() {
        let lossy = |s: &[u8]| String::from_utf8_lossy(s).into_owned();
        let bad = || TokenizerError::BadMerge { index: rank, text: lossy(merge) };
        // A piece may itself start with a space in character BPE, so the separator is looked for after the first byte.
        let at = merge.iter().skip(1).position(|&b| b == b' ').ok_or_else(bad)? + 1;
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        buffer.clear();
        let mut append = |part: &[u8]| match spelling {
            Spelling::ByteLevel => {
                bytes::decode_into(part, &mut buffer).then_some(buffer.len()).ok_or_else(bad)
            }
            Spelling::Underline => {
                bytes::unescape_into(part, &mut buffer);
                Ok(buffer.len())
            }
        };
        let middle = append(left)?;
        append(right)?;
        let find = |piece: &[u8]| {
            vocab.find(piece).ok_or_else(|| TokenizerError::MergeNotInVocabulary {
                index: rank,
                text: lossy(merge),
                piece: lossy(piece),
            })
        };
        let (l, r, merged) = (find(&buffer[..middle])?, find(&buffer[middle..])?, find(&buffer)?);
        // The first of two equal merges counts: the list is in order of preference.
        merges.entry(key(l, r)).or_insert((rank as u32, merged));
    }
    Ok(merges)
}
