//! What transformers' classes call their tensors, and what GGUF files call them: tables only.

use super::Part;
use super::layer_normed::{
    BLOOM, COHERE, COHERE2, EXAONE, FALCON, GPT2, GPTNEOX, MPT, MPT_OF_THE_HUB, PHI, STABLELM, STARCODER2,
};

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
    /// Tensors that are there for its training, or computed again: full names, or of a layer.
    pub(super) unused: &'static [&'static str],
    /// Whether norms multiply by 1 more than their weights; GGUF files store the sum.
    pub(super) offset_norms: bool,
    /// Whether the head is the embedding where config.json does not say so.
    pub tied: bool,
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
    unused: &[],
    offset_norms: false,
    tied: false,
    first_position: 0,
};

const BERT: Family = Family {
    class: "BertModel",
    arch: "bert",
    layers: "encoder.layer.",
    layer: BERT_LAYER,
    layer_norms: true,
    activations: &["gelu"],
    unused: POOLER,
    tied: true,
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

impl Family {
    /// Whether its heads turn with their positions.
    pub fn turns(&self) -> bool {
        !matches!(self.arch, "bloom" | "gpt2" | "mpt")
    }

    /// Whether it is LFM2, whose configurations have names of their own for much.
    pub fn is_lfm2(&self) -> bool {
        self.arch.starts_with("lfm2")
    }
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
    Family { class: "SmolLM3ForCausalLM", arch: "smollm3", tied: true, ..PLAIN },
    Family { class: "Lfm2ForCausalLM", arch: "lfm2", layer: LFM2_LAYER, tied: true, ..PLAIN },
    Family { class: "Lfm2MoeForCausalLM", arch: "lfm2moe", layer: LFM2_LAYER, tied: true, ..PLAIN },
    BERT,
    Family { class: "RobertaModel", first_position: 2, ..BERT },
    Family { class: "XLMRobertaModel", first_position: 2, ..BERT },
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
];

/// BERT's, which are there for its training: what they compute is no hidden state.
const POOLER: &[&str] = &["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"];

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
    ("feed_forward.expert_bias", "exp_probs_b.bias"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ("self_attn.sinks", "attn_sinks.weight"),
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
