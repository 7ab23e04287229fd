//! How byte-level BPE models split text before merging: one table from the name in `tokenizer.ggml.pre` to patterns.
//!
//! The patterns are those of the models' own `tokenizer.json` files. A row's stages run one after the other, each over
//! the pieces the one before left; a stage cuts its matches out and keeps what lies between as pieces of their own.

mod table;

use regex_automata::{Input, meta};

use super::TokenizerError;
use table::{GEMMA4, TABLE, WHITESPACE};

/// One pass over every piece.
#[derive(Clone, Copy)]
enum Stage {
    /// Cuts at every match.
    Cut(&'static str),
    /// `pattern|\s+(?!\S)|\s+`, the tail most tokenizers end with: a run of white space leaves its last character to
    /// the word that follows. The look-ahead is done by hand, so that the pattern can run on a linear-time automaton.
    Words(&'static str),
    /// As [`Stage::Words`], but a run of white space that ends in none of it is cut by length, see [`RUNS`].
    Runs(&'static str),
    /// Cuts every match into threes counted from its end; what is left at its beginning is a piece, too.
    Threes(&'static str),
    /// Cuts before threes counted from the end of every match, and there alone.
    BeforeThrees(&'static str),
}
use Stage::{BeforeThrees, Cut, Runs, Threes, Words};

/// Lengths of pieces of white space in [`Stage::Runs`].
const RUNS: [usize; 10] = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// When a piece that is a token as it stands is taken without merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WholePiece {
    /// Merges decide alone.
    Never,
    /// Every piece (`ignore_merges`).
    Always,
    /// Pieces of line feeds only.
    LineFeeds,
}

/// A row of the table.
struct Row {
    names: &'static [&'static str],
    stages: &'static [Stage],
    whole_piece: WholePiece,
    /// Whether text is brought to Unicode normal form C first.
    nfc: bool,
    /// Whether prompts start with BOS where the file does not say.
    add_bos: bool,
    /// Whether pieces are spelled as they are, with `▁` for a space, instead of in the byte-level alphabet.
    raw: bool,
}

const ROW: Row =
    Row { names: &[], stages: &[], whole_piece: WholePiece::Never, nfc: false, add_bos: false, raw: false };

/// The names that `tokenizer.ggml.pre` and `--pre` may have.
pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.names).copied()
}

/// The name of the row with these stages, each a pattern and whether it ends as [`Stage::Words`] do.
pub(crate) fn pre_tokenizer_of(
    stages: &[(String, bool)],
    ignore_merges: bool,
    nfc: bool,
) -> Option<&'static str> {
    let whole_piece = if ignore_merges { WholePiece::Always } else { WholePiece::Never };
    let same = |(row, (pattern, words)): (&Stage, &(String, bool))| match *row {
        Cut(own) => !words && own == ascii(pattern),
        Words(own) => *words && own == ascii(pattern),
        // With look-ahead they are other patterns in tokenizer.json.
        Runs(own) => !words && pattern.strip_prefix(own) == Some(RUNS_TAIL),
        Threes(own) => !words && own == r"\d+\b" && pattern == r"\d{1,3}(?=(?:\d{3})*\b)",
        BeforeThrees(own) => !words && own == r"\d+" && pattern == r"(?=(\d{3})+(?!\d))",
    };
    let row = TABLE.iter().find(|row| {
        (row.whole_piece, row.nfc, row.raw, row.stages.len()) == (whole_piece, nfc, false, stages.len())
            && row.stages.iter().zip(stages).all(same)
    })?;
    row.names.first().copied()
}

/// What the patterns of [`Stage::Runs`] end with.
const RUNS_TAIL: &str = concat!(
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)",
    r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
);

/// A pattern with characters beyond ASCII written as the table does.
fn ascii(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => out.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    out
}

fn known() -> String {
    pre_tokenizers().collect::<Vec<_>>().join(", ")
}

/// A row of the table, ready to run.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    stages: Vec<Compiled>,
    pub whole_piece: WholePiece,
    pub nfc: bool,
    pub add_bos: bool,
    pub raw: bool,
}

#[derive(Debug)]
struct Compiled {
    regex: meta::Regex,
    /// What is done with matches.
    kind: Kind,
}

/// [`Stage`] without its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cut,
    /// The second pattern is a run of white space.
    Words,
    /// The second pattern is a run of white space.
    Runs,
    Threes,
    BeforeThrees,
}

