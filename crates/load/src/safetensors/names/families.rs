//! What transformers' classes call their tensors, and what GGUF files call them: tables only.

use super::layer_normed::{
    BLOOM, COHERE, COHERE2, EXAONE, FALCON, GPT2, GPTNEOX, MPT, MPT_OF_THE_HUB, PHI, STABLELM, STARCODER2,
};
use super::{DeltaPart, Part};

/// A class of transformers, and the architecture that it is in a GGUF file.
#[derive(Debug)]
pub(in super::super) struct Family {
    /// As `architectures` in config.json names it.
    pub class: &'static str,
    /// `general.architecture`.
    pub arch: &'static str,
    /// Settings of config.json that this class calls otherwise: the usual name, and its own.
    pub keys: &'static [(&'static str, &'static str)],
    /// Whether norms have means and are no RMS norms.
    pub layer_norms: bool,
    /// What its activation may be called.
    pub activations: &'static [&'static str],
    /// What names of tensors begin with, but for the head's; models that were saved without their head do without it.
    pub(super) root: &'static str,
    /// What names of a layer's tensors begin with.
    pub(super) layers: &'static str,
    /// Tensors of a layer whose names mean something else than [`LAYER`] says.
    pub(super) layer: &'static [(&'static str, &'static str)],
    /// Tensors of a layer that several are made of, or one of other elements' order: full names.
    pub(super) parts: &'static [(&'static str, &'static [(&'static str, Part)])],
    /// Whether norms multiply by 1 more than their weights; GGUF files store the sum.
    pub(super) offset_norms: bool,
    /// Whether the head is the embedding where config.json does not say so.
    pub tied: bool,
    /// Whether what it computes are hidden states: it has no head.
    pub encoder: bool,
    /// What names of tensors begin with, in all or in a layer, that are there for training or for guessing further tokens, or are computed
    /// again: they are left out.
    pub(super) left_out: &'static [&'static str],
    /// The row of the learned positions that is a text's first; those before it are no position.
    pub first_position: u32,
}

pub(super) const PLAIN: Family = Family {
    class: "",
    arch: "",
    keys: &[],
    layer_norms: false,
    activations: &["silu", "swish"],
    root: "model.",
    layers: "layers.",
    layer: &[],
    parts: &[],
    offset_norms: false,
    tied: false,
    encoder: false,
    left_out: &[],
    first_position: 0,
};

const BERT: Family = Family {
    class: "BertModel",
    arch: "bert",
    layers: "encoder.layer.",
    layer: BERT_LAYER,
    tied: true,
    encoder: true,
    left_out: &["embeddings.position_ids", "pooler.dense.", "cls.predictions."],
    ..PLAIN
};

const GEMMA: Family = Family {
    class: "GemmaForCausalLM",
    arch: "gemma",
    activations: APPROXIMATE,
    offset_norms: true,
    tied: true,
    ..PLAIN
};

const MODERN_BERT: Family = Family {
    class: "ModernBertModel",
    arch: "modern-bert",
    layer: MODERN_BERT_LAYER,
    tied: true,
    encoder: true,
    left_out: &["head.", "decoder."],
    ..PLAIN
};

const JINA_BERT_V3: Family = Family {
    class: "JinaEmbeddingsV3Model",
    arch: "jina-bert-v3",
    layers: "encoder.layers.",
    layer: JINA_BERT_V3_LAYER,
    first_position: 2,
    ..BERT
};

/// XLM-RoBERTa with rotary positions, which goes by the name of the one without: Jina Embeddings 3 as it is on the hub, with adapters.
pub(in super::super) static ROTARY_XLM_ROBERTA: Family = Family { class: "XLMRobertaModel", ..JINA_BERT_V3 };

const EXAONE_MOE: Family = Family {
    class: "ExaoneMoeForCausalLM",
    arch: "exaone-moe",
    keys: &[("first_k_dense_replace", "first_last_k_dense_replace")],
    left_out: &["mtp."],
    ..PLAIN
};

const JINA_BERT: Family = Family { class: "JinaBertModel", arch: "jina-bert-v2", ..BERT };

impl Family {
    /// Whether its heads turn with their positions.
    pub fn turns(&self) -> bool {
        !matches!(self.arch, "bloom" | "gpt2" | "mpt")
    }

    /// Whether it is LFM2, whose configurations have names of their own for much.
    pub fn is_lfm2(&self) -> bool {
        self.arch.starts_with("lfm2")
    }

    /// Whether most layers are gated delta nets.
    pub fn is_delta(&self) -> bool {
        is_delta(self.arch)
    }
}

