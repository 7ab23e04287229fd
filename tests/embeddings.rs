//! A real model that embeds, loaded from the folder that transformers saved, against what transformers computes; and what is computed
//! after pooling.

mod common;

use kinfer::quantize::{self, Recipe};
use kinfer::{EmbedOptions, LoadOptions, Model, Pooling};
use kinfer_load::gguf::Gguf;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value as Json, json};

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

/// A folder of an EmbeddingGemma of one layer, with or without the products after pooling; and the matrices of those.
fn embedding_gemma(dense: bool) -> (tempfile::TempDir, [Vec<f32>; 2]) {
    let (dim, hidden, wide) = (32, 64, 48);
    let config = json!({
        "architectures": ["Gemma3TextModel"], "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 4,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "query_pre_attn_scalar": 16,
        "sliding_window": 8, "use_bidirectional_attention": true,
    });
    let layer = [
        ("input_layernorm", vec![dim]),
        ("self_attn.q_proj", vec![32, dim]),
        ("self_attn.k_proj", vec![16, dim]),
        ("self_attn.v_proj", vec![16, dim]),
        ("self_attn.q_norm", vec![16]),
        ("self_attn.k_norm", vec![16]),
        ("self_attn.o_proj", vec![dim, 32]),
        ("post_attention_layernorm", vec![dim]),
        ("pre_feedforward_layernorm", vec![dim]),
        ("mlp.gate_proj", vec![hidden, dim]),
        ("mlp.up_proj", vec![hidden, dim]),
        ("mlp.down_proj", vec![dim, hidden]),
        ("post_feedforward_layernorm", vec![dim]),
    ];
    let of_layer = layer.into_iter().map(|(name, shape)| (format!("layers.0.{name}.weight"), shape));
    let whole = [("embed_tokens.weight".to_owned(), vec![4, dim]), ("norm.weight".to_owned(), vec![dim])];
    let mut random = common::Random::new(5);
    let mut values = |shape: &[usize]| -> Vec<f32> {
        (0..shape.iter().product::<usize>()).map(|_| random.uniform() * 0.3).collect()
    };
    let mut save = |path: &std::path::Path, tensors: Vec<(String, Vec<usize>)>| -> Vec<f32> {
        let all: Vec<_> = tensors.into_iter().map(|(name, shape)| (name, values(&shape), shape)).collect();
        let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<Vec<u8>> = all.iter().map(|(_, v, _)| bytes(v)).collect();
        let views = all.iter().zip(&data).map(|((name, _, shape), data)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, path).unwrap();
        all[0].1.clone()
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &Json| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    save(&folder.path().join("model.safetensors"), of_layer.chain(whole).collect());
    write("config.json", &config);
    write(
        "tokenizer.json",
        &json!({ "added_tokens": [], "pre_tokenizer": { "type": "ByteLevel", "use_regex": true },
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2, "c": 3 }, "merges": ["a b"] } }),
    );
    let module = |kind: &str, path: &str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
    let products = [("2_Dense", [wide, dim]), ("3_Dense", [dim, wide])].map(|(place, [rows, cols])| {
        let path = folder.path().join(place);
        std::fs::create_dir(&path).unwrap();
        let config = json!({ "in_features": cols, "out_features": rows, "bias": false,
            "activation_function": "torch.nn.modules.linear.Identity" });
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        save(&path.join("model.safetensors"), vec![("linear.weight".into(), vec![rows, cols])])
    });
    let mut modules = vec![module("Transformer", ""), module("Pooling", "1_Pooling")];
    if dense {
        modules.extend([module("Dense", "2_Dense"), module("Dense", "3_Dense")]);
    }
    write("modules.json", &modules.into());
    (folder, products)
}

/// What sentence-transformers multiplies a pooled vector with is multiplied, from a folder and from the file that it becomes.
#[test]
fn products_after_pooling_are_computed() {
    let (plain, _) = embedding_gemma(false);
    let (whole, products) = embedding_gemma(true);
    let options = EmbedOptions { pooling: Some(Pooling::Mean), normalise: false, ..EmbedOptions::default() };
    let embed = |path: &std::path::Path| {
        let model = Model::load(path, LoadOptions::default()).unwrap();
        model.embed(&["abc", "cab"], &options).unwrap().into_iter().map(|e| e.values).collect::<Vec<_>>()
    };
    let multiplied = |matrix: &[f32], vector: &[f32]| -> Vec<f32> {
        let row = |row: &[f32]| row.iter().zip(vector).map(|(a, b)| a * b).sum();
        matrix.chunks_exact(vector.len()).map(row).collect()
    };
    let path = whole.path().join("out.gguf");
    let gguf = Gguf::open(whole.path()).unwrap();
    let recipe = Recipe::parse("f32").unwrap();
    quantize::write(&gguf, &recipe, &quantize::Options::default(), &path, &mut |_, _| {}).unwrap();
    let pooled = embed(plain.path());
    for got in [embed(whole.path()), embed(&path)] {
        for (got, pooled) in got.iter().zip(&pooled) {
            let want = multiplied(&products[1], &multiplied(&products[0], pooled));
            let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let size = want.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            assert!(got.len() == want.len() && size > 0.1 && off < 1e-4 * size, "off by {off} of {size}");
        }
    }
}
