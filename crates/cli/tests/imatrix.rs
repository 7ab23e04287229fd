//! `kinfer imatrix`, and `kinfer quantize --imatrix` with what it wrote.

mod common;

use common::{World, smollm2};
use kinfer::gguf::Gguf;

const TEXT: &str = include_str!("../../../tests/data/gpl-3.txt");

/// A tensor of f32, and its shape.
fn tensor(gguf: &Gguf, name: &str) -> (Vec<u64>, Vec<f32>) {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let values = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (tensor.shape().to_vec(), values)
}

#[test]
fn a_model_measured_and_quantised_by_it_loses_less() {
    let world = World::new();
    let path = |name: &str| world.home.path().join(name).into_os_string().into_string().unwrap();
    let (half, matrix) = (path("half.gguf"), path("imatrix.gguf"));
    let text = world.file("text.txt", &TEXT[..12000]);
    world.run(&["convert", &smollm2(), "-o", &half]).ok();
    let common = ["imatrix", &half, "-f", &text, "-o", &matrix, "-c", "100"];
    let json = world.run(&[&common[..], &["--chunks", "5", "--json"]].concat()).ok().json();
    assert_eq!(
        (&json["tensors"], &json["chunks"], &json["chunk_size"]),
        (&210.into(), &5.into(), &100.into())
    );
    assert_eq!(json["left_out"].as_u64().unwrap(), json["tokens"].as_u64().unwrap() - 500);
    assert_eq!(json["size"], std::fs::metadata(&matrix).unwrap().len());

    let gguf = Gguf::open(&matrix).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.get::<&str>("general.type").unwrap(), "imatrix");
    assert_eq!(metadata.get::<Vec<&str>>("imatrix.datasets").unwrap(), [text.as_str()]);
    assert_eq!(metadata.get::<u32>("imatrix.chunk_count").unwrap(), 5);
    assert_eq!(metadata.get::<u32>("imatrix.chunk_size").unwrap(), 100);
    let (shape, q) = tensor(&gguf, "blk.7.attn_q.weight.in_sum2");
    assert_eq!(
        (shape, tensor(&gguf, "blk.7.attn_q.weight.counts")),
        (vec![576, 1], (vec![1, 1], vec![500.0]))
    );
    assert!(q.iter().all(|v| *v > 0.0));
    assert_eq!(tensor(&gguf, "blk.7.attn_v.weight.in_sum2").1, q);
    assert_ne!(tensor(&gguf, "blk.7.ffn_up.weight.in_sum2").1, q);
    assert_eq!(tensor(&gguf, "blk.7.ffn_down.weight.in_sum2").0, [1536, 1]);
    assert!(gguf.tensor("token_embd.weight.in_sum2").is_none());

    // What is there stays, and so does the model.
    world.run(&common).fails(2, "--force");
    let mut over = common;
    over[5] = &half;
    world.run(&[&over[..], &["--force"]].concat()).fails(2, "the model or the text itself");

    let perplexity = |flags: &[&str]| {
        let (out, rule) = (path("out.gguf"), "blk.*.ffn_down.weight=q2_k");
        world
            .run(&[&["quantize", &half, "f16", "--tensor", rule, "-o", &out, "--force"], flags].concat())
            .ok();
        let json =
            world.run(&["perplexity", &out, &text, "-c", "256", "--windows", "5", "--json"]).ok().json();
        json["perplexity"].as_f64().unwrap()
    };
    let (without, with) = (perplexity(&[]), perplexity(&["--imatrix", &matrix]));
    assert!(with < without, "{with} with the matrix, {without} without");
}

#[test]
fn the_head_is_measured_where_it_is_asked_for() {
    let world = World::new();
    let text = world.file("text.txt", &TEXT[..1500]);
    let run = |name: &str, more: &[&str]| {
        let out = world.home.path().join(name).into_os_string().into_string().unwrap();
        let args = ["imatrix", &smollm2(), "-f", &text, "-o", &out, "-c", "150", "--chunks", "1"];
        let run = world.run(&[&args[..], more].concat()).ok();
        assert!(run.stdout.contains("by 150 of ") && run.stdout.contains(" left out"), "{run:?}");
        Gguf::open(&out).unwrap()
    };
    // In steps of 128 rows instead of one, which changes nothing else.
    let (with, without) = (run("with.gguf", &["--process-output"]), run("without.gguf", &[]));
    assert_eq!(tensor(&with, "token_embd.weight.counts").1, [150.0]);
    assert_eq!(with.tensors().len(), without.tensors().len() + 2);
    for name in ["blk.0.attn_q", "blk.29.ffn_down"].map(|name| format!("{name}.weight.in_sum2")) {
        assert_eq!(tensor(&with, &name), tensor(&without, &name), "{name}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let world = World::new();
    let (text, out) = (world.file("text.txt", "a b c"), world.home.path().join("out.gguf"));
    let out = out.to_str().unwrap();
    world.run(&["imatrix", &smollm2(), "-f", &text, "-o", out]).fails(2, "fill no chunk of 512");
    world.run(&["imatrix", &smollm2(), "-f", &text, "-o", out, "-c", "9000"]).fails(2, "8192");
    world.run(&["imatrix", &smollm2(), "-f", &text, "-o", "/none/out.gguf"]).fails(2, "no folder /none");
    world.run(&["imatrix", &smollm2(), "-f", &text, "-o", out, "-c", "0"]).fails(2, "--ctx-size");
    world.run(&["imatrix", &smollm2(), "-f", "/none.txt", "-o", out]).fails(2, "/none.txt cannot be read");
    world.run(&["imatrix", &smollm2(), "-f", &text, "-o", out, "--device", "cuda"]).fails(4, "cuda");
    assert!(!std::path::Path::new(out).exists());
}
