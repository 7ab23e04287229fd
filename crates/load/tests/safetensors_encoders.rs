//! Folders of encoders: the two forms of Nomic's configuration, products after pooling, what comes before and after a text, and
//! settings that are refused by name.

mod common;

use kinfer_load::gguf::Gguf;
use kinfer_load::tokenizer::{Encode, Tokenizer, VocabSpec};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value as Json, json};

/// One layer, as transformers says it.
fn config(class: &str, changes: Json) -> Json {
    let mut config = json!({
        "architectures": [class], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 4, "max_position_embeddings": 64,
    });
    let more = match class {
        "NomicBertModel" => json!({ "layer_norm_eps": 1e-12, "rope_theta": 1000.0, "hidden_act": "silu" }),
        "ModernBertModel" => json!({ "norm_eps": 1e-5, "local_attention": 8 }),
        "Gemma3TextModel" => {
            json!({ "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "query_pre_attn_scalar": 4, "sliding_window": 8, "use_bidirectional_attention": true })
        }
        _ => json!({ "layer_norm_eps": 1e-12, "position_embedding_type": "alibi", "hidden_act": "gelu" }),
    };
    for part in [more, changes] {
        config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    config
}

/// The metadata's values, as text, but for the folder's name.
fn metadata(config: &Json) -> Vec<(String, String)> {
    let folder = common::folder(config, &[]);
    let gguf = Gguf::open(folder.path()).unwrap();
    let all = gguf.metadata().iter().filter(|(key, _)| *key != "general.name");
    let mut all: Vec<_> = all.map(|(key, value)| (key.to_owned(), format!("{value:?}"))).collect();
    all.sort();
    all
}

#[test]
fn nomics_own_configuration_is_that_of_transformers() {
    let own = |changes: Json| {
        let mut config = json!({
            "architectures": ["NomicBertModel"], "activation_function": "swiglu", "attn_pdrop": 0.0, "causal": false,
            "dense_seq_output": true, "fused_bias_fc": true, "fused_dropout_add_ln": true,
            "layer_norm_epsilon": 1e-12, "max_trained_positions": 64, "mlp_fc1_bias": false, "n_embd": 8,
            "n_head": 2, "n_inner": 16, "n_layer": 1, "n_positions": 256, "pad_vocab_size_multiple": 64,
            "prenorm": false, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
            "rotary_emb_scale_base": null, "rotary_scaling_factor": 2, "scale_attn_weights": true,
            "summary_type": "cls_index", "type_vocab_size": 2, "use_flash_attn": true, "use_xentropy": true,
            "vocab_size": 4,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    };
    let native = metadata(&config("NomicBertModel", json!({})));
    let turns = |(key, _): &(String, String)| key != "nomic-bert.rope.dimension_count";
    assert_eq!(metadata(&own(json!({}))), native.into_iter().filter(turns).collect::<Vec<_>>());
    for (changes, named) in [
        (json!({ "activation_function": "geglu" }), "activation_function"),
        (json!({ "rotary_emb_fraction": 0.5 }), "rotary_emb_fraction"),
        (json!({ "rotary_emb_interleaved": true }), "rotary_emb_interleaved"),
        (json!({ "rotary_emb_scale_base": 512 }), "rotary_emb_scale_base"),
        (json!({ "prenorm": true }), "prenorm"),
        (json!({ "moe_every_n_layers": 2 }), "moe_every_n_layers"),
    ] {
        let folder = common::folder(&own(changes), &[]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

/// Jina Embeddings 3 goes by the name of XLM-RoBERTa in its own code, whose adapters are left out.
#[test]
fn jinas_own_configuration_is_that_of_transformers() {
    let settings = json!({ "position_embedding_type": null, "layer_norm_eps": 1e-5, "pad_token_id": 1 });
    let mut native = config("JinaEmbeddingsV3Model", settings);
    native["rope_theta"] = 20000.0.into();
    let mut own = config(
        "XLMRobertaModel",
        json!({
            "position_embedding_type": "rotary", "layer_norm_eps": 1e-5, "pad_token_id": 1, "rotary_emb_base": 20000.0,
            "lora_adaptations": ["retrieval.query"], "lora_alpha": 1, "lora_rank": 4, "load_trained_adapters": true,
            "task_instructions": { "retrieval.query": "Query: " }, "matryoshka_dimensions": [32], "truncate_dim": null,
            "use_flash_attn": true,
        }),
    );
    let turns = |(key, _): &(String, String)| key != "jina-bert-v3.rope.dimension_count";
    assert_eq!(metadata(&own), metadata(&native).into_iter().filter(turns).collect::<Vec<_>>());
    own["truncate_dim"] = 32.into();
    let error = Gguf::open(common::folder(&own, &[]).path()).unwrap_err().to_string();
    assert!(error.contains("truncate_dim"), "{error}");
    // Positions that are learned are another model.
    own["position_embedding_type"] = "absolute".into();
    let error = Gguf::open(common::folder(&own, &[]).path()).unwrap_err().to_string();
    assert!(error.contains("XLMRobertaModel"), "{error}");
}

#[test]
fn settings_of_encoders_that_cannot_be_followed_are_named() {
    let [modern, jina, gemma] = ["ModernBertModel", "JinaBertModel", "Gemma3TextModel"];
    let types = |kinds: [&str; 4]| json!({ "num_hidden_layers": 4, "layer_types": kinds });
    let (full, local) = ("full_attention", "sliding_attention");
    for (class, changes, named) in [
        (modern, json!({ "hidden_activation": "relu" }), "hidden_activation"),
        (modern, json!({ "local_attention": null }), "local_attention"),
        (modern, types([local, full, local, full]), "layer_types"),
        (modern, types([full, local, full, full]), "layer_types"),
        (modern, json!({ "head_dim": 8 }), "head_dim"),
        (modern, json!({ "num_attention_heads": 3 }), "num_attention_heads"),
        (jina, json!({ "position_embedding_type": "absolute" }), "position_embedding_type"),
        (jina, json!({ "feed_forward_type": "reglu" }), "feed_forward_type"),
        (jina, json!({ "rope_theta": 1e4 }), "rope_theta"),
        (gemma, json!({ "use_bidirectional_attention": false }), "use_bidirectional_attention"),
        (gemma, json!({ "use_bidirectional_attention": null }), "use_bidirectional_attention"),
        ("NomicBertModel", json!({ "hidden_act": "gelu" }), "hidden_act"),
    ] {
        let folder = common::folder(&config(class, changes.clone()), &[]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.json"), "{class} {changes}: {error}");
    }
    let period = |changes: Json| {
        let all = metadata(&config(modern, changes));
        all.into_iter().find(|(key, _)| key.ends_with("sliding_window_pattern")).unwrap().1
    };
    let every_second = period(types([full, local, full, local]));
    assert_eq!(period(json!({ "global_attn_every_n_layers": 2 })), every_second);
    assert_ne!(period(json!({})), every_second);
}

/// What sentence-transformers multiplies a pooled vector with.
#[test]
fn products_after_pooling_are_read() {
    let kind = |kind: &str, path: &str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
    let modules = [kind("Transformer", ""), kind("Pooling", "1_Pooling"), kind("Normalize", "4_Normalize")];
    let both = [&modules[..], &[kind("Dense", "2_Dense"), kind("Dense", "3_Dense")]].concat();
    let open = |class: &str, modules: &[Json], changes: Json, shape: &[usize]| {
        let folder = common::folder(&config(class, json!({})), &[]);
        std::fs::write(folder.path().join("modules.json"), json!(modules).to_string()).unwrap();
        for (place, widths) in [("2_Dense", [8, 12]), ("3_Dense", [12, 8])] {
            let path = folder.path().join(place);
            std::fs::create_dir(&path).unwrap();
            let mut dense = json!({ "in_features": widths[0], "out_features": widths[1], "bias": false,
                "activation_function": "torch.nn.modules.linear.Identity" });
            dense.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            std::fs::write(path.join("config.json"), dense.to_string()).unwrap();
            let shape = if shape.is_empty() { vec![widths[1], widths[0]] } else { shape.to_vec() };
            let data = vec![0u8; 4 * shape.iter().product::<usize>()];
            let views = [("linear.weight", TensorView::new(Dtype::F32, shape, &data).unwrap())];
            safetensors::serialize_to_file(views, None, &path.join("model.safetensors")).unwrap();
        }
        Gguf::open(folder.path()).map_err(|e| e.to_string())
    };
    let gguf = open("Gemma3TextModel", &both, json!({}), &[]).unwrap();
    let shapes = ["dense_2.weight", "dense_3.weight"].map(|name| gguf.tensor(name).unwrap().shape().to_vec());
    assert_eq!(shapes, [[8, 12], [12, 8]]);
    assert_eq!(gguf.metadata().get::<u32>("gemma-embedding.dense_2_feat_out").unwrap(), 12);
    assert!(open("ModernBertModel", &modules, json!({}), &[]).is_ok());
    let layer_norm = [&modules[..], &[kind("LayerNorm", "2_LayerNorm")]].concat();
    for (class, modules, changes, shape, named) in [
        ("ModernBertModel", &both, json!({}), &[][..], "ModernBertModel"),
        ("Gemma3TextModel", &both[..4].to_vec(), json!({}), &[], "modules.json"),
        ("Gemma3TextModel", &layer_norm, json!({}), &[], "LayerNorm"),
        ("Gemma3TextModel", &both, json!({ "bias": true }), &[], "bias"),
        ("Gemma3TextModel", &both, json!({ "activation_function": "torch.nn.Tanh" }), &[], "Tanh"),
        ("Gemma3TextModel", &both, json!({ "in_features": -1 }), &[], "in_features"),
        ("Gemma3TextModel", &both, json!({}), &[8, 8], "[12, 8]"),
    ] {
        let error = open(class, modules, changes, shape).unwrap_err();
        assert!(error.contains(named), "expected {named}: {error}");
    }
}

/// ModernBERT's tokenizer calls what comes before and after a text as BERT does, and composes text as its own file says.
#[test]
fn modern_berts_tokenizer_is_read() {
    let special = ["[CLS]", "[SEP]"].into_iter().zip(2..);
    let added: Vec<Json> =
        special.map(|(t, id)| json!({ "id": id, "content": t, "special": true })).collect();
    let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let single = json!([token("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, token("[SEP]")]);
    let json = json!({ "added_tokens": added, "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": { "type": "TemplateProcessing", "single": single },
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 4 }, "merges": ["a b"] } });
    let folder = common::folder(&config("ModernBertModel", json!({ "vocab_size": 5 })), &[]);
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let names = r#"{"cls_token": "[CLS]", "sep_token": "[SEP]"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), names).unwrap();
    let gguf = Gguf::open(folder.path()).unwrap();
    assert_eq!(gguf.metadata().get::<&str>("tokenizer.ggml.pre").unwrap(), "modern-bert");
    let tokenizer = Tokenizer::new(&VocabSpec::from_metadata(gguf.metadata()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab", Encode { special: true, ..Encode::default() }).unwrap(), [2, 4, 3]);
}