/// Whether most layers of an architecture are gated delta nets.
pub(in super::super) fn is_delta(arch: &str) -> bool {
    arch.starts_with("qwen35") || arch == "qwen3next"
}

/// Gemma's first configurations say "gelu", and mean its approximation.
const APPROXIMATE: &[&str] = &["gelu_pytorch_tanh", "gelu"];
/// Norms of both blocks' outputs only.
const POST_NORMED: &[(&str, &str)] =
    &[("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm")];
/// The norm before the feed-forward goes by another name in the file.
const PRE_NORMED: &[(&str, &str)] = &[("post_attention_layernorm", "post_attention_norm")];
/// The norms before both blocks, as KORMo calls them.
const KORMO_LAYER: &[(&str, &str)] =
    &[("pre_attention_layernorm", "attn_norm"), ("pre_mlp_layernorm", "ffn_norm")];
/// Norms before and after both blocks.
const SANDWICHED: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Norms before both blocks, and after them.
const PERI_NORMED: &[(&str, &str)] =
    &[("post_norm1", "post_attention_norm"), ("post_norm2", "post_ffw_norm")];
/// Norms before and after both blocks, as GLM-4 calls them.
const GLM4_LAYER: &[(&str, &str)] =
    &[("post_self_attn_layernorm", "post_attention_norm"), ("post_mlp_layernorm", "post_ffw_norm")];

/// A layer of Granite with experts.
const GRANITE_EXPERTS: &[(&str, &str)] =
    &[("block_sparse_moe.router.layer", "ffn_gate_inp"), ("block_sparse_moe.output_linear", "ffn_down_exps")];

