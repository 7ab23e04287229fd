//! `kinfer quantize`, `kinfer convert`, `--quant`, and folders in transformers' format.

mod common;

use common::{World, smollm2};

const TEXT: &str = "The quick brown fox jumps over the lazy dog. The capital of France is Paris.";

/// Perplexity of a text, by a model and flags of `score`.
fn perplexity(world: &World, model: &str, flags: &[&str]) -> f64 {
    let text = world.file("text.txt", TEXT.repeat(3));
    let args = [&["score", model, "--text", &text, "--json"], flags].concat();
    world.run(&args).ok().json()["perplexity"].as_f64().unwrap()
}

#[test]
fn a_model_is_converted_and_quantised() {
    let world = World::new();
    let path = |name: &str| world.home.path().join(name).into_os_string().into_string().unwrap();
    let (half, eight, mix) = (path("half.gguf"), path("eight.gguf"), path("mix.gguf"));
    world.run(&["convert", &smollm2(), "-o", &half]).ok();
    let json = world.run(&["quantize", &half, "q8_0", "-o", &eight, "--json"]).ok().json();
    assert_eq!(json["type"], "q8_0");
    assert_eq!(json["size"], std::fs::metadata(&eight).unwrap().len());
    assert_eq!((&json["tensors"]["Q8_0"], &json["tensors"]["F32"]), (&211.into(), &61.into()));

    let exact = perplexity(&world, &half, &[]);
    let stored = perplexity(&world, &eight, &[]);
    assert!((stored / exact - 1.0).abs() < 0.03, "{stored} {exact}");
    // While loading it is the same arithmetic, so the same weights.
    assert_eq!(perplexity(&world, &half, &["--quant", "q8_0"]), stored);

    // 576 columns are no multiple of 256, 1536 are.
    let rule = "blk.3.attn_*.weight=q4_0";
    let run = world.run(&["quantize", &half, "Q4_K_M", "-o", &mix, "--tensor", rule]).ok();
    assert!(run.stderr.contains("Q5_0 instead of Q4_K") && run.stdout.contains("4 Q4_0"), "{run:?}");
    let shown = world.run(&["show", &mix, "--json"]).ok().json();
    assert_eq!(shown["quantization"], "Q4_K_M");
    let rough = perplexity(&world, &mix, &[]);
    assert!((rough / exact - 1.0).abs() < 0.15, "{rough} {exact}");

    // What is there stays.
    world.run(&["quantize", &half, "q4_0", "-o", &mix]).fails(2, "--force");
    world.run(&["quantize", &half, "q4_0", "-o", &half, "--force"]).fails(2, "the model itself");
    world
        .run(&["quantize", &half, "q4_0", "-o", &path("x"), "--tensor", "blk.0.attn_q.weight=q4_k"])
        .fails(6, "256");
    world.run(&["quantize", &half, "q4_0", "-o", &path("x"), "--tensor", "nosuch=q4_0"]).fails(2, "nosuch");
    assert!(!world.home.path().join("x").exists() && !world.home.path().join("x.partial").exists());
}

#[test]
fn wrong_requests_are_refused() {
    let world = World::new();
    let out = world.home.path().join("out.gguf").into_os_string().into_string().unwrap();
    world.run(&["quantize", &smollm2(), "q4_k_x", "-o", &out]).fails(2, "q4_k_m");
    world.run(&["quantize", &smollm2(), "q4_0", "-o", &out]).fails(2, "--requantize");
    world.run(&["run", &smollm2(), "hi", "--quant", "q4_0"]).fails(2, "twice");
    world.run(&["run", &smollm2(), "hi", "--quant", "q4"]).fails(2, "--quant");
    world.run(&["quantize", &smollm2(), "q4_0", "-o", &out, "--tensor", "a"]).fails(2, "PATTERN=TYPE");
    world.run(&["quantize", &smollm2(), "q4_0", "-o", &out, "--tensor", "a=iq2_xs"]).fails(2, "iq2_xs");
    let (model, matrix) = (smollm2(), smollm2());
    world.run(&["quantize", &model, "q4_0", "-o", &out, "--imatrix", &matrix]).fails(2, "importance matrix");
    world.run(&["convert", &smollm2(), "q8_0", "-o", &out]).fails(2, "bf16");
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_folder_is_a_model() {
    let world = World::new();
    let folder = world.home.path().join("tiny");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.clone().into_os_string().into_string().unwrap();
    world.run(&["show", &path]).fails(5, "config.json");
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": true}"#;
    std::fs::write(folder.join("config.json"), config).unwrap();
    let layer = "model.layers.0.";
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in [
        ("model.embed_tokens".to_owned(), vec![4, 8]),
        ("model.norm".to_owned(), vec![8]),
        (format!("{layer}input_layernorm"), vec![8]),
        (format!("{layer}post_attention_layernorm"), vec![8]),
        (format!("{layer}self_attn.q_proj"), vec![8, 8]),
        (format!("{layer}self_attn.k_proj"), vec![8, 8]),
        (format!("{layer}self_attn.v_proj"), vec![8, 8]),
        (format!("{layer}self_attn.o_proj"), vec![8, 8]),
        (format!("{layer}mlp.gate_proj"), vec![16, 8]),
        (format!("{layer}mlp.up_proj"), vec![16, 8]),
        (format!("{layer}mlp.down_proj"), vec![8, 16]),
    ] {
        let bytes = 4 * shape.iter().product::<usize>();
        let info = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(format!("{name}.weight"), info);
        end += bytes;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; end]].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();

    let json = world.run(&["show", &path, "--json"]).ok().json();
    assert_eq!((&json["architecture"], &json["gguf_version"]), (&"llama".into(), &serde_json::Value::Null));
    assert_eq!((&json["quantization"], &json["parameters"]), (&"F32".into(), &(32 + 24 + 256 + 384).into()));
    // Nothing can be said with it: there is no tokenizer.
    world.run(&["run", &path, "hi"]).fails(6, "tokenizer");

    let out = world.home.path().join("tiny.gguf").into_os_string().into_string().unwrap();
    world.run(&["convert", &path, "-o", &out]).ok();
    let json = world.run(&["show", &out, "--json"]).ok().json();
    assert_eq!((&json["gguf_version"], &json["quantization"]), (&3.into(), &"F32".into()));
    world.run(&["quantize", &path, "q8_0", "-o", &out, "--force"]).fails(6, "multiple of 32");
}
