//! Folders of models with gated delta nets: settings and tensors that are refused by name.

mod common;

use kinfer_load::gguf::Gguf;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

const NEXT: &str = "Qwen3NextForCausalLM";
const Q35: &str = "Qwen3_5ForCausalLM";

/// Two layers, two key heads of 2 and four value heads of 3.
fn config(class: &str, changes: Json) -> Json {
    let mut config = json!({
        "architectures": [class], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 4,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 2, "linear_value_head_dim": 3, "linear_conv_kernel_dim": 4,
        "full_attention_interval": 2,
    });
    let experts = json!({ "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8 });
    for part in [if class == Q35 { json!({}) } else { experts }, changes] {
        config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    config
}

#[test]
fn settings_of_delta_nets_are_read_or_named() {
    let folder = common::folder(&config(Q35, json!({})), &[]);
    let gguf = Gguf::open(folder.path()).unwrap();
    let get = |key: &str| gguf.metadata().get::<u32>(&format!("qwen35.{key}")).unwrap();
    assert_eq!(["ssm.inner_size", "ssm.group_count", "rope.dimension_count"].map(get), [12, 2, 2]);
    for (class, changes, named) in [
        (Q35, json!({ "linear_num_value_heads": 5 }), "linear_num_value_heads"),
        (Q35, json!({ "linear_num_key_heads": 0 }), "linear_num_key_heads"),
        (Q35, json!({ "linear_value_head_dim": 4294967295u32 }), "linear_value_head_dim"),
        (Q35, json!({ "linear_key_head_dim": null }), "linear_key_head_dim"),
        (Q35, json!({ "head_dim": null }), "head_dim"),
        (Q35, json!({ "intermediate_size": null }), "intermediate_size"),
        (Q35, json!({ "layer_types": ["linear_attention"] }), "layer_types"),
        (Q35, json!({ "layer_types": ["linear_attention", "sliding_attention"] }), "layer_types"),
        (Q35, json!({ "attn_output_gate": false }), "attn_output_gate"),
        (Q35, json!({ "mamba_ssm_dtype": "bfloat16" }), "mamba_ssm_dtype"),
        (Q35, json!({ "sliding_window": 4 }), "sliding_window"),
        (Q35, json!({ "rope_parameters": { "rope_theta": 1e4, "mrope_section": 3 } }), "mrope_section"),
        ("Qwen3_5MoeForCausalLM", json!({ "norm_topk_prob": false }), "norm_topk_prob"),
        (NEXT, json!({ "decoder_sparse_step": 2 }), "decoder_sparse_step"),
        (NEXT, json!({ "mlp_only_layers": [0] }), "mlp_only_layers"),
        ("LlamaForCausalLM", json!({ "full_attention_interval": null }), "linear_"),
    ] {
        let folder = common::folder(&config(class, changes.clone()), &[]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.json"), "{class} {changes}: {error}");
    }
}

#[test]
fn tensors_of_other_heads_are_named() {
    type Shape<'a> = &'a [usize];
    let cases: [(&str, &str, Shape<'_>, &str); 7] = [
        (Q35, "in_proj_qkv.weight", &[21, 8], "20 rows"),
        (Q35, "in_proj_z.weight", &[12], "a matrix"),
        (Q35, "in_proj_a.weight", &[4, 0], "4 rows"),
        (Q35, "out_proj.weight", &[8, 13], "12 columns"),
        (Q35, "A_log", &[5], "expected: 4"),
        (NEXT, "in_proj_qkvz.weight", &[20, 8], "32 rows"),
        (NEXT, "A_log", &[3], "expected: 4"),
    ];
    for (class, name, shape, named) in cases {
        let name = format!("model.layers.0.linear_attn.{name}");
        let folder = common::folder(&config(class, json!({})), &[(&name, Dtype::F32, shape)]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains(&name), "expected {named}: {error}");
    }
}
