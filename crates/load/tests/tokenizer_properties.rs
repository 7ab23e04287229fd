//! Korean texts against other implementations, and what holds for every text.

mod common;

use kinfer_load::tokenizer::{Encode, Strings, TokenKind, Tokenizer, TokenizerError, VocabSpec};
use serde_json::Value;

fn file(name: &str) -> std::path::PathBuf {
    if name.starts_with("ggml-vocab") { common::vocab(name) } else { common::model(name) }
}

/// Ids by the `tokenizers` and `sentencepiece` packages (`tests/tools/make_korean_fixtures.py`).
#[test]
fn korean_ids_equal_the_reference_implementations() {
    let sets = [
        include_str!("data/korean_smollm2.json"),
        include_str!("data/korean_gemma3.json"),
        include_str!("data/korean_llama_bpe.json"),
        include_str!("data/korean_qwen2.json"),
    ];
    let mut wrong = vec![];
    for set in sets {
        let set: Value = serde_json::from_str(set).unwrap();
        let name = set["file"].as_str().unwrap();
        let tokenizer = common::tokenizer(&file(name));
        let texts = set["texts"].as_array().unwrap();
        assert!(texts.len() >= 129, "{name}");
        for entry in texts {
            let text = entry["text"].as_str().unwrap();
            let want: Vec<u32> = serde_json::from_value(entry["ids"].clone()).unwrap();
            let got = tokenizer.encode(text, Encode::text()).unwrap();
            if got != want {
                wrong.push(format!("{name} {text:?}\n  got  {got:?}\n  want {want:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// xorshift64: the same texts on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % n
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.below(60) {
            let (low, count) = match self.below(8) {
                0 => (0x20, 0x5F),
                1 => (0, 0x20),
                2 => (0xAC00, 11172),
                3 => (0x1100, 0x100),
                4 => (0x80, 0x780),
                5 => (0x1F300, 0x700),
                6 => (0x2000, 0x1000),
                _ => (0, 0x11_0000),
            };
            text.extend(char::from_u32(low + self.below(count)));
        }
        text
    }
}

const BYTE_LEVEL: &[&str] = &[
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "ggml-vocab-command-r.gguf",
    "ggml-vocab-deepseek-coder.gguf",
    "ggml-vocab-deepseek-llm.gguf",
    "ggml-vocab-falcon.gguf",
    "ggml-vocab-gpt-2.gguf",
    "ggml-vocab-llama-bpe.gguf",
    "ggml-vocab-mpt.gguf",
    "ggml-vocab-qwen35.gguf",
    "ggml-vocab-refact.gguf",
    "ggml-vocab-starcoder.gguf",
];
const SENTENCEPIECE: &[&str] = &[
    "gemma-3-270m-q4_k_m.gguf",
    "ggml-vocab-gemma-4.gguf",
    "ggml-vocab-llama-spm.gguf",
    "ggml-vocab-phi-3.gguf",
];

#[test]
fn decoding_gives_the_text_back_and_no_text_gives_a_control_token() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for name in BYTE_LEVEL.iter().chain(SENTENCEPIECE) {
        let tokenizer = common::tokenizer(&file(name));
        // Everything that looks like a control token, as a user might type it.
        let controls: String = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.is_special(id))
            .map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap()).into_owned())
            .collect();
        let texts = (0..300).map(|_| random.text()).chain([controls]);
        let mut checked = 0;
        for text in texts {
            let ids = tokenizer.encode(&text, Encode::text()).unwrap();
            assert!(!ids.iter().any(|&id| tokenizer.kind(id) == Some(TokenKind::Control)), "{name} {text:?}");
            // Vocabularies trained without a full alphabet drop what they cannot spell, or say that it is unknown.
            if !text.chars().all(|c| spells(&tokenizer, c)) {
                continue;
            }
            checked += 1;
            // `▁` is the space of these vocabularies.
            let want = if SENTENCEPIECE.contains(name) { text.replace('▁', " ") } else { text };
            let got = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), want, "{name}");
        }
        assert!(checked > 50, "{name}: only {checked} texts could be spelled");
    }
}

fn spells(tokenizer: &Tokenizer, c: char) -> bool {
    let text = c.to_string();
    let ids = tokenizer.encode(&text, Encode::text()).unwrap();
    let got = tokenizer.decode(&ids, true).unwrap();
    got == text.as_bytes() || c == '▁' && got == b" "
}

