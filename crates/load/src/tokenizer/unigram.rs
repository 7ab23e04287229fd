//! Unigram (Kudo 2018, arXiv:1804.10959): of all ways to spell a text in pieces, the one whose scores add up to most.

use super::TokenizerError;
use super::charsmap::Charsmap;
use super::merge::NONE;
use super::spec::VocabSpec;
use super::vocab::{TokenKind, Vocab};

/// What a space is written as in model files.
const UNDERLINE: char = '\u{2581}';
/// What a character without a piece costs beside the rarest piece.
const UNKNOWN_PENALTY: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// By id.
    scores: Vec<f32>,
    unknown: f64,
    unk: u32,
    /// Bytes of the longest piece.
    longest: usize,
    /// Whether no piece goes on after a space, so that a text can be spelled word by word.
    by_words: bool,
    charsmap: Option<Charsmap>,
    prefix: bool,
    squeeze: bool,
    split: bool,
}

/// The best spelling of a text up to some byte: its score, and the last piece with its start.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: u32,
    id: u32,
}

impl Unigram {
    pub fn new(spec: &VocabSpec, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let missing = |key| TokenizerError::MissingKey { model: spec.model.clone(), key };
        let key = "tokenizer.ggml.scores";
        let scores = spec.scores.clone().ok_or_else(|| missing(key))?;
        if scores.len() != vocab.len() {
            return Err(TokenizerError::LengthMismatch { key, expected: vocab.len(), found: scores.len() });
        }
        // Infinite ones would make sums that are no numbers.
        if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
            return Err(TokenizerError::BadScore { id: id as u32 });
        }
        let unk = spec.unk.or_else(|| vocab.iter().find(|t| t.1 == TokenKind::Unknown).map(|t| t.0));
        let unk = unk.ok_or_else(|| missing("tokenizer.ggml.unknown_token_id"))?;
        let pieces = || vocab.iter().filter(|t| matches!(t.1, TokenKind::Normal | TokenKind::UserDefined));
        let normal = pieces().filter(|t| t.1 == TokenKind::Normal);
        let worst = normal.map(|(id, ..)| scores[id as usize]).fold(f32::INFINITY, f32::min);
        let worst = if worst.is_finite() { worst } else { 0.0 };
        Ok(Self {
            unknown: f64::from(worst) - UNKNOWN_PENALTY,
            scores,
            unk,
            longest: pieces().map(|t| t.2.len()).max().unwrap_or(0),
            by_words: !pieces().any(|t| t.2.iter().skip(1).any(|&b| b == b' ')),
            charsmap: match spec.precompiled_charsmap.as_slice() {
                [] => None,
                blob => Some(Charsmap::new(blob)?),
            },
            prefix: spec.add_space_prefix.unwrap_or(false),
            squeeze: spec.remove_extra_whitespaces.unwrap_or(false),
            split: spec.whitespace_split,
        })
    }

    /// Whether a space is put before a text.
    pub fn adds_space(&self) -> bool {
        self.prefix
    }

    /// Appends the ids of `text`, which holds no special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = self.normalise(text);
        let mut best = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let first = rest.chars().next().map_or(0, char::len_utf8);
            let end = match self.by_words {
                true => rest[first..].find(' ').map_or(rest.len(), |at| first + at),
                false => rest.len(),
            };
            let (word, after) = rest.split_at(end);
            self.spell(vocab, word, &mut best, out)?;
            rest = after;
        }
        Ok(())
    }

    /// The text that is spelled: characters mapped, runs of spaces as one and none at the ends, and one before it all.
    fn normalise(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 1);
        let mut pending = self.prefix;
        // Whether nothing but spaces has been seen, or spaces last.
        let mut spaces = true;
        let mut push = |c: char| {
            if c == ' ' || self.split && c.is_whitespace() {
                if !self.squeeze {
                    out.extend(std::mem::take(&mut pending).then_some(' '));
                    out.push(' ');
                }
                spaces = true;
                return;
            }
            let before = self.squeeze && spaces && !out.is_empty();
            if std::mem::take(&mut pending) || before {
                out.push(' ');
            }
            spaces = false;
            // As it is spelled in the vocabulary.
            out.push(if c == UNDERLINE { ' ' } else { c });
        };
        match &self.charsmap {
            Some(map) => map.normalise(text, &mut push),
            None => text.chars().for_each(push),
        }
        out
    }

    fn spell(
        &self,
        vocab: &Vocab,
        text: &str,
        best: &mut Vec<Best>,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        best.clear();
        best.resize(text.len() + 1, Best { score: f64::NEG_INFINITY, start: 0, id: NONE });
        best[0].score = 0.0;
        let bytes = text.as_bytes();
        for (start, c) in text.char_indices() {
            let (before, first) = (best[start].score, start + c.len_utf8());
            let mut reach = |end: usize, score: f64, id: u32| {
                let score = before + score;
                if score > best[end].score {
                    best[end] = Best { score, start: start as u32, id };
                }
            };
            let mut alone = false;
            let last = text.len().min(start.saturating_add(self.longest));
            for end in (first..=last).filter(|&end| text.is_char_boundary(end)) {
                if let Some(id) = vocab.find(&bytes[start..end]) {
                    reach(end, f64::from(self.scores[id as usize]), id);
                    alone |= end == first;
                }
            }
            if !alone {
                reach(first, self.unknown, NONE);
            }
        }
        let begin = out.len();
        let mut end = text.len();
        // From the end: neighbours without a piece are one unknown token, or the bytes of each.
        let mut unknown = false;
        while end > 0 {
            let Best { start, id, .. } = best[end];
            let start = start as usize;
            if id != NONE {
                out.push(id);
            } else if bytes[start..end].iter().all(|&b| vocab.byte(b).is_some()) {
                out.extend(bytes[start..end].iter().rev().filter_map(|&b| vocab.byte(b)));
            } else if !unknown {
                out.push(self.unk);
            }
            unknown = id == NONE;
            end = start;
        }
        out[begin..].reverse();
        Ok(())
    }
}
