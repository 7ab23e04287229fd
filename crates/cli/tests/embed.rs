//! `kinfer embed`, on a BERT of a few words and computed weights.

mod common;

use common::{Run, World, smollm2};
use kinfer::gguf::write::Writer;
use kinfer_core::Format;
use serde_json::Value;

const WORDS: [&str; 14] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "▁the",
    "▁cat",
    "▁dog",
    "s",
    "▁sleep",
    "▁on",
    "▁a",
    "▁mat",
    "▁대한민국",
    "의",
];
const DIM: usize = 32;
const CONTEXT: usize = 40;

/// A file of it.
fn bert(world: &World) -> String {
    let mut writer = Writer::default();
    let kinds: Vec<i32> = (0..WORDS.len()).map(|i| if i < 4 { 3 } else { 1 }).collect();
    writer
        .set("general.architecture", "bert")
        .set("bert.block_count", 2u32)
        .set("bert.context_length", CONTEXT as u32)
        .set("bert.embedding_length", DIM as u32)
        .set("bert.feed_forward_length", 64u32)
        .set("bert.attention.head_count", 2u32)
        .set("bert.attention.layer_norm_epsilon", 1e-12f32)
        .set("bert.attention.causal", false)
        .set("bert.pooling_type", 1u32)
        .set("tokenizer.ggml.model", "bert")
        .set("tokenizer.ggml.tokens", WORDS.as_slice())
        .set("tokenizer.ggml.token_type", kinds.as_slice())
        .set("tokenizer.ggml.unknown_token_id", 1u32)
        .set("tokenizer.ggml.cls_token_id", 2u32)
        .set("tokenizer.ggml.seperator_token_id", 3u32);
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("token_embd.weight".into(), vec![DIM as u64, WORDS.len() as u64]),
        ("position_embd.weight".into(), vec![DIM as u64, CONTEXT as u64]),
        ("token_types.weight".into(), vec![DIM as u64, 2]),
        ("token_embd_norm.weight".into(), vec![DIM as u64]),
        ("token_embd_norm.bias".into(), vec![DIM as u64]),
    ];
    for i in 0..2 {
        let products = [
            ("attn_q", DIM, DIM),
            ("attn_k", DIM, DIM),
            ("attn_v", DIM, DIM),
            ("attn_output", DIM, DIM),
            ("ffn_up", DIM, 64),
            ("ffn_down", 64, DIM),
        ];
        for (part, cols, rows) in products {
            tensors.push((format!("blk.{i}.{part}.weight"), vec![cols as u64, rows as u64]));
            tensors.push((format!("blk.{i}.{part}.bias"), vec![rows as u64]));
        }
        for part in ["attn_output_norm", "layer_output_norm"] {
            tensors.push((format!("blk.{i}.{part}.weight"), vec![DIM as u64]));
            tensors.push((format!("blk.{i}.{part}.bias"), vec![DIM as u64]));
        }
    }
    let mut state = 1u32;
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, shape)| {
            writer.tensor(name, shape, Format::F32.tensor_type()).unwrap();
            let mut value = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..shape.iter().product::<u64>()).flat_map(|_| (value() / 2.0).to_le_bytes()).collect()
        })
        .collect();
    let mut file = Vec::new();
    writer.write(&mut file, &data).unwrap();
    world.file("bert.gguf", file)
}

fn vector(line: &str) -> Vec<f32> {
    line.split(' ').map(|x| x.parse().unwrap()).collect()
}

