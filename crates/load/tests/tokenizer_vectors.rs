//! Ids equal llama.cpp's on the vectors that llama-cpp-python's source package carries, and on the prompts of the
//! golden data.

mod common;

use kinfer_load::tokenizer::{Encode, Tokenizer};

/// Each set with its number of texts.
const SETS: &[(&str, usize)] = &[
    ("bert-bge", 46),
    ("command-r", 46),
    ("deepseek-coder", 46),
    ("deepseek-llm", 46),
    ("falcon", 46),
    ("gemma-4", 46),
    ("gpt-2", 46),
    ("llama-bpe", 46),
    ("llama-spm", 46),
    ("mpt", 46),
    ("phi-3", 46),
    ("qwen2", 46),
    ("qwen35", 50),
    ("refact", 46),
    ("starcoder", 46),
];

#[test]
fn ids_equal_the_vectors() {
    let mut wrong = vec![];
    for &(set, count) in SETS {
        let path = common::vocab(&format!("ggml-vocab-{set}.gguf"));
        let tokenizer = common::tokenizer(&path);
        let read = |suffix: &str| std::fs::read_to_string(format!("{}{suffix}", path.display())).unwrap();
        let texts = read(".inp");
        let texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<Vec<u32>> = read(".out")
            .lines()
            .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert_eq!(ids.len(), count, "{set}");
        // The last text ends with a separator too in all sets but one.
        assert!(texts.len() == count || texts.len() == count + 1 && texts[count].is_empty(), "{set}");
        for (text, ids) in texts.iter().zip(&ids) {
            let got = tokenizer.encode(text, Encode::text()).unwrap();
            if got != *ids {
                wrong.push(format!("{set} {text:?}\n  got  {got:?}\n  want {ids:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The prompts of `data/prompts.json` (origin inside). `gpl3` carries more text than ids: its ids are a prefix.
#[test]
fn prompts_of_the_real_models() {
    let data: serde_json::Value = serde_json::from_str(include_str!("data/prompts.json")).unwrap();
    for (file, data) in data["models"].as_object().unwrap() {
        let tokenizer = common::tokenizer(&common::model(file));
        for prompt in data["prompts"].as_array().unwrap() {
            let text = prompt["text"].as_str().unwrap();
            let want: Vec<u32> = serde_json::from_value(prompt["prompt_ids"].clone()).unwrap();
            let mut got = tokenizer.encode(text, Encode::default()).unwrap();
            if prompt["name"] == "gpl3" {
                got.truncate(want.len());
            }
            assert_eq!(got, want, "{file} {}", prompt["name"]);
        }
    }
}

/// Digits one by one after a run of white space; the longest run of spaces that is a token, then the rest.
#[test]
fn splits_that_user_defined_and_digit_pieces_decide() {
    let smollm = common::tokenizer(&common::model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let pieces = |t: &Tokenizer, text: &str| -> Vec<String> {
        let ids = t.encode(text, Encode::text()).unwrap();
        ids.iter().map(|&id| String::from_utf8(t.token_bytes(id).unwrap().to_vec()).unwrap()).collect()
    };
    assert_eq!(pieces(&smollm, "\n\n   12"), ["\n\n   ", "1", "2"]);
    let gemma = common::tokenizer(&common::model("gemma-3-270m-q4_k_m.gguf"));
    assert_eq!(pieces(&gemma, &" ".repeat(33)), [" ".repeat(31), " ".repeat(2)]);
}