#[test]
fn control_tokens_are_found_when_asked_for() {
    let tokenizer = common::tokenizer(&common::model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let end = tokenizer.special_id("<|im_end|>").unwrap();
    let text = "<|im_start|>user\nHi<|im_end|>";
    let ids = tokenizer.encode(text, Encode::rendered()).unwrap();
    assert_eq!((ids[0], ids.last()), (tokenizer.special_id("<|im_start|>").unwrap(), Some(&end)));
    assert!(tokenizer.is_end(end) && tokenizer.is_special(end));
    assert!(!tokenizer.encode(text, Encode::text()).unwrap().contains(&end));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), b"user\nHi");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.as_bytes());

    let gemma = common::tokenizer(&common::model("gemma-3-270m-q4_k_m.gguf"));
    assert!(gemma.is_end(gemma.special_id("<end_of_turn>").unwrap()) && gemma.is_end(gemma.eos().unwrap()));
    assert_eq!(gemma.encode("", Encode::default()).unwrap(), [gemma.bos().unwrap()]);
    assert!(!gemma.strips_leading_space());
    let llama = common::tokenizer(&common::vocab("ggml-vocab-llama-spm.gguf"));
    assert!(llama.strips_leading_space());
    let ids = llama.encode("안녕 Hello", Encode::default()).unwrap();
    assert_eq!(llama.token_bytes(ids[1]), Some(&b" "[..]));
    assert_eq!(llama.decode(&ids, true).unwrap(), "안녕 Hello".as_bytes());
}

/// The frame BERT's vocabularies put around a text.
#[test]
fn wordpiece_adds_its_frame() {
    let bert = common::tokenizer(&common::vocab("ggml-vocab-bert-bge.gguf"));
    assert_eq!(bert.encode("Hello World", Encode::default()).unwrap(), [101, 7592, 2088, 102]);
    assert_eq!(bert.decode(&[101, 7592, 2088, 102], true).unwrap(), b"hello world");
}

fn letters() -> VocabSpec {
    VocabSpec {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: ["a", "b", "ab", "<e>"].into_iter().collect(),
        types: Some(vec![1, 1, 1, 3]),
        merges: ["a b"].into_iter().collect(),
        eos: Some(3),
        ..VocabSpec::default()
    }
}

#[test]
fn a_bad_vocabulary_is_refused() {
    assert!(Tokenizer::new(&letters()).is_ok());
    let error = |change: fn(&mut VocabSpec)| {
        let mut spec = letters();
        change(&mut spec);
        Tokenizer::new(&spec).unwrap_err()
    };
    use TokenizerError as E;
    assert!(matches!(error(|s| s.model = "rwkv".into()), E::UnsupportedModel { .. }));
    assert!(matches!(error(|s| s.pre = None), E::MissingPreTokenizer { .. }));
    assert!(matches!(error(|s| s.pre = Some("x".into())), E::UnknownPreTokenizer { .. }));
    assert!(matches!(error(|s| s.tokens = Strings::default()), E::EmptyVocabulary));
    assert!(matches!(error(|s| s.types = Some(vec![1])), E::LengthMismatch { expected: 4, found: 1, .. }));
    assert!(matches!(error(|s| s.types = Some(vec![1, 1, 9, 3])), E::BadTokenType { id: 2, found: 9 }));
    assert!(matches!(error(|s| s.types = Some(vec![6, 1, 1, 3])), E::BadByteToken { id: 0, .. }));
    assert!(matches!(error(|s| s.eos = Some(4)), E::IdOutOfRange { id: 4, size: 4, .. }));
    assert!(matches!(error(|s| s.merges = Strings::default()), E::MissingKey { .. }));
    assert!(matches!(error(|s| s.merges = ["ab"].into_iter().collect()), E::BadMerge { index: 0, .. }));
    assert!(matches!(
        error(|s| s.merges = ["b a"].into_iter().collect()),
        E::MergeNotInVocabulary { index: 0, .. }
    ));
    assert!(matches!(error(|s| s.add_bos = Some(true)), E::MissingKey { .. }));
    assert!(matches!(error(|s| s.precompiled_charsmap = vec![1]), E::UnsupportedNormalizer { .. }));
    assert!(matches!(error(|s| s.remove_extra_whitespaces = Some(true)), E::UnsupportedNormalizer { .. }));
    let spm = |s: &mut VocabSpec| s.model = "llama".into();
    assert!(matches!(error(spm), E::MissingKey { key: "tokenizer.ggml.scores", .. }));
    assert!(matches!(
        error(|s| (s.model, s.scores) = ("llama".into(), Some(vec![0.0, f32::NAN, 0.0, 0.0]))),
        E::BadScore { id: 1 }
    ));
    fn unigram(s: &mut VocabSpec, scores: Option<Vec<f32>>) {
        (s.model, s.scores) = ("t5".into(), scores);
    }
    assert!(matches!(error(|s| unigram(s, None)), E::MissingKey { key: "tokenizer.ggml.scores", .. }));
    assert!(matches!(error(|s| unigram(s, Some(vec![0.0]))), E::LengthMismatch { found: 1, .. }));
    let infinite = error(|s| unigram(s, Some(vec![0.0, f32::INFINITY, 0.0, 0.0])));
    assert!(matches!(infinite, E::BadScore { id: 1 }));
    let no_unknown = error(|s| unigram(s, Some(vec![0.0; 4])));
    assert!(matches!(no_unknown, E::MissingKey { key: "tokenizer.ggml.unknown_token_id", .. }));
}