fn length(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn texts_become_vectors() {
    let world = World::new();
    let model = bert(&world);
    let lines = world.run(&["embed", &model, "the cats sleep", "dogs", "the cats sleep"]).ok().stdout;
    let vectors: Vec<Vec<f32>> = lines.lines().map(vector).collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [DIM; 3]);
    assert!(vectors.iter().all(|v| (length(v) - 1.0).abs() < 1e-5), "{vectors:?}");
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    // A text's vector does not depend on those beside it.
    assert_eq!(world.run(&["embed", &model, "dogs"]).ok().stdout.trim_end(), lines.lines().nth(1).unwrap());

    // The same texts from a file and from standard input.
    let file = world.file("texts.txt", "the cats sleep\ndogs\nthe cats sleep\n");
    assert_eq!(world.run(&["embed", &model, "-f", &file]).ok().stdout, lines);
    let piped =
        Run::with_stdin(world.kinfer().args(["embed", &model]), "the cats sleep\ndogs\nthe cats sleep\n");
    assert_eq!(piped.ok().stdout, lines);

    let json = world.run(&["embed", &model, "-f", &file, "--json", "--similarity"]).ok().json();
    assert_eq!(
        (&json["pooling"], &json["dimensions"], &json["normalised"]),
        (&"mean".into(), &DIM.into(), &true.into())
    );
    // [CLS] the cat ##s sleep [SEP], and [CLS] dog ##s [SEP].
    let tokens: Vec<&Value> = json["embeddings"].as_array().unwrap().iter().map(|e| &e["tokens"]).collect();
    assert_eq!(tokens, [6, 4, 6]);
    let values: Vec<f32> = serde_json::from_value(json["embeddings"][1]["embedding"].clone()).unwrap();
    assert_eq!(values, vectors[1]);
    let cosines: Vec<Vec<f32>> = serde_json::from_value(json["similarity"].clone()).unwrap();
    assert!((cosines[0][2] - 1.0).abs() < 1e-6 && cosines[0][1] < 0.9999, "{cosines:?}");
    assert_eq!(cosines[0][1], cosines[1][0]);

    let jsonl = world.run(&["embed", &model, "-f", &file, "--jsonl"]).ok().stdout;
    let objects: Vec<Value> = jsonl.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(objects, *json["embeddings"].as_array().unwrap());
    let table = world.run(&["embed", &model, "the cat", "a mat", "--similarity"]).ok().stdout;
    assert!(table.starts_with(" 1.0000 ") && table.ends_with(" 1.0000  a mat\n"), "{table}");
}

/// Exact numerics, since what is compared is computed in another way.
#[test]
fn poolings() {
    let world = World::new();
    let model = bert(&world);
    let of = |more: &[&str], text: &str| {
        let args: Vec<&str> =
            ["embed", &model, text, "--numerics", "f32"].iter().chain(more).copied().collect();
        vector(world.run(&args).ok().stdout.trim_end())
    };
    let [mean, cls, last] =
        ["mean", "cls", "last"].map(|kind| of(&["--no-normalise", "--pooling", kind], "the cat"));
    assert!((length(&mean) - 1.0).abs() > 1e-3);
    assert!(mean != cls && cls != last);
    assert_eq!(of(&["--no-normalise"], "the cat"), mean);
    // An empty text is [CLS] and [SEP]: their mean is that of first and last.
    let [mean, cls, last] =
        ["mean", "cls", "last"].map(|kind| of(&["--no-normalise", "--pooling", kind], ""));
    for ((m, c), l) in mean.iter().zip(&cls).zip(&last) {
        assert!((m - (c + l) / 2.0).abs() < 1e-5, "{m} {c} {l}");
    }
    // Length 1 is the same direction.
    let unit = of(&[], "");
    for (u, m) in unit.iter().zip(&mean) {
        assert!((u - m / length(&mean)).abs() < 1e-5, "{u} {m}");
    }
}

#[test]
fn texts_beyond_the_context() {
    let world = World::new();
    let model = bert(&world);
    let long = "the cat ".repeat(20);
    world.run(&["embed", &model, "a", &long]).fails(2, "text 2 has 42 tokens; the model's context is 40");
    let run = world.run(&["embed", &model, &long, "--truncate", "--json"]).ok();
    assert!(run.stderr.contains("text 1: 2 of its tokens were cut off, 40 are left"), "{run:?}");
    assert_eq!(run.json()["embeddings"][0]["cut"], 2);
    // [SEP] stays at the end: nineteen cats are as long.
    let fits = world.run(&["embed", &model, &"the cat ".repeat(19), "--json"]).ok().json();
    assert_eq!(fits["embeddings"][0]["embedding"], run.json()["embeddings"][0]["embedding"]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let world = World::new();
    let model = bert(&world);
    world.run(&["embed", &smollm2(), "hello"]).fails(2, "ask for mean, cls or last");
    let decoder = world.run(&["embed", &smollm2(), "hello", "--pooling", "last"]).ok().stdout;
    assert_eq!(vector(decoder.trim_end()).len(), 576);
    world.run(&["embed", &smollm2(), "", "--pooling", "last"]).fails(2, "text 1 is empty");
    for args in [
        vec!["run", &model, "-p", "the cat", "--raw", "-n", "4"],
        vec!["run", &model, "-p", "the cat"],
        vec!["bench", &model, "-p", "8", "-n", "2", "-r", "1"],
    ] {
        let run = world.run(&args);
        assert!(run.stderr.contains("an encoder") && run.stderr.contains("kinfer embed"), "{run:?}");
        assert_eq!(run.code, Some(6), "{run:?}");
    }
    let empty = world.file("empty.txt", "");
    world.run(&["embed", &model, "-f", &empty]).fails(2, "is empty");
    world.run(&["embed", &model, "a", "--json", "--jsonl"]).fails(2, "exclude each other");
    world.run(&["embed", &model, "a", "--pooling", "rank"]).fails(2, "mean, cls, last");
}
