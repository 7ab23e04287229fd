//! WordPiece (Devlin et al. 2018, arXiv:1810.04805): words by white space, punctuation and CJK characters, each spelled by
//! the longest pieces from the left.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::TokenizerError;
use super::spec::VocabSpec;
use super::vocab::Vocab;

#[derive(Debug)]
pub(super) struct WordPiece {
    unk: u32,
    lowercase: bool,
    strip_accents: bool,
    longest: usize,
}

impl WordPiece {
    pub fn new(spec: &VocabSpec, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let key = "tokenizer.ggml.unknown_token_id";
        let unk = spec.unk.ok_or_else(|| TokenizerError::MissingKey { model: spec.model.clone(), key })?;
        let lowercase = spec.lowercase.unwrap_or(true);
        Ok(Self {
            unk,
            lowercase,
            strip_accents: spec.strip_accents.unwrap_or(lowercase),
            longest: vocab.iter().map(|(_, _, bytes)| bytes.len()).max().unwrap_or(0),
        })
    }

    /// Appends the ids of `text`, which holds no special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        // Pieces that start a word are stored with a space in front.
        let mut word = String::from(" ");
        let mut flush = |word: &mut String| {
            if word.len() > 1 {
                self.spell(vocab, word, out);
                word.truncate(1);
            }
        };
        let mut character = |c: char| {
            if c.is_whitespace() {
                return flush(&mut word);
            }
            let group = c.general_category_group();
            if c == '\u{FFFD}' || group == GeneralCategoryGroup::Other {
                return;
            }
            if self.strip_accents && c.general_category() == GeneralCategory::NonspacingMark {
                return;
            }
            let alone = group == GeneralCategoryGroup::Punctuation || c.is_ascii_punctuation() || is_cjk(c);
            if alone {
                flush(&mut word);
            }
            if self.lowercase {
                word.extend(c.to_lowercase());
            } else {
                word.push(c);
            }
            if alone {
                flush(&mut word);
            }
        };
        if self.strip_accents {
            text.nfd().for_each(&mut character);
        } else {
            text.chars().for_each(&mut character);
        }
        character(' ');
    }

    fn spell(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let mut start = 0;
        while start < word.len() {
            let most = word.len().min(start.saturating_add(self.longest));
            let found = (start + 1..=most)
                .rev()
                .filter(|&end| word.is_char_boundary(end))
                .find_map(|end| vocab.find(&word.as_bytes()[start..end]).map(|id| (id, end)));
            let Some((id, end)) = found else {
                // One unknown token stands for the whole word.
                out.truncate(before);
                out.push(self.unk);
                return;
            };
            out.push(id);
            start = end;
        }
    }
}

/// The blocks BERT's tokenizer sets apart (its list, which is not all of Han).
fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
