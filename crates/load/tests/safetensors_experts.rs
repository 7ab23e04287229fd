//! Folders of gpt-oss and DeepSeek: settings and tensors that are refused by name, and gpt-oss's tokenizer.

mod common;

use common::folder;
use kinfer_load::gguf::Gguf;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

/// A gpt-oss or DeepSeek of one layer.
fn config(class: &str, changes: Json) -> Json {
    let mut config = json!({
        "architectures": [class], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_experts_per_tok": 1, "vocab_size": 4, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
    });
    let more = match class {
        "GptOssForCausalLM" => json!({ "num_key_value_heads": 1, "num_local_experts": 2, "head_dim": 4,
            "sliding_window": 4, "rope_scaling":
            { "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "truncate": false } }),
        _ => json!({ "num_key_value_heads": 2, "n_routed_experts": 2, "n_shared_experts": 1,
            "moe_intermediate_size": 8, "first_k_dense_replace": 1, "routed_scaling_factor": 1.0,
            "norm_topk_prob": false, "n_group": 1, "topk_group": 1, "q_lora_rank": null, "kv_lora_rank": 4,
            "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 4 }),
    };
    for part in [more, changes] {
        config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    config
}

#[test]
fn settings_of_experts_and_latents_that_cannot_be_followed_are_named() {
    let yarn = |more: Json| {
        let mut yarn = json!({ "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32 });
        yarn.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "rope_scaling": yarn })
    };
    let [oss, v2, v3] = ["GptOssForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"];
    for (class, changes, named) in [
        (oss, json!({ "swiglu_limit": 5.0 }), "swiglu_limit"),
        (oss, json!({ "swiglu_alpha": 1.0 }), "swiglu_alpha"),
        (oss, json!({ "experts_per_token": 2 }), "experts_per_token"),
        (oss, json!({ "num_local_experts": null }), "num_local_experts"),
        (oss, yarn(json!({})), "truncate"),
        (oss, yarn(json!({ "truncate": "no" })), "truncate"),
        (v2, yarn(json!({ "truncate": false, "mscale": 1.0, "mscale_all_dim": 1.0 })), "truncate"),
        (v2, yarn(json!({ "mscale": 1.0, "mscale_all_dim": 0.707 })), "mscale_all_dim"),
        (v2, yarn(json!({})), "mscale"),
        (v2, json!({}), "topk_method"),
        (v2, json!({ "topk_method": "greedy", "norm_topk_prob": true }), "norm_topk_prob"),
        (v2, json!({ "topk_method": "greedy", "moe_layer_freq": 2 }), "moe_layer_freq"),
        (v2, json!({ "topk_method": "group_limited_greedy", "n_group": null }), "n_group"),
        (v3, json!({ "scoring_func": "softmax" }), "scoring_func"),
        (v3, json!({ "rope_interleave": false }), "rope_interleave"),
        (v3, json!({ "num_key_value_heads": 1 }), "num_key_value_heads"),
        (v3, json!({ "kv_lora_rank": 4294967295u32, "qk_rope_head_dim": 4 }), "qk_rope_head_dim"),
        (v3, json!({ "qk_head_dim": 8 }), "qk_head_dim"),
    ] {
        let folder = folder(&config(class, changes.clone()), &[]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.json"), "{class} {changes}: {error}");
    }
}

/// Parts of a stored tensor whose shape is none that has such parts.
#[test]
fn tensors_that_others_are_not_made_of_are_named() {
    let experts = "model.layers.0.mlp.experts.gate_up_proj";
    let kv_b = "model.layers.0.self_attn.kv_b_proj.weight";
    let blocks = json!({ "quantization_config": { "quant_method": "mxfp4" } });
    type Tensors<'a> = &'a [(&'a str, Dtype, &'a [usize])];
    let [blocks_name, scales_name] = ["blocks", "scales"].map(|end| format!("{experts}_{end}"));
    let cases: [(&str, Json, Tensors<'_>, &str); 9] = [
        ("GptOssForCausalLM", json!({}), &[(experts, Dtype::BF16, &[2, 8, 3])], "pairs"),
        ("GptOssForCausalLM", json!({}), &[(experts, Dtype::BF16, &[8])], "expected: matrices"),
        ("GptOssForCausalLM", json!({}), &[(experts, Dtype::BF16, &[2, 0, 4])], "no elements"),
        ("GptOssForCausalLM", json!({}), &[(experts, Dtype::U8, &[2, 8, 4])], "U8"),
        ("GptOssForCausalLM", json!({}), &[(&blocks_name, Dtype::U8, &[2, 4, 1, 16])], "none that a"),
        ("GptOssForCausalLM", blocks.clone(), &[(&blocks_name, Dtype::U8, &[2, 4, 1, 16])], "missing"),
        (
            "GptOssForCausalLM",
            blocks.clone(),
            &[(&blocks_name, Dtype::U8, &[2, 4, 1, 8]), (&scales_name, Dtype::U8, &[2, 4, 1])],
            "[2, 4, 1, 16]",
        ),
        (
            "GptOssForCausalLM",
            blocks,
            &[(&blocks_name, Dtype::U8, &[2, 3, 1, 16]), (&scales_name, Dtype::U8, &[2, 3, 1])],
            "pairs",
        ),
        ("DeepseekV3ForCausalLM", json!({}), &[(kv_b, Dtype::BF16, &[13, 4])], "2 heads with keys of 2"),
    ];
    for (class, changes, tensors, named) in cases {
        let folder = folder(&config(class, changes), tensors);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named), "expected {named}: {error}");
    }
}

/// What gpt-oss's folder has: a pattern, a template in a file of its own, and three tokens that end an answer.
#[test]
fn o200k_harmony_is_read() {
    const PATTERN: &str = concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let special = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|call|>"];
    let added: Vec<Json> =
        (2..).zip(special).map(|(id, t)| json!({ "id": id, "content": t, "special": true })).collect();
    let pre = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": PATTERN }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
    ] });
    let json = json!({ "added_tokens": added, "normalizer": null, "pre_tokenizer": pre,
        "post_processor": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
        "model": { "type": "BPE", "ignore_merges": false, "vocab": { "a": 0, "b": 1 }, "merges": [] } });
    let folder = folder(&config("GptOssForCausalLM", json!({ "vocab_size": 6 })), &[]);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", &json.to_string());
    write(
        "tokenizer_config.json",
        r#"{"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}"#,
    );
    write("generation_config.json", r#"{"bos_token_id": 2, "do_sample": true, "eos_token_id": [4, 3, 5]}"#);
    write("chat_template.jinja", "{{ messages }}");
    let gguf = Gguf::open(folder.path()).unwrap();
    let metadata = gguf.metadata();
    let get = |key: &str| metadata.get::<&str>(&format!("tokenizer.{key}")).unwrap();
    assert_eq!((get("ggml.pre"), get("chat_template")), ("gpt-4o", "{{ messages }}"));
    let ids = ["bos", "eos", "eot", "eom", "padding"]
        .map(|key| metadata.get::<u32>(&format!("tokenizer.ggml.{key}_token_id")).unwrap());
    assert_eq!(ids, [2, 4, 3, 5, 3]);
    assert!(!metadata.get::<bool>("tokenizer.ggml.add_bos_token").unwrap());
}
