//! How byte-level BPE models split text before merging: one table from the name in `tokenizer.ggml.pre` to patterns.
//!
//! The patterns are those of the models' own `tokenizer.json` files. A row's stages run one after the other, each over
//! the pieces the one before left; a stage cuts its matches out and keeps what lies between as pieces of their own.

use regex_automata::{Input, meta};

use super::TokenizerError;

/// One pass over every piece.
#[derive(Clone, Copy)]
enum Stage {
    /// Cuts at every match.
    Cut(&'static str),
    /// `pattern|\s+(?!\S)|\s+`, the tail most tokenizers end with: a run of white space leaves its last character to
    /// the word that follows. The look-ahead is done by hand, so that the pattern can run on a linear-time automaton.
    Words(&'static str),
}
use Stage::{Cut, Words};

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
}

const ROW: Row = Row { names: &[], stages: &[], whole_piece: WholePiece::Never, nfc: false, add_bos: false };

const GPT2: Stage = Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const LLAMA3: Stage = Words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const QWEN2: Stage = Words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const QWEN35: Stage = Words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const GPT4O: Stage = Words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
const TEKKEN: Stage = Words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
const DEEPSEEK3: Stage = Words(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+",
));
// The letters with case, as DeepSeek's first tokenizer lists them.
const DEEPSEEK_CASED: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}",
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}",
    r"\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}",
    r"\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}",
    r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}",
    r"\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}",
    r"\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}",
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}",
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}",
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    r"]+",
);

const TABLE: &[Row] = &[
    Row {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        stages: &[GPT2],
        ..ROW
    },
    Row {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        stages: &[Cut(r"\p{N}"), GPT2],
        ..ROW
    },
    Row {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        stages: &[LLAMA3],
        whole_piece: WholePiece::Always,
        add_bos: true,
        ..ROW
    },
    Row { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], stages: &[LLAMA3], ..ROW },
    Row { names: &["glm4", "glm5"], stages: &[LLAMA3], whole_piece: WholePiece::Always, ..ROW },
    Row { names: &["qwen2"], stages: &[QWEN2], nfc: true, ..ROW },
    Row {
        names: &[
            "deepseek-r1-qwen",
            "stablelm2",
            "hunyuan",
            "megrez",
            "solar-open",
            "kormo",
            "f2llmv2",
            "grok-2",
        ],
        stages: &[QWEN2],
        ..ROW
    },
    Row { names: &["qwen35"], stages: &[QWEN35], ..ROW },
    Row { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], stages: &[GPT4O], ..ROW },
    Row { names: &["tekken"], stages: &[TEKKEN], whole_piece: WholePiece::Always, add_bos: true, ..ROW },
    Row {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        stages: &[
            Cut(r"\p{N}{1,3}"),
            Cut(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"),
            DEEPSEEK3,
        ],
        ..ROW
    },
    Row {
        names: &["deepseek-llm"],
        stages: &[
            Cut(r"[\r\n]"),
            Cut(DEEPSEEK_CASED),
            Cut(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"),
            Cut(r"\s+$"),
            Cut(r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"),
            Cut(r"\p{N}+"),
        ],
        ..ROW
    },
    Row {
        names: &["deepseek-coder"],
        stages: &[
            Cut(r"[\r\n]"),
            Cut(r"\s?\p{L}+"),
            Cut(r"\s?\p{P}+"),
            Cut(r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"),
            Cut(r"\p{N}"),
        ],
        ..ROW
    },
    Row { names: &["falcon"], stages: &[Cut(r"[\p{P}$+<=>^~|`]+"), GPT2, Cut(r"[0-9][0-9][0-9]")], ..ROW },
    Row {
        names: &["default"],
        stages: &[Cut(r"[\p{P}$+<=>^~|]+"), GPT2, Cut(r"\p{N}+"), Cut(r"[0-9][0-9][0-9]")],
        ..ROW
    },
    Row {
        names: &["exaone-moe"],
        stages: &[Words(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
        ))],
        ..ROW
    },
    Row {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        stages: &[Words(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
        )],
        ..ROW
    },
    Row {
        names: &["seed-coder"],
        stages: &[Words(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
        )],
        ..ROW
    },
    Row {
        names: &["viking"],
        stages: &[
            Cut(r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+"),
            Cut(r"\p{N}"),
        ],
        ..ROW
    },
    Row {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        stages: &[Cut(r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+")],
        ..ROW
    },
];

/// Character BPE merges over whole lines.
const GEMMA4: Row = Row {
    names: &["gemma4"],
    stages: &[Cut(r"\n+")],
    whole_piece: WholePiece::LineFeeds,
    add_bos: true,
    ..ROW
};

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
    };
    let row = TABLE.iter().find(|row| {
        (row.whole_piece, row.nfc, row.stages.len()) == (whole_piece, nfc, stages.len())
            && row.stages.iter().zip(stages).all(same)
    })?;
    row.names.first().copied()
}

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
}

#[derive(Debug)]
struct Compiled {
    regex: meta::Regex,
    /// Whether the second pattern is the run of white space of [`Stage::Words`].
    words: bool,
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

    /// The error for a file that names none.
    pub fn missing() -> TokenizerError {
        TokenizerError::MissingPreTokenizer { known: known() }
    }

    fn compile(row: &Row, name: &str) -> Result<Self, TokenizerError> {
        let stages = row
            .stages
            .iter()
            .map(|stage| {
                let (regex, words) = match *stage {
                    Cut(pattern) => (meta::Regex::new(pattern), false),
                    Words(pattern) => (meta::Regex::new_many(&[pattern, r"\s+"]), true),
                };
                regex
                    .map(|regex| Compiled { regex, words })
                    .map_err(|e| TokenizerError::Pattern { name: name.into(), reason: e.to_string() })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { stages, whole_piece: row.whole_piece, nfc: row.nfc, add_bos: row.add_bos })
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
        if stage.words && found.pattern().as_usize() == 1 && end < text.len() {
            // A run before a word: leave its last character, unless that is all there is.
            let last = text[start..end].char_indices().next_back().map_or(0, |(at, _)| at);
            if last > 0 {
                end = start + last;
            }
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
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let message = PreTokenizer::named("no-such").unwrap_err().to_string();
        assert!(message.contains("no-such") && message.contains("--pre") && message.contains("llama-bpe"));
    }
}