impl PreTokenizer {
    /// The one called `name`.
    pub fn named(name: &str) -> Result<Self, TokenizerError> {
        let row = TABLE
            .iter()
            .find(|row| row.names.contains(&name))
            .ok_or_else(|| TokenizerError::UnknownPreTokenizer { found: name.into(), known: known() })?;
        Self::compile(row, name)
    }

    /// The one of files that name the algorithm `gemma4`.
    pub fn gemma4() -> Result<Self, TokenizerError> {
        Self::compile(&GEMMA4, "gemma4")
    }

    /// The one of files that name the algorithm `whitespace`, which have no other.
    pub fn whitespace(named: Option<&str>) -> Result<Self, TokenizerError> {
        match named.filter(|name| !WHITESPACE.names.contains(name)) {
            None => Self::compile(&WHITESPACE, "whitespace"),
            Some(name) => {
                let known = WHITESPACE.names.join(", ");
                Err(TokenizerError::UnknownPreTokenizer { found: name.into(), known })
            }
        }
    }

    /// The error for a file that names none.
    pub fn missing() -> TokenizerError {
        TokenizerError::MissingPreTokenizer { known: known() }
    }

    fn compile(row: &Row, name: &str) -> Result<Self, TokenizerError> {
        let stages = row
            .stages
            .iter()
            .map(|stage| {
                let (regex, kind) = match *stage {
                    Cut(pattern) => (meta::Regex::new(pattern), Kind::Cut),
                    Words(pattern) => (meta::Regex::new_many(&[pattern, r"\s+"]), Kind::Words),
                    Runs(pattern) => (meta::Regex::new_many(&[pattern, r"\s+"]), Kind::Runs),
                    Threes(pattern) => (meta::Regex::new(pattern), Kind::Threes),
                    BeforeThrees(pattern) => (meta::Regex::new(pattern), Kind::BeforeThrees),
                };
                regex
                    .map(|regex| Compiled { regex, kind })
                    .map_err(|e| TokenizerError::Pattern { name: name.into(), reason: e.to_string() })
            })
            .collect::<Result<_, _>>()?;
        let Row { whole_piece, nfc, add_bos, raw, .. } = *row;
        Ok(Self { stages, whole_piece, nfc, add_bos, raw })
    }

    /// Calls `piece` with each piece of `text`, in order. None is empty, and together they are `text`.
    pub fn split<'t, E>(
        &self,
        text: &'t str,
        mut piece: impl FnMut(&'t str) -> Result<(), E>,
    ) -> Result<(), E> {
        split(&self.stages, text, &mut piece)
    }
}

