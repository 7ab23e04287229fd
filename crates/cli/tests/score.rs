//! `kinfer score`.

mod common;

use common::{Run, World, gemma3, smollm2};

const TEXT: &str = "The quick brown fox jumps over the lazy dog. The capital of France is Paris.";

#[test]
fn a_short_text_is_scored_whole() {
    let world = World::new();
    let file = world.file("text.txt", TEXT);
    let json = world.run(&["score", &smollm2(), "--text", &file, "--top", "4", "--json"]).ok().json();
    let ids: Vec<u32> = serde_json::from_value(json["ids"].clone()).unwrap();
    let logprobs: Vec<Option<f64>> = serde_json::from_value(json["logprobs"].clone()).unwrap();
    let top: Vec<Vec<(u32, f64)>> = serde_json::from_value(json["top"].clone()).unwrap();
    assert_eq!((logprobs.len(), top.len()), (ids.len(), ids.len()));
    assert_eq!(logprobs.last(), Some(&None));
    assert_eq!(json["scored"], ids.len() - 1);
    for (i, known) in logprobs.iter().enumerate().filter_map(|(i, l)| Some((i, (*l)?))) {
        // A position's likeliest token is at least as likely as the true one, and equal where it is the true one.
        assert!(known <= top[i][0].1 && top[i].len() == 4, "{i}");
        if let Some((_, listed)) = top[i].iter().find(|(id, _)| *id == ids[i + 1]) {
            assert_eq!(*listed, known);
        }
    }
    let mean = logprobs.iter().flatten().sum::<f64>() / (ids.len() - 1) as f64;
    let perplexity = json["perplexity"].as_f64().unwrap();
    assert!(((-mean).exp() - perplexity).abs() < 1e-3 * perplexity, "{perplexity}");

    // The same words in reverse are harder to foresee.
    let words: Vec<_> = TEXT.split(' ').rev().collect();
    let reverse = world.file("reverse.txt", words.join(" "));
    let reverse = world.run(&["score", &smollm2(), "--text", &reverse, "--json"]).ok().json();
    assert!(2.0 * perplexity < reverse["perplexity"].as_f64().unwrap(), "{perplexity} {reverse}");
}

/// The types reach the cache: f16 changes next to nothing, 8 bits little, 4 bits more.
#[test]
fn cache_types() {
    let world = World::new();
    let file = world.file("text.txt", TEXT.repeat(4));
    let score = |k: &str, v: &str| {
        let args =
            ["score", &smollm2(), "--text", &file, "--numerics", "f32", "-ctk", k, "-ctv", v, "--json"];
        let json = world.run(&args).ok().json();
        serde_json::from_value::<Vec<Option<f64>>>(json["logprobs"].clone()).unwrap()
    };
    let exact = score("f32", "f32");
    let off = |k, v| {
        let differences = score(k, v).into_iter().zip(&exact).filter_map(|(a, b)| Some((a? - (*b)?).abs()));
        differences.fold(0.0, f64::max)
    };
    let (half, eight, values, four) =
        (off("f16", "f16"), off("q8_0", "q8_0"), off("q8_0", "q4_0"), off("q4_0", "q4_0"));
    assert!(
        0.0 < half && 2.0 * half < eight && 2.0 * eight < values && values < four,
        "{half} {eight} {values} {four}"
    );
    assert!(eight < 0.3, "{eight}");
}

#[test]
fn windows_are_cut_and_counted() {
    let world = World::new();
    let text = TEXT.repeat(6);
    let run = Run::with_stdin(
        world.kinfer().args(["score", &gemma3(), "--text", "-", "-c", "32", "--json"]),
        &text,
    );
    let json = run.ok().json();
    let (tokens, windows) = (json["tokens"].as_u64().unwrap(), json["windows"].as_u64().unwrap());
    assert_eq!(windows, tokens / 32);
    assert_eq!(json["scored"], windows * 15);
    assert_eq!(json["left_out"], tokens % 32);
    // BOS over each window's first token.
    for window in json["ids"].as_array().unwrap().chunks(32) {
        assert_eq!(window[0], 2);
    }
    assert!(json.get("top").is_none());
}

#[test]
fn ids_are_taken_as_they_are() {
    let world = World::new();
    let file = world.file("text.txt", TEXT);
    let by_text = world.run(&["score", &gemma3(), "--text", &file, "--json"]).ok().json();
    let ids = world.file("ids.json", by_text["ids"].to_string());
    let by_ids = world.run(&["score", &gemma3(), "--ids", &ids, "--json"]).ok().json();
    assert_eq!(by_ids["logprobs"], by_text["logprobs"]);
    let table = world.run(&["score", &gemma3(), "--ids", &ids]).ok();
    assert!(table.stdout.starts_with("perplexity "), "{table:?}");

    let one = world.file("one.txt", "2");
    world.run(&["score", &gemma3(), "--ids", &one]).fails(2, "nothing to score");
    let far = world.file("far.txt", "2 99999999");
    world.run(&["score", &gemma3(), "--ids", &far]).fails(2, "vocabulary");
}