#[test]
fn what_cannot_be_spelled() {
    let mut spec = letters();
    let plain = Tokenizer::new(&spec).unwrap();
    assert_eq!(plain.encode("abba", Encode::text()).unwrap(), [2, 1, 0]);
    assert_eq!(plain.encode("ac", Encode::text()).unwrap(), [0]);
    assert!(matches!(
        plain.encode("a", Encode { bos: Some(true), ..Encode::default() }),
        Err(TokenizerError::NoSuchSpecial { .. })
    ));
    assert!(matches!(plain.decode(&[4], true), Err(TokenizerError::NoSuchToken { id: 4, size: 4 })));
    spec.unk = Some(1);
    assert_eq!(Tokenizer::new(&spec).unwrap().encode("ac", Encode::text()).unwrap(), [0, 1]);
    // A control token is no stand-in for text.
    spec.unk = Some(3);
    assert_eq!(Tokenizer::new(&spec).unwrap().encode("ac", Encode::text()).unwrap(), [0]);
    spec.unk = None;
    spec.model = "gemma4".into();
    spec.bos = Some(3);
    let characters = Tokenizer::new(&spec).unwrap();
    assert_eq!(characters.encode("ab", Encode::text()).unwrap(), [2]);
    let error = characters.encode("ac", Encode::text());
    assert!(matches!(error, Err(TokenizerError::Unencodable { byte: b'c', .. })));
}

/// What parts words is lost, and so is what has no token; nothing merges across either.
#[test]
fn words_between_white_space_are_merged_by_characters() {
    let spec = |lowercase| VocabSpec {
        model: "whitespace".into(),
        pre: Some("whitespace".into()),
        tokens: ["<unk>", "a", "b", "中", "ab", "A"].into_iter().collect(),
        types: Some(vec![2, 1, 1, 1, 1, 1]),
        merges: ["a b"].into_iter().collect(),
        unk: Some(0),
        lowercase,
        ..VocabSpec::default()
    };
    let ids =
        |lowercase, text| Tokenizer::new(&spec(lowercase)).unwrap().encode(text, Encode::text()).unwrap();
    assert_eq!(ids(None, "ab a b\n中ab \u{3000}"), [4, 1, 2, 3, 4]);
    assert_eq!(ids(None, "a?b 文ab"), [1, 2, 4]);
    assert_eq!(ids(None, "Ab"), [5, 2]);
    assert_eq!(ids(Some(true), "Ab AB"), [4, 4]);
    let other = VocabSpec { pre: Some("gpt-2".into()), ..spec(None) };
    assert!(matches!(Tokenizer::new(&other), Err(TokenizerError::UnknownPreTokenizer { .. })));
}

/// Sentencepiece's own handling of white space, where a file asks for it.
#[test]
fn extra_spaces_are_removed_when_declared() {
    let spec = VocabSpec {
        model: "llama".into(),
        tokens: ["<unk>", "a", "▁"].into_iter().collect(),
        types: Some(vec![2, 1, 1]),
        scores: Some(vec![0.0, -1.0, -2.0]),
        add_bos: Some(false),
        remove_extra_whitespaces: Some(true),
        ..VocabSpec::default()
    };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    assert_eq!(tokenizer.encode("  a   a ", Encode::text()).unwrap(), [2, 1, 2, 1]);
    assert_eq!(tokenizer.encode("aé", Encode::text()).unwrap(), [2, 1, 0, 0]);
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}
