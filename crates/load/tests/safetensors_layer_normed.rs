//! Folders of classes from before Llama as they are on the hub: what is read, and what is refused by name.

use kinfer_load::gguf::Gguf;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value as Json, json};

/// A model of one layer, 8 wide, as the first configurations of its class are, with these changes; `null` settings are left out.
fn config(class: &str, changes: Json) -> Json {
    let mut config = match class {
        "GPT2LMHeadModel" => json!({ "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
            "layer_norm_epsilon": 1e-5, "n_ctx": 64, "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 64,
            "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1, "summary_type": "cls_index",
            "summary_proj_to_labels": true, "summary_use_proj": true, "task_specific_params": { "max_length": 50 } }),
        "GPTNeoXForCausalLM" => json!({ "hidden_act": "gelu", "hidden_size": 8, "intermediate_size": 32,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 64, "num_attention_heads": 2, "num_hidden_layers": 1,
            "rotary_emb_base": 500, "rotary_pct": 0.5, "tie_word_embeddings": true }),
        "FalconForCausalLM" => {
            json!({ "alibi": false, "bias": false, "apply_residual_connection_post_layernorm": false,
            "attention_dropout": 0.0, "hidden_dropout": 0.0, "hidden_size": 8, "layer_norm_epsilon": 1e-5,
            "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 2, "num_hidden_layers": 1,
            "parallel_attn": true })
        }
        "BloomForCausalLM" => {
            json!({ "apply_residual_connection_post_layernorm": false, "attention_dropout": 0.0,
            "attention_softmax_in_fp32": true, "bias_dropout_fusion": true, "layer_norm_epsilon": 1e-5,
            "masked_softmax_fusion": true, "n_embed": 8, "n_inner": null, "n_layer": 1, "num_attention_heads": 2,
            "offset_alibi": 100, "seq_length": 64, "skip_bias_add": true, "slow_but_exact": false })
        }
        "MPTForCausalLM" => {
            json!({ "attn_config": { "alibi": true, "alibi_bias_max": 16, "attn_impl": "torch",
            "clip_qkv": null, "qk_ln": false }, "d_model": 8, "expansion_ratio": 4, "learned_pos_emb": true,
            "max_seq_len": 64, "n_heads": 2, "n_layers": 1, "no_bias": true, "norm_type": "low_precision_layernorm" })
        }
        "StableLmForCausalLM" => json!({ "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 16,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 64, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 1, "partial_rotary_factor": 0.5, "rope_theta": 10000,
            "tie_word_embeddings": true, "qk_layernorm": true, "use_qkv_bias": true }),
        "Starcoder2ForCausalLM" => json!({ "activation_function": "gelu", "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 8, "intermediate_size": 32, "layer_norm_epsilon": 1e-5, "norm_epsilon": 1e-5,
            "max_position_embeddings": 64, "mlp_type": "default", "norm_type": "layer_norm", "num_attention_heads": 2,
            "num_hidden_layers": 1, "num_key_value_heads": 1, "rope_theta": 999999.4, "scale_attn_weights": true,
            "sliding_window": 32, "use_bias": true }),
        "CohereForCausalLM" => json!({ "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 16,
            "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "max_position_embeddings": 64, "model_max_length": 1024,
            "num_attention_heads": 2, "num_hidden_layers": 1, "rope_theta": 10000.0, "use_qk_norm": false }),
        other => panic!("{other}"),
    };
    let all = config.as_object_mut().unwrap();
    all.extend([("architectures".into(), json!([class])), ("vocab_size".into(), 4.into())]);
    all.extend(changes.as_object().unwrap().clone());
    config
}

/// Opens a folder of it with these tensors of F32, whose elements are their numbers.
fn open(config: &Json, tensors: &[(&str, &[usize])]) -> Result<Gguf, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let bytes: Vec<u8> = (0..1024).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let views = tensors.iter().map(|&(name, shape)| {
        let len = 4 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F32, shape.to_vec(), &bytes[..len]).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    Gguf::open(folder.path()).map_err(|e| e.to_string())
}

