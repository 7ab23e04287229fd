//! Classes with layer norms, fused projections, or names from before Llama.

use super::Part;
use super::families::{Family, PLAIN};

pub(super) const PHI: Family = Family {
    class: "PhiForCausalLM",
    arch: "phi2",
    layer_norms: true,
    activations: NEW_GELU,
    layer: PHI_LAYER,
    ..PLAIN
};

pub(super) const STARCODER2: Family = Family {
    class: "Starcoder2ForCausalLM",
    arch: "starcoder2",
    keys: &[("layer_norm_eps", "norm_epsilon"), ("layer_norm_eps", "layer_norm_epsilon")],
    layer_norms: true,
    activations: NEW_GELU,
    layer: STARCODER2_LAYER,
    tied: true,
    ..PLAIN
};

pub(super) const STABLELM: Family =
    Family { class: "StableLmForCausalLM", arch: "stablelm", layer_norms: true, ..PLAIN };

pub(super) const COHERE2: Family = Family { class: "Cohere2ForCausalLM", arch: "cohere2", ..COHERE };

pub(super) const GPTNEOX: Family = Family {
    class: "GPTNeoXForCausalLM",
    arch: "gptneox",
    keys: &[("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")],
    layer_norms: true,
    activations: &["gelu"],
    root: "gpt_neox.",
    layer: GPTNEOX_LAYER,
    parts: GPTNEOX_GROUPS,
    left_out: MASK,
    ..PLAIN
};

pub(super) const GPT2: Family = Family {
    class: "GPT2LMHeadModel",
    arch: "gpt2",
    keys: &[
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("intermediate_size", "n_inner"),
        ("hidden_act", "activation_function"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    layer_norms: true,
    activations: NEW_GELU,
    root: "transformer.",
    layers: "h.",
    layer: GPT2_LAYER,
    parts: TURNED,
    left_out: MASK,
    tied: true,
    ..PLAIN
};

pub(super) const FALCON: Family = Family {
    class: "FalconForCausalLM",
    arch: "falcon",
    keys: &[
        ("hidden_size", "n_embed"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("num_key_value_heads", "num_kv_heads"),
        ("num_key_value_heads", "n_head_kv"),
        ("intermediate_size", "ffn_hidden_size"),
        ("hidden_act", "activation"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    layer_norms: true,
    activations: &["gelu"],
    root: "transformer.",
    layers: "h.",
    layer: FALCON_LAYER,
    parts: FALCON_GROUPS,
    tied: true,
    ..PLAIN
};

pub(super) const BLOOM: Family = Family {
    class: "BloomForCausalLM",
    arch: "bloom",
    keys: &[
        ("hidden_size", "n_embed"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "seq_length"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    layer_norms: true,
    root: "transformer.",
    layers: "h.",
    layer: FALCON_LAYER,
    parts: FALCON_GROUPS,
    tied: true,
    ..PLAIN
};

/// As the models' own code calls it.
pub(super) const MPT_OF_THE_HUB: Family = Family { class: "MPTForCausalLM", ..MPT };

/// Of the models' own code; transformers does not have it.
pub(super) const EXAONE: Family = Family {
    class: "ExaoneForCausalLM",
    arch: "exaone",
    keys: &[
        ("num_hidden_layers", "num_layers"),
        ("hidden_act", "activation_function"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    root: "transformer.",
    layers: "h.",
    layer: EXAONE_LAYER,
    tied: true,
    ..PLAIN
};

pub(super) const MPT: Family = Family {
    class: "MptForCausalLM",
    arch: "mpt",
    keys: &[
        ("hidden_size", "d_model"),
        ("num_hidden_layers", "n_layers"),
        ("num_attention_heads", "n_heads"),
        ("max_position_embeddings", "max_seq_len"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    layer_norms: true,
    root: "transformer.",
    layers: "blocks.",
    layer: MPT_LAYER,
    tied: true,
    ..PLAIN
};

pub(super) const COHERE: Family =
    Family { class: "CohereForCausalLM", arch: "command-r", layer_norms: true, tied: true, ..PLAIN };

/// GELU's approximation.
const NEW_GELU: &[&str] = &["gelu_new", "gelu_pytorch_tanh"];

/// A layer of Phi.
const PHI_LAYER: &[(&str, &str)] =
    &[("self_attn.dense", "attn_output"), ("mlp.fc1", "ffn_up"), ("mlp.fc2", "ffn_down")];

/// A layer of StarCoder2.
const STARCODER2_LAYER: &[(&str, &str)] = &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")];

/// A layer of GPT-2; the matrices are in [`TURNED`].
const GPT2_LAYER: &[(&str, &str)] = &[
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// A layer of GPT-NeoX.
const GPTNEOX_LAYER: &[(&str, &str)] =
    &[("attention.dense", "attn_output"), ("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down")];

/// A layer of BLOOM and Falcon; the larger Falcons have norms of their own for both blocks.
const FALCON_LAYER: &[(&str, &str)] = &[
    ("ln_attn", "attn_norm_2"),
    ("ln_mlp", "attn_norm"),
    ("self_attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

/// A layer of MPT.
const MPT_LAYER: &[(&str, &str)] = &[
    ("norm_1", "attn_norm"),
    ("attn.Wqkv", "attn_qkv"),
    ("attn.out_proj", "attn_output"),
    ("norm_2", "ffn_norm"),
    ("ffn.up_proj", "ffn_up"),
    ("ffn.down_proj", "ffn_down"),
];

/// A layer of EXAONE 3.
const EXAONE_LAYER: &[(&str, &str)] = &[
    ("ln_1", "attn_norm"),
    ("attn.attention.q_proj", "attn_q"),
    ("attn.attention.k_proj", "attn_k"),
    ("attn.attention.v_proj", "attn_v"),
    ("attn.attention.out_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc_0", "ffn_gate"),
    ("mlp.c_fc_1", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// The matrices of GPT-2, which transformers multiplies by from the right.
const TURNED: &[(&str, &[(&str, Part)])] = &[
    ("attn.c_attn.weight", &[("attn_qkv.weight", Part::Turned)]),
    ("attn.c_proj.weight", &[("attn_output.weight", Part::Turned)]),
    ("mlp.c_fc.weight", &[("ffn_up.weight", Part::Turned)]),
    ("mlp.c_proj.weight", &[("ffn_down.weight", Part::Turned)]),
];

/// Queries, keys and values of GPT-NeoX.
const GPTNEOX_GROUPS: &[(&str, &[(&str, Part)])] = &[
    ("attention.query_key_value.weight", &[("attn_qkv.weight", Part::Groups)]),
    ("attention.query_key_value.bias", &[("attn_qkv.bias", Part::Groups)]),
];

/// Those of BLOOM and Falcon.
const FALCON_GROUPS: &[(&str, &[(&str, Part)])] = &[
    ("self_attention.query_key_value.weight", &[("attn_qkv.weight", Part::Groups)]),
    ("self_attention.query_key_value.bias", &[("attn_qkv.bias", Part::Groups)]),
];

/// The mask of attention, which some files have.
const MASK: &[&str] = &["attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias"];
