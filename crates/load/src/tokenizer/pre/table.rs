//! The table: what each name in `tokenizer.ggml.pre` stands for.

use super::Stage::{self, BeforeThrees, Cut, Runs, Threes, Words};
use super::{ROW, Row, WholePiece};

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
const YOUTU: Stage = Words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
// Han characters are words of their own.
const KIMI: Stage = Words(concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
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

/// All that can be named.
pub(super) const TABLE: &[Row] = &[
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
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        stages: &[GPT2],
        ..ROW
    },
    Row { names: &["modern-bert"], stages: &[GPT2], nfc: true, ..ROW },
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
    Row { names: &["granite-embed-multi-97m"], stages: &[GPT4O], whole_piece: WholePiece::Always, ..ROW },
    Row { names: &["tiny_aya", "cohere2moe"], stages: &[Threes(r"\d+\b"), GPT4O], ..ROW },
    Row { names: &["superbpe"], stages: &[Cut(r"\p{N}+"), BeforeThrees(r"\d+")], ..ROW },
    Row { names: &["kimi-k2"], stages: &[KIMI], ..ROW },
    Row {
        names: &["youtu"],
        stages: &[
            Cut(concat!(
                r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+",
                r"|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}",
                r"\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+",
                r"|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
            )),
            YOUTU,
        ],
        whole_piece: WholePiece::Always,
        ..ROW
    },
    Row {
        names: &["minicpm5"],
        stages: &[
            Cut(r"\p{N}{1,3}"),
            Words(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            ),
        ],
        whole_piece: WholePiece::Always,
        ..ROW
    },
    Row {
        names: &["jais-2"],
        stages: &[Runs(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
        ..ROW
    },
    Row { names: &["laguna"], stages: &[Cut(r"\n+"), QWEN2], ..ROW },
    Row {
        names: &["ufakzeka"],
        stages: &[Words(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")],
        ..ROW
    },
    Row {
        names: &["chameleon"],
        stages: &[
            Cut(r"<sentinel:[0-9]+>"),
            Cut(r"IMGIMG[A-I]{1,4}Z"),
            Cut(r"[\t\n]|    |  "),
            Cut(r"\p{N}"),
            Cut(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2,
        ],
        add_bos: true,
        ..ROW
    },
    Row {
        names: &["spark2_5"],
        stages: &[
            Cut(r"\p{N}{1,3}"),
            Cut(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"),
            Words(concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]",
            )),
            Cut(r"\p{N}"),
        ],
        ..ROW
    },
    Row { names: &["sarvam-moe"], stages: &[Cut(r"\n+")], raw: true, ..ROW },
    Row {
        names: &["granite-embed-multi-311m"],
        stages: &[Cut(r"\n+")],
        whole_piece: WholePiece::LineFeeds,
        raw: true,
        ..ROW
    },
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
        names: &["afmoe"],
        stages: &[
            Threes(r"\p{N}+"),
            // Scripts without spaces, in the ranges that llama.cpp has.
            Cut(concat!(
                r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}",
                r"\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF}",
                r"\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+",
            )),
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

/// Character BPE merges over words, and what parts them is lost.
pub(super) const WHITESPACE: Row = Row { names: &["whitespace"], stages: &[Cut(r"\S+")], raw: true, ..ROW };

/// Character BPE merges over whole lines.
pub(super) const GEMMA4: Row = Row {
    names: &["gemma4"],
    stages: &[Cut(r"\n+")],
    whole_piece: WholePiece::LineFeeds,
    add_bos: true,
    raw: true,
    ..ROW
};
