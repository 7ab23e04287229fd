//! The table of SentencePiece's normalisers: texts in a double-array trie, and what each becomes.

use super::TokenizerError;

/// A compiled table: u32 length of the trie in bytes, the trie's units, and texts that end in a zero byte.
///
/// A unit of the trie has the label that leads to it in its low byte, in bit 8 whether a text ends there, and in bits 10 to 30 the
/// offset to its children, times 256 where bit 9 is set. The unit of an end has bit 31 set and the place of the result.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    results: Vec<u8>,
}

impl Charsmap {
    pub fn new(blob: &[u8]) -> Result<Self, TokenizerError> {
        let bad = |reason: &str| TokenizerError::BadCharsmap { reason: reason.into() };
        let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(|| bad("it has no length"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if !length.is_multiple_of(4) || length == 0 {
            return Err(bad("its trie is no sequence of units"));
        }
        let (units, results) =
            rest.split_at_checked(length).ok_or_else(|| bad("its trie is longer than the table"))?;
        if results.last().is_none_or(|&last| last != 0) {
            return Err(bad("its last text has no end"));
        }
        let units = units.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        Ok(Self { units, results: results.to_vec() })
    }

    /// Calls `push` with the characters that `text` becomes: at each place the longest text of the table is replaced.
    pub fn normalise(&self, text: &str, mut push: impl FnMut(char)) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, result) = match self.longest(rest.as_bytes()) {
                Some((length, result)) if rest.is_char_boundary(length) => (length, Some(result)),
                _ => (first.len_utf8(), None),
            };
            match result {
                Some(result) => result.chars().for_each(&mut push),
                None => push(first),
            }
            rest = &rest[length..];
        }
    }

    /// Bytes of the longest text of the table that `text` begins with, and what it becomes.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(&unit) = self.units.get(at as usize) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(&end) = self.units.get(at as usize)
            {
                found = Some((i + 1, end & 0x7fff_ffff));
            }
        }
        let (length, place) = found?;
        let result = self.results.get(place as usize..)?;
        let end = result.iter().position(|&b| b == 0)?;
        Some((length, std::str::from_utf8(&result[..end]).ok()?))
    }
}
