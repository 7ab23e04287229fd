//! Folders of HyperCLOVA X SEED Think: its multipliers, and what configurations of its own code have beside them.

mod common;

use kinfer_load::gguf::Gguf;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

fn config(changes: Json) -> Json {
    let mut config = json!({
        "architectures": ["HyperCLOVAXForCausalLM"], "model_type": "hyperclovax", "hidden_size": 8,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "vocab_size": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e8,
        "rope_scaling": null, "hidden_act": "silu", "tie_word_embeddings": true, "attn_pdrop": 0.0,
        "embd_pdrop": 0.0, "resid_pdrop": 0.0, "end_token_id": 3, "bos_token_id": 3, "eos_token_id": 3,
        "embedding_multiplier": 10.0, "logits_scaling": 0.125, "attention_multiplier": 0.0078125,
        "residual_multiplier": 1.0, "attention_bias": false, "mlp_bias": false, "pretraining_tp": 1,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

#[test]
fn multipliers_and_norms_after_blocks_are_read() {
    let norms = ["post_norm1", "post_norm2", "post_attention_layernorm"]
        .map(|name| format!("model.layers.0.{name}.weight"));
    let tensors: Vec<(&str, Dtype, &[usize])> =
        norms.iter().map(|name| (name.as_str(), Dtype::F32, &[8][..])).collect();
    let folder = common::folder(&config(json!({})), &tensors);
    let gguf = Gguf::open(folder.path()).unwrap();
    let float = |key: &str| gguf.metadata().get::<f32>(&format!("hyperclovax.{key}")).unwrap();
    let multipliers = ["embedding_scale", "logit_scale", "attention.scale", "residual_scale"].map(float);
    assert_eq!(multipliers, [10.0, 0.125, 0.0078125, 1.0]);
    for name in ["post_attention_norm", "post_ffw_norm", "ffn_norm"] {
        assert!(gguf.tensor(&format!("blk.0.{name}.weight")).is_some(), "{name}");
    }
    let normed = |changes: Json| {
        let folder = common::folder(&config(changes), &[]);
        Gguf::open(folder.path()).unwrap().metadata().get::<bool>("hyperclovax.use_post_norm").unwrap()
    };
    // Absent, they are there: a model that lacks them is refused when it is loaded.
    assert!(normed(json!({})) && normed(json!({ "use_post_norm": null })));
    assert!(!normed(json!({ "use_post_norm": false })));
}

#[test]
fn what_cannot_be_followed_is_named() {
    for (changes, named) in [
        (json!({ "hidden_act": "gelu" }), "hidden_act"),
        (json!({ "use_post_norm": 1 }), "use_post_norm"),
        (json!({ "residual_multiplier": "1" }), "residual_multiplier"),
        (json!({ "use_qk_norm": true }), "use_qk_norm"),
        (json!({ "architectures": ["HyperCLOVAXVisionV2ForConditionalGeneration"] }), "GGUF file"),
    ] {
        let folder = common::folder(&config(changes.clone()), &[]);
        let error = Gguf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
}
