//! A real model that embeds, loaded from the folder that transformers saved, against what transformers computes.

mod common;

use kinfer::{EmbedOptions, LoadOptions, Model};
use serde_json::Value as Json;

/// Texts and their vectors, by `tests/tools/make_embedding_fixtures.py`.
const REFERENCE: &str = include_str!("golden/minilm.json");

#[test]
fn real_embeddings_are_those_of_transformers() {
    let reference: Json = serde_json::from_str(REFERENCE).unwrap();
    let list = |key: &str| reference[key].as_array().unwrap().clone();
    let texts: Vec<String> = list("texts").iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let model = Model::load(common::model("all-MiniLM-L6-v2/config.json"), LoadOptions::default()).unwrap();
    let got = model.embed(&texts, &EmbedOptions::default()).unwrap();
    for (((text, got), want), tokens) in texts.iter().zip(&got).zip(list("vectors")).zip(list("tokens")) {
        assert_eq!(got.tokens as u64, tokens.as_u64().unwrap(), "{text}");
        let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(got.values.len(), want.len());
        let off = got.values.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        // Vectors of length 1 and 384 elements: 0.05 each. Keys and values are kept in half precision.
        assert!(off < 1e-4, "{text}: off by {off:e}");
    }
}