/// All elements of a tensor.
fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let rows = tensor.shape()[1..].iter().product::<u64>() as usize;
    tensor.rows(0..rows).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn settings_have_the_names_and_defaults_of_their_class() {
    for (class, changes, key, expected) in [
        ("GPT2LMHeadModel", json!({}), "gpt2.feed_forward_length", 32),
        ("GPT2LMHeadModel", json!({ "n_inner": 24 }), "gpt2.feed_forward_length", 24),
        ("GPT2LMHeadModel", json!({}), "gpt2.context_length", 64),
        ("GPTNeoXForCausalLM", json!({}), "gptneox.rope.dimension_count", 2),
        ("GPTNeoXForCausalLM", json!({ "rotary_pct": null }), "gptneox.rope.dimension_count", 1),
        ("FalconForCausalLM", json!({}), "falcon.attention.head_count_kv", 1),
        // What transformers does not look at then.
        ("FalconForCausalLM", json!({ "num_kv_heads": 2 }), "falcon.attention.head_count_kv", 1),
        ("FalconForCausalLM", json!({ "multi_query": false }), "falcon.attention.head_count_kv", 2),
        (
            "FalconForCausalLM",
            json!({ "new_decoder_architecture": true }),
            "falcon.attention.head_count_kv",
            2,
        ),
        ("FalconForCausalLM", json!({}), "falcon.context_length", 2048),
        ("BloomForCausalLM", json!({}), "bloom.context_length", 64),
        ("BloomForCausalLM", json!({ "seq_length": null }), "bloom.context_length", 2048),
        ("CohereForCausalLM", json!({}), "command-r.context_length", 1024),
        ("Starcoder2ForCausalLM", json!({}), "starcoder2.attention.sliding_window", 32),
    ] {
        let gguf = open(&config(class, changes.clone()), &[]).unwrap();
        assert_eq!(gguf.metadata().get::<u32>(key).unwrap(), expected, "{class} {changes}");
    }
    for (class, changes, key, expected) in [
        ("GPTNeoXForCausalLM", json!({}), "gptneox.rope.freq_base", 500.0),
        ("FalconForCausalLM", json!({}), "falcon.rope.freq_base", 10_000.0),
        ("MPTForCausalLM", json!({}), "mpt.attention.max_alibi_bias", 16.0),
        ("MPTForCausalLM", json!({ "attn_config": null }), "mpt.attention.max_alibi_bias", 8.0),
        ("MPTForCausalLM", json!({}), "mpt.attention.layer_norm_epsilon", 1e-5),
    ] {
        let gguf = open(&config(class, changes.clone()), &[]).unwrap();
        assert_eq!(gguf.metadata().get::<f32>(key).unwrap(), expected, "{class} {changes}");
    }
    let flag = |class: &str, key: &str, changes| {
        open(&config(class, changes), &[]).unwrap().metadata().get::<bool>(key).unwrap()
    };
    assert!(!flag("StableLmForCausalLM", "stablelm.use_parallel_residual", json!({})));
    assert!(flag("GPTNeoXForCausalLM", "gptneox.use_parallel_residual", json!({})));
    let serial = json!({ "use_parallel_residual": false });
    assert!(!flag("GPTNeoXForCausalLM", "gptneox.use_parallel_residual", serial));
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    let attn = |key: &str, value: Json| json!({ "attn_config": { "alibi": true, key: value } });
    for (class, changes, named) in [
        ("GPT2LMHeadModel", json!({ "activation_function": "relu" }), "hidden_act"),
        ("GPT2LMHeadModel", json!({ "scale_attn_weights": false }), "scale_attn_weights"),
        (
            "GPT2LMHeadModel",
            json!({ "scale_attn_by_inverse_layer_idx": true }),
            "scale_attn_by_inverse_layer_idx",
        ),
        ("GPT2LMHeadModel", json!({ "add_cross_attention": true }), "add_cross_attention"),
        ("GPT2LMHeadModel", json!({ "hidden_size": 16 }), "n_embd"),
        ("GPT2LMHeadModel", json!({ "n_layer": null }), "num_hidden_layers"),
        ("GPTNeoXForCausalLM", json!({ "hidden_act": "gelu_fast" }), "hidden_act"),
        ("GPTNeoXForCausalLM", json!({ "num_attention_heads": 3 }), "num_attention_heads"),
        ("FalconForCausalLM", json!({ "alibi": true }), "alibi"),
        ("FalconForCausalLM", json!({ "parallel_attn": false }), "parallel_attn"),
        ("FalconForCausalLM", json!({ "num_ln_in_parallel_attn": 3 }), "num_ln_in_parallel_attn"),
        (
            "FalconForCausalLM",
            json!({ "new_decoder_architecture": true, "num_kv_heads": 0 }),
            "num_attention_heads",
        ),
        (
            "BloomForCausalLM",
            json!({ "apply_residual_connection_post_layernorm": true }),
            "apply_residual_connection_post_layernorm",
        ),
        ("BloomForCausalLM", json!({ "n_inner": 16 }), "n_inner"),
        ("BloomForCausalLM", json!({ "n_embed": 4294967295u32 }), "num_attention_heads"),
        ("MPTForCausalLM", attn("alibi", false.into()), "alibi"),
        ("MPTForCausalLM", attn("clip_qkv", 8.into()), "clip_qkv"),
        ("MPTForCausalLM", attn("qk_ln", true.into()), "qk_ln"),
        ("MPTForCausalLM", attn("softmax_scale", 0.5.into()), "softmax_scale"),
        ("MPTForCausalLM", attn("attn_type", "multiquery_attention".into()), "attn_type"),
        ("MPTForCausalLM", json!({ "attn_config": 1 }), "attn_config"),
        ("MPTForCausalLM", json!({ "expansion_ratio": 2 }), "expansion_ratio"),
        ("MPTForCausalLM", json!({ "logit_scale": "inv_sqrt_d_model" }), "logit_scale"),
        ("MPTForCausalLM", json!({ "norm_type": "rmsnorm" }), "norm_type"),
        ("StableLmForCausalLM", json!({ "use_parallel_residual": 1 }), "use_parallel_residual"),
        ("StableLmForCausalLM", json!({ "hidden_act": "gelu" }), "hidden_act"),
        ("Starcoder2ForCausalLM", json!({ "mlp_type": "gated" }), "mlp_type"),
        ("Starcoder2ForCausalLM", json!({ "layer_norm_epsilon": 1e-6 }), "layer_norm_epsilon"),
        ("CohereForCausalLM", json!({ "logit_scale": null }), "logit_scale"),
        ("CohereForCausalLM", json!({ "use_parallel_block": false }), "use_parallel_block"),
    ] {
        let error = open(&config(class, changes.clone()), &[]).unwrap_err();
        assert!(error.contains(named) && error.contains("config.json"), "{class} {changes}: {error}");
    }
}

