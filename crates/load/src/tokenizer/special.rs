//! Tokens that are cut out of a text before the model's own splitting, and the ids that end a generation.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

use super::TokenizerError;
use super::spec::VocabSpec;
use super::vocab::{TokenKind, Vocab};

/// A stretch of text, or a token found in it.
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Finds user-defined tokens, and control tokens where they are asked for: leftmost first, the longest of those that
/// start together.
#[derive(Debug)]
pub(super) struct Specials {
    always: Matcher,
    on_request: Matcher,
    /// Ids that swallow the white space before them.
    lstrip: Vec<u32>,
    /// Ids that swallow the white space after them.
    rstrip: Vec<u32>,
}

#[derive(Debug)]
struct Matcher {
    ids: Vec<u32>,
    automaton: AhoCorasick,
}

impl Specials {
    pub fn new(vocab: &Vocab, spec: &VocabSpec) -> Result<Self, TokenizerError> {
        Ok(Self {
            lstrip: spec.lstrip.clone(),
            rstrip: spec.rstrip.clone(),
            always: Matcher::new(vocab, &[TokenKind::UserDefined])?,
            on_request: Matcher::new(
                vocab,
                &[TokenKind::UserDefined, TokenKind::Control, TokenKind::Unknown],
            )?,
        })
    }

    /// Calls `part` with the parts of `text` in order; control tokens are looked for if `control`, and none begins at an
    /// offset in `plain` (ascending).
    pub fn split<'t, E>(
        &self,
        text: &'t str,
        control: bool,
        plain: &[usize],
        mut part: impl FnMut(Part<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let matcher = if control { &self.on_request } else { &self.always };
        let (mut done, mut from) = (0, 0);
        while let Some((mut id, mut found)) = matcher.find(text, from) {
            if plain.binary_search(&found.start).is_ok() {
                match self.always.find(text, found.start).filter(|(_, range)| range.start == found.start) {
                    Some(user_defined) => (id, found) = user_defined,
                    None => {
                        from = after_char(text, found.start);
                        continue;
                    }
                }
            }
            let mut before = &text[done..found.start];
            if self.lstrip.contains(&id) {
                before = before.trim_end();
            }
            if !before.is_empty() {
                part(Part::Text(before))?;
            }
            part(Part::Token(id))?;
            let mut end = found.end;
            if self.rstrip.contains(&id) {
                end = text.len() - text[end..].trim_start().len();
            }
            (done, from) = (end, end);
        }
        if done < text.len() { part(Part::Text(&text[done..])) } else { Ok(()) }
    }

    /// Where `text` spells control tokens, by ascending start; overlapping ones too.
    pub fn controls(&self, vocab: &Vocab, text: &str) -> Vec<Range<usize>> {
        let (mut out, mut from) = (Vec::new(), 0);
        while let Some((id, found)) = self.on_request.find(text, from) {
            from = after_char(text, found.start);
            if vocab.kind(id) != Some(TokenKind::UserDefined) {
                out.push(found);
            }
        }
        out
    }

    /// The token whose whole text is `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.on_request.find(text, 0).filter(|(_, range)| *range == (0..text.len())).map(|(id, _)| id)
    }
}

/// The offset after the character at `at`.
fn after_char(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

impl Matcher {
    /// The first token at or after `from`, and where it stands.
    fn find(&self, text: &str, from: usize) -> Option<(u32, Range<usize>)> {
        let found = self.automaton.find(Input::new(text).range(from..))?;
        Some((self.ids[found.pattern().as_usize()], found.range()))
    }

    fn new(vocab: &Vocab, kinds: &[TokenKind]) -> Result<Self, TokenizerError> {
        // Only whole characters can be cut out of a string.
        let texts = vocab.iter().filter(|(_, kind, bytes)| {
            kinds.contains(kind) && !bytes.is_empty() && std::str::from_utf8(bytes).is_ok()
        });
        let (ids, texts): (Vec<_>, Vec<_>) = texts.map(|(id, _, bytes)| (id, bytes)).unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(texts)
            .map_err(|e| TokenizerError::SpecialTokens { reason: e.to_string() })?;
        Ok(Self { ids, automaton })
    }
}

/// Texts that end a turn or a document in the model families that do not say so in their metadata.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[|endofturn|]",
    "<|END_OF_TURN_TOKEN|>",
    // A code model that reaches these has run out of its own file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<|file_sep|>",
];

/// The ids that end a generation, ascending. A token with such a text is made a control token if it is not one: files
/// mislabel them.
pub(super) fn end_ids(spec: &VocabSpec, vocab: &mut Vocab) -> Vec<u32> {
    let is_end = |bytes: &[u8]| END_TEXTS.iter().any(|text| text.as_bytes() == bytes);
    let marked = vocab.iter().filter(|(_, kind, bytes)| {
        matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown) && is_end(bytes)
    });
    let mut ids: Vec<u32> = marked.map(|(id, ..)| id).collect();
    ids.extend(END_TEXTS.iter().filter_map(|text| vocab.find(text.as_bytes())));
    ids.sort_unstable();
    ids.dedup();
    // In these two families `<|end|>` closes a message and `<|return|>` or `<|flush|>` the turn.
    let texts: Vec<&[u8]> = ids.iter().filter_map(|&id| vocab.bytes(id)).collect();
    let has = |text: &str| texts.contains(&text.as_bytes());
    if has("<|return|>") && has("<|call|>") || has("<|flush|>") && has("<|calls|>") {
        let not_end: Vec<bool> = texts.iter().map(|&t| t != b"<|end|>").collect();
        let mut keep = not_end.into_iter();
        ids.retain(|_| keep.next().unwrap_or(true));
    }
    for &id in &ids {
        vocab.make_control(id);
    }
    ids.extend([spec.eos, spec.eot, spec.eom].into_iter().flatten());
    ids.sort_unstable();
    ids.dedup();
    ids
}
