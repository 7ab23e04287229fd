//! SentencePiece BPE (Kudo & Richardson 2018, arXiv:1808.06226): neighbours merge when their text is a piece, best score
//! first; characters without a piece fall back to bytes.

use super::TokenizerError;
use super::merge::{Merger, NONE};
use super::spec::VocabSpec;
use super::vocab::{TokenKind, Vocab};

#[derive(Debug)]
pub(super) struct Spm {
    // By id; lower is better.
    ranks: Vec<u32>,
    unk: Option<u32>,
}

impl Spm {
    pub fn new(spec: &VocabSpec, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let key = "tokenizer.ggml.scores";
        let scores = spec
            .scores
            .as_ref()
            .ok_or_else(|| TokenizerError::MissingKey { model: spec.model.clone(), key })?;
        if scores.len() != vocab.len() {
            return Err(TokenizerError::LengthMismatch { key, expected: vocab.len(), found: scores.len() });
        }
        let rank = |(id, &score): (usize, &f32)| {
            if score.is_nan() { Err(TokenizerError::BadScore { id: id as u32 }) } else { Ok(rank(score)) }
        };
        let ranks = scores.iter().enumerate().map(rank).collect::<Result<_, _>>()?;
        // Sentencepiece gives the unknown token when there are no byte tokens.
        let unk = spec.unk.or_else(|| vocab.iter().find(|t| t.1 == TokenKind::Unknown).map(|t| t.0));
        Ok(Self { ranks, unk })
    }

    /// Appends the ids of `text`, which holds no special tokens.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let bytes = text.as_bytes();
        merger.clear();
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            merger.push(vocab.find(&bytes[at..end]).unwrap_or(NONE), at as u32, end as u32);
        }
        let left = merger.run(|l, r| {
            let id = vocab.find(&bytes[l.start as usize..r.end as usize])?;
            Some((self.ranks[id as usize], id))
        });
        for symbol in left {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            let char = &text[symbol.start as usize..symbol.end as usize];
            for byte in char.bytes() {
                let missing = || TokenizerError::Unencodable { byte, text: char.into() };
                out.push(vocab.byte(byte).or(self.unk).ok_or_else(missing)?);
            }
        }
        Ok(())
    }
}

/// Maps a score to an integer that orders the other way round: the bits of an IEEE float order like the number once the
/// sign bit is flipped (all bits where negative).
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0.0 becomes 0.0
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn higher_scores_rank_first() {
        let scores = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -1.0, -261_000.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(0.0), rank(-0.0));
    }
}