/// A layer of LFM2.
const LFM2_LAYER: &[(&str, &str)] = &[
    ("operator_norm", "attn_norm"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("self_attn.out_proj", "attn_output"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.conv", SHORT_CONV),
    ("conv.out_proj", "shortconv.out_proj"),
    ("ffn_norm", "ffn_norm"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w3", "ffn_up"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.gate", "ffn_gate_inp"),
];

/// A convolution, whose channels have one input each: transformers says so by a dimension of 1.
pub(super) const SHORT_CONV: &str = "shortconv.conv";

/// A layer of BERT.
const BERT_LAYER: &[(&str, &str)] = &[
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
    // Jina's, whose gate and up matrices are one; those behind them are of its model for code.
    ("mlp.gated_layers", "ffn_up"),
    ("mlp.wo", "ffn_down"),
    ("mlp.layernorm", "layer_output_norm"),
    ("attention.self.layer_norm_q", "attn_q_norm"),
    ("attention.self.layer_norm_k", "attn_k_norm"),
    ("layer_norm_1", "attn_norm_2"),
    ("mlp.up_gated_layer", "ffn_up"),
    ("mlp.down_layer", "ffn_down"),
    ("layer_norm_2", "layer_output_norm"),
];

/// A layer of ModernBERT, whose gate and up matrices are one.
const MODERN_BERT_LAYER: &[(&str, &str)] = &[
    ("attn_norm", "attn_norm"),
    ("attn.Wqkv", "attn_qkv"),
    ("attn.Wo", "attn_output"),
    ("mlp_norm", "ffn_norm"),
    ("mlp.Wi", "ffn_up"),
    ("mlp.Wo", "ffn_down"),
];

/// A layer of Nomic's BERT.
const NOMIC_BERT_LAYER: &[(&str, &str)] = &[
    ("attn.Wqkv", "attn_qkv"),
    ("attn.out_proj", "attn_output"),
    ("norm1", "attn_output_norm"),
    ("mlp.fc11", "ffn_up"),
    ("mlp.fc12", "ffn_gate"),
    ("mlp.fc2", "ffn_down"),
    ("norm2", "layer_output_norm"),
];

/// A layer of Jina Embeddings 3.
const JINA_BERT_V3_LAYER: &[(&str, &str)] = &[
    ("mixer.Wqkv", "attn_qkv"),
    ("mixer.out_proj", "attn_output"),
    ("norm1", "attn_output_norm"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("norm2", "layer_output_norm"),
];

/// The experts of gpt-oss, whose gate and up matrices are one.
const JOINED_EXPERTS: &[(&str, &[(&str, Part)])] = &[
    ("mlp.experts.gate_up_proj", &[("ffn_gate_exps.weight", Part::Even), ("ffn_up_exps.weight", Part::Odd)]),
    ("mlp.experts.gate_up_proj_bias", &[("ffn_gate_exps.bias", Part::Even), ("ffn_up_exps.bias", Part::Odd)]),
    ("mlp.experts.down_proj", &[("ffn_down_exps.weight", Part::All)]),
];

/// The experts of Granite, whose gate matrices lie before their up matrices.
const HALVED_EXPERTS: &[(&str, &[(&str, Part)])] = &[(
    "block_sparse_moe.input_linear.weight",
    &[("ffn_gate_exps.weight", Part::First), ("ffn_up_exps.weight", Part::Second)],
)];

/// What keys and values are made of a latent by.
const LATENT: &[(&str, &[(&str, Part)])] =
    &[("self_attn.kv_b_proj.weight", &[("attn_k_b.weight", Part::Keys), ("attn_v_b.weight", Part::Values)])];

/// A layer of Qwen3-Next.
const DELTA_LAYER: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.conv1d", DELTA_CONV),
    ("linear_attn.norm", DELTA_NORM),
    ("linear_attn.out_proj", "ssm_out"),
];

/// What it projects by key heads.
const BY_KEY_HEADS: &[(&str, &[(&str, Part)])] = &[(
    "linear_attn.in_proj_qkvz.weight",
    &[
        ("attn_qkv.weight", Part::Delta(DeltaPart::Projected)),
        ("attn_gate.weight", Part::Delta(DeltaPart::Gate)),
    ],
)];

/// What value heads of Qwen 3.5 have, which take turns in GGUF files.
const IN_TURNS: &[(&str, &[(&str, Part)])] = &[
    ("linear_attn.in_proj_qkv.weight", &[("attn_qkv.weight", Part::Delta(DeltaPart::Mixed))]),
    ("linear_attn.in_proj_z.weight", &[("attn_gate.weight", Part::Delta(DeltaPart::Values))]),
    ("linear_attn.in_proj_b.weight", &[("ssm_beta.weight", Part::Delta(DeltaPart::Heads))]),
    ("linear_attn.in_proj_a.weight", &[("ssm_alpha.weight", Part::Delta(DeltaPart::Heads))]),
    ("linear_attn.conv1d.weight", &[("ssm_conv1d.weight", Part::Delta(DeltaPart::Mixed))]),
    ("linear_attn.dt_bias", &[("ssm_dt.bias", Part::Delta(DeltaPart::Heads))]),
    ("linear_attn.out_proj.weight", &[("ssm_out.weight", Part::Delta(DeltaPart::Columns))]),
];

/// The convolution of a delta net.
pub(super) const DELTA_CONV: &str = "ssm_conv1d";

/// The norm of its output, whose weight is the whole factor.
pub(super) const DELTA_NORM: &str = "ssm_norm";

/// The logarithms of its rates of decay.
pub(super) const DECAY: &str = "linear_attn.A_log";

const DELTA: Family = Family { layer: DELTA_LAYER, offset_norms: true, left_out: &["mtp."], ..PLAIN };

/// Every class that can be read.
pub(in super::super) static FAMILIES: &[Family] = &[
    Family { class: "LlamaForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "IQuestCoderForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "MistralForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "MixtralForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "Qwen2ForCausalLM", arch: "qwen2", ..PLAIN },
    // Llama but for two names; files of this architecture store query and key rows as transformers does.
    Family { class: "KORMoForCausalLM", arch: "qwen2", layer: KORMO_LAYER, ..PLAIN },
    Family { class: "Qwen3ForCausalLM", arch: "qwen3", ..PLAIN },
    Family { class: "Qwen3MoeForCausalLM", arch: "qwen3moe", ..PLAIN },
    Family { class: "Qwen2MoeForCausalLM", arch: "qwen2moe", ..PLAIN },
    Family { class: "OlmoeForCausalLM", arch: "olmoe", ..PLAIN },
    Family { class: "Glm4MoeForCausalLM", arch: "glm4moe", layer: PRE_NORMED, ..PLAIN },
    Family { class: "GptOssForCausalLM", arch: "gpt-oss", layer: PRE_NORMED, parts: JOINED_EXPERTS, ..PLAIN },
    Family { class: "DeepseekV2ForCausalLM", arch: "deepseek2", parts: LATENT, ..PLAIN },
    Family { class: "DeepseekV3ForCausalLM", arch: "deepseek2", parts: LATENT, ..PLAIN },
    GEMMA,
    Family { class: "Gemma2ForCausalLM", arch: "gemma2", layer: SANDWICHED, ..GEMMA },
    Family { class: "Gemma3ForCausalLM", arch: "gemma3", layer: SANDWICHED, ..GEMMA },
    Family { class: "Phi3ForCausalLM", arch: "phi3", ..PLAIN },
    Family { class: "GraniteForCausalLM", arch: "granite", ..PLAIN },
    Family { class: "HyperCLOVAXForCausalLM", arch: "hyperclovax", layer: PERI_NORMED, ..PLAIN },
    Family {
        class: "GraniteMoeForCausalLM",
        arch: "granitemoe",
        layer: GRANITE_EXPERTS,
        parts: HALVED_EXPERTS,
        ..PLAIN
    },
    Family { class: "Glm4ForCausalLM", arch: "glm4", layer: GLM4_LAYER, ..PLAIN },
    PHI,
    STARCODER2,
    STABLELM,
    COHERE,
    COHERE2,
    GPTNEOX,
    GPT2,
    FALCON,
    BLOOM,
    MPT,
    MPT_OF_THE_HUB,
    EXAONE,
    Family { class: "Olmo2ForCausalLM", arch: "olmo2", layer: POST_NORMED, ..PLAIN },
    Family { class: "Olmo3ForCausalLM", arch: "olmo2", layer: POST_NORMED, ..PLAIN },
    Family { class: "Exaone4ForCausalLM", arch: "exaone4", layer: POST_NORMED, ..PLAIN },
    EXAONE_MOE,
    // As its own code calls it.
    Family { class: "ExaoneMoEForCausalLM", ..EXAONE_MOE },
    Family { class: "SmolLM3ForCausalLM", arch: "smollm3", tied: true, ..PLAIN },
    Family { class: "Lfm2ForCausalLM", arch: "lfm2", layer: LFM2_LAYER, tied: true, ..PLAIN },
    Family { class: "Lfm2MoeForCausalLM", arch: "lfm2moe", layer: LFM2_LAYER, tied: true, ..PLAIN },
    Family { class: "Qwen3NextForCausalLM", arch: "qwen3next", parts: BY_KEY_HEADS, ..DELTA },
    Family { class: "Qwen3_5ForCausalLM", arch: "qwen35", parts: IN_TURNS, ..DELTA },
    Family { class: "Qwen3_5MoeForCausalLM", arch: "qwen35moe", parts: IN_TURNS, ..DELTA },
    BERT,
    Family { class: "RobertaModel", first_position: 2, ..BERT },
    Family { class: "XLMRobertaModel", first_position: 2, ..BERT },
    Family {
        class: "NomicBertModel",
        arch: "nomic-bert",
        layers: "encoder.layers.",
        layer: NOMIC_BERT_LAYER,
        ..BERT
    },
    JINA_BERT_V3,
    JINA_BERT,
    Family { class: "JinaBertForMaskedLM", ..JINA_BERT },
    MODERN_BERT,
    Family { class: "ModernBertForMaskedLM", ..MODERN_BERT },
    Family { class: "Gemma3TextModel", arch: "gemma-embedding", layer: SANDWICHED, encoder: true, ..GEMMA },
];

/// The output head.
pub(in super::super) const HEAD: &str = "output.weight";

/// Learned positions.
pub(super) const POSITIONS: &str = "position_embd";

/// Tensors outside of layers.
pub(super) const MODEL: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("norm", "output_norm"),
    ("embedding_norm", "token_embd_norm"),
    ("lm_head", "output"),
    ("embed_in", "token_embd"),
    ("word_embeddings", "token_embd"),
    ("wte", "token_embd"),
    ("wpe", POSITIONS),
    ("word_embeddings_layernorm", "token_embd_norm"),
    ("final_layernorm", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("norm_f", "output_norm"),
    ("embed_out", "output"),
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", POSITIONS),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
    ("embeddings.tok_embeddings", "token_embd"),
    ("embeddings.norm", "token_embd_norm"),
    ("emb_ln", "token_embd_norm"),
    ("final_norm", "output_norm"),
];

/// Tensors of a layer, as most classes call them.
pub(super) const LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// Tensors of a layer that do not end like others: full names.
pub(super) const WHOLE: &[(&str, &str)] = &[
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.e_score_correction_bias", "exp_probs_b.bias"),
    ("feed_forward.expert_bias", "exp_probs_b.bias"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
];

/// Norms of heads, each of which has a weight of its own (`….norms.{head}.weight`).
pub(super) const HEAD_NORMS: &[(&str, &str)] =
    &[("self_attn.q_layernorm", "attn_q_norm.weight"), ("self_attn.k_layernorm", "attn_k_norm.weight")];

/// The matrices of an expert: `…experts.{e}.w1` is `ffn_gate.{e}`, as in GGUF files from before experts were joined.
pub(super) const EXPERT: &[(&str, &str)] = &[
    ("w1", "ffn_gate"),
    ("w3", "ffn_up"),
    ("w2", "ffn_down"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
];