#[test]
fn tensors_are_put_together() {
    // Two heads of four rows, each with a query, a key and a value.
    let qkv = "gpt_neox.layers.0.attention.query_key_value";
    let names = [format!("{qkv}.weight"), format!("{qkv}.bias")];
    let gguf = open(&config("GPTNeoXForCausalLM", json!({})), &[(&names[0], &[24, 8]), (&names[1], &[24])]);
    let gguf = gguf.unwrap();
    let order: Vec<usize> = [0, 12, 4, 16, 8, 20].iter().flat_map(|&first| first..first + 4).collect();
    assert_eq!(values(&gguf, "blk.0.attn_qkv.bias"), order.iter().map(|&r| r as f32).collect::<Vec<_>>());
    let rows: Vec<f32> = order.iter().flat_map(|r| (r * 8..r * 8 + 8).map(|i| i as f32)).collect();
    assert_eq!(values(&gguf, "blk.0.attn_qkv.weight"), rows);
    let tensor = gguf.tensor("blk.0.attn_qkv.weight").unwrap();
    let part: Vec<u8> = rows[3 * 8..21 * 8].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!((&*tensor.rows(3..21), tensor.stored_bytes()), (&part[..], 24 * 8 * 4));

    let gguf = open(&config("GPT2LMHeadModel", json!({})), &[("h.0.mlp.c_fc.weight", &[2, 3])]).unwrap();
    assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().shape(), [2, 3]);
    assert_eq!(values(&gguf, "blk.0.ffn_up.weight"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);

    let norm = |head: usize| format!("model.layers.0.self_attn.q_layernorm.norms.{head}.weight");
    let norms = [norm(1), norm(0), norm(2)];
    let stack = |tensors: &[(&str, &[usize])]| open(&config("StableLmForCausalLM", json!({})), tensors);
    let gguf = stack(&[(&norms[0], &[4]), (&norms[1], &[4])]).unwrap();
    assert_eq!(values(&gguf, "blk.0.attn_q_norm.weight"), [0.0, 1.0, 2.0, 3.0].repeat(2));
    for tensors in [[(&*norms[1], &[4][..]), (&*norms[2], &[4])], [(&*norms[0], &[4]), (&*norms[1], &[3])]] {
        let error = stack(&tensors).unwrap_err();
        assert!(error.contains("blk.0.attn_q_norm.weight"), "{error}");
    }
}

#[test]
fn tensors_of_other_shapes_are_named() {
    let fp8 = json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [128, 128] } });
    for (class, name, shape, named) in [
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.query_key_value.weight", &[23, 8][..], "24 rows"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.query_key_value.bias", &[25], "24 rows"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.query_key_value.bias", &[24, 1, 1], "24 rows"),
        ("GPT2LMHeadModel", "h.0.mlp.c_fc.weight", &[8], "a matrix"),
        ("GPT2LMHeadModel", "h.0.mlp.c_fc.weight", &[2, 2, 2], "a matrix"),
        ("GPT2LMHeadModel", "h.0.mlp.c_fc.weight", &[0, 2], "no elements"),
    ] {
        let error = open(&config(class, json!({})), &[(name, shape)]).unwrap_err();
        assert!(error.contains(named), "{name} {shape:?}: {error}");
    }
    // In a format that nothing says the rows of.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config("GPT2LMHeadModel", fp8).to_string()).unwrap();
    let bytes = [0u8; 256];
    let views = [
        ("h.0.mlp.c_fc.weight", TensorView::new(Dtype::F8_E4M3, vec![8, 32], &bytes).unwrap()),
        ("h.0.mlp.c_fc.weight_scale_inv", TensorView::new(Dtype::F32, vec![1, 1], &bytes[..4]).unwrap()),
    ];
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let error = Gguf::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not quantised"), "{error}");
}