fn split<'t, E>(
    stages: &[Compiled],
    text: &'t str,
    piece: &mut impl FnMut(&'t str) -> Result<(), E>,
) -> Result<(), E> {
    let Some((stage, rest)) = stages.split_first() else {
        return if text.is_empty() { Ok(()) } else { piece(text) };
    };
    let mut done = 0;
    let mut input = Input::new(text);
    while let Some(found) = stage.regex.search(&input) {
        let (start, mut end) = (found.start(), found.end());
        let run = || found.pattern().as_usize() == 1;
        match stage.kind {
            // A run before a word: leave its last character, unless that is all there is.
            Kind::Words if run() && end < text.len() => {
                let last = text[start..end].char_indices().next_back().map_or(0, |(at, _)| at);
                if last > 0 {
                    end = start + last;
                }
            }
            Kind::Runs if run() => {
                let spaces = text[start..end].chars().count();
                let most = if end < text.len() { (spaces - 1).max(1) } else { spaces };
                let take = RUNS.into_iter().find(|&n| n <= most).unwrap_or(1);
                end = start + text[start..end].chars().take(take).map(char::len_utf8).sum::<usize>();
            }
            Kind::Threes | Kind::BeforeThrees => {
                let matched = &text[start..end];
                let chars = matched.chars().count();
                let mut at = start;
                if stage.kind == Kind::Threes {
                    split(rest, &text[done..start], piece)?;
                    done = start;
                }
                for (i, c) in matched.chars().enumerate() {
                    if (chars - i).is_multiple_of(3) {
                        split(rest, &text[done..at], piece)?;
                        done = at;
                    }
                    at += c.len_utf8();
                }
                if stage.kind == Kind::BeforeThrees {
                    input.set_start(end);
                    continue;
                }
                split(rest, &text[done..end], piece)?;
                done = end;
                input.set_start(end);
                continue;
            }
            _ => {}
        }
        split(rest, &text[done..start], piece)?;
        split(rest, &text[start..end], piece)?;
        done = end;
        input.set_start(end);
    }
    split(rest, &text[done..], piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut out = vec![];
        let pre = PreTokenizer::named(name).unwrap();
        pre.split(text, |p| {
            out.push(p.to_owned());
            Ok::<(), ()>(())
        })
        .unwrap();
        out
    }

    #[test]
    fn every_row_compiles_and_covers_the_text() {
        let text =
            "Hello,  world!\r\n\n\t 12345 don't I'LL 한국어 조선 北京 ㄱㄴ é́ \u{a0}\u{3000} 😀👩‍👩‍👧 (a|b) …。 x";
        for name in pre_tokenizers() {
            assert_eq!(pieces(name, text).concat(), text, "{name}");
            assert!(pieces(name, text).iter().all(|p| !p.is_empty()), "{name}");
            assert!(pieces(name, "").is_empty(), "{name}");
        }
        assert!(PreTokenizer::gemma4().is_ok());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = pre_tokenizers().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_run_of_spaces_leaves_one_to_the_word() {
        assert_eq!(pieces("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(pieces("gpt-2", "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(pieces("llama-bpe", "a\n\nb"), ["a", "\n\n", "b"]);
        assert_eq!(pieces("smollm", "\n\n   12"), ["\n\n   ", "1", "2"]);
        assert_eq!(pieces("qwen2", "I'LL go"), ["I", "'LL", " go"]);
    }

    #[test]
    fn digits_are_grouped_from_the_right_where_a_model_does_so() {
        assert_eq!(pieces("tiny_aya", "a 1234567, 89"), ["a", " ", "1", "234", "567", ",", " ", "89"]);
        assert_eq!(pieces("tiny_aya", "123456"), ["123", "456"]);
        // No boundary of a word follows: the second stage cuts from the left.
        assert_eq!(pieces("tiny_aya", "1234ab"), ["123", "4", "ab"]);
        assert_eq!(pieces("superbpe", "by the way 12345 x"), ["by the way ", "12", "345", " x"]);
        assert_eq!(pieces("superbpe", "½1234"), ["½1", "234"]);
        assert_eq!(pieces("minicpm5", "12345"), ["123", "45"]);
        assert_eq!(
            pieces("afmoe", "in 12345, x1234ab½"),
            ["in", " ", "12", "345", ",", " x", "1", "234", "ab", "½"]
        );
    }

    #[test]
    fn runs_of_white_space_by_length() {
        let spaces = |n: usize| " ".repeat(n);
        // Seven and a word: four, two, and the last one with the word.
        assert_eq!(pieces("jais-2", &format!("a{}b", spaces(7))), ["a", &spaces(4), &spaces(2), " b"]);
        assert_eq!(pieces("jais-2", &format!("a{}", spaces(7))), ["a", &spaces(4), &spaces(2), " "]);
        assert_eq!(pieces("jais-2", "a 12"), ["a", " ", "12"]);
    }

    #[test]
    fn scripts_are_set_apart() {
        assert_eq!(pieces("kimi-k2", "ab北京cd 한국어's"), ["ab", "北京", "cd", " 한국어's"]);
        assert_eq!(pieces("youtu", "ab한국어北京、x"), ["ab", "한국어", "北京", "、", "x"]);
        assert_eq!(pieces("ufakzeka", "Ankara'da"), ["Ankara", "'da"]);
        assert_eq!(pieces("afmoe", "a 北京한국어 ລາວ(x"), ["a", " ", "北京한국어", " ", "ລາວ", "(x"]);
        assert_eq!(pieces("laguna", "a \n\n b"), ["a", " ", "\n\n", " b"]);
        assert_eq!(pieces("spark2_5", "a12\n\nb"), ["a", "1", "2", "\n", "\n", "b"]);
        assert_eq!(pieces("chameleon", "a    b.1"), ["a", "    ", "b", ".", "1"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let message = PreTokenizer::named("no-such").unwrap_err().to_string();
        assert!(message.contains("no-such") && message.contains("--pre") && message.contains("llama-bpe"));
    }
}
