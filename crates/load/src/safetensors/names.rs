//! What transformers' classes call their tensors, and what GGUF files call them.

use std::ops::Range;

/// A class of transformers, and the architecture that it is in a GGUF file.
#[derive(Debug)]
pub(super) struct Family {
    /// As `architectures` in config.json names it.
    pub class: &'static str,
    /// `general.architecture`.
    pub arch: &'static str,
    /// What names of a layer's tensors begin with.
    layers: &'static str,
    /// Tensors of a layer whose names mean something else than [`LAYER`] says.
    layer: &'static [(&'static str, &'static str)],
    /// Tensors of a layer that several are made of, or one of other elements' order: full names.
    parts: &'static [(&'static str, &'static [(&'static str, Part)])],
    /// Whether norms multiply by 1 more than their weights; GGUF files store the sum.
    offset_norms: bool,
    /// Whether the head is the embedding where config.json does not say so.
    pub tied: bool,
    /// The row of the learned positions that is a text's first; those before it are no position.
    pub first_position: u32,
}

const PLAIN: Family = Family {
    class: "",
    arch: "",
    layers: "layers.",
    layer: &[],
    parts: &[],
    offset_norms: false,
    tied: false,
    first_position: 0,
};

const BERT: Family = Family {
    class: "BertModel",
    arch: "bert",
    layers: "encoder.layer.",
    layer: BERT_LAYER,
    tied: true,
    ..PLAIN
};

impl Family {
    /// Whether it is LFM2, whose configurations have names of their own for much.
    pub fn is_lfm2(&self) -> bool {
        self.arch.starts_with("lfm2")
    }
}

/// Norms of both blocks' outputs only.
const POST_NORMED: &[(&str, &str)] =
    &[("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm")];
/// The norm before the feed-forward goes by another name in the file.
const PRE_NORMED: &[(&str, &str)] = &[("post_attention_layernorm", "post_attention_norm")];
/// Norms before and after both blocks.
const SANDWICHED: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Norms before both blocks, and after them.
const PERI_NORMED: &[(&str, &str)] =
    &[("post_norm1", "post_attention_norm"), ("post_norm2", "post_ffw_norm")];

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
const SHORT_CONV: &str = "shortconv.conv";

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

/// What keys and values are made of a latent by.
const LATENT: &[(&str, &[(&str, Part)])] =
    &[("self_attn.kv_b_proj.weight", &[("attn_k_b.weight", Part::Keys), ("attn_v_b.weight", Part::Values)])];

/// Every class that can be read.
pub(super) static FAMILIES: &[Family] = &[
    Family { class: "LlamaForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "MistralForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "MixtralForCausalLM", arch: "llama", ..PLAIN },
    Family { class: "Qwen2ForCausalLM", arch: "qwen2", ..PLAIN },
    Family { class: "Qwen3ForCausalLM", arch: "qwen3", ..PLAIN },
    Family { class: "Qwen3MoeForCausalLM", arch: "qwen3moe", ..PLAIN },
    Family { class: "Qwen2MoeForCausalLM", arch: "qwen2moe", ..PLAIN },
    Family { class: "OlmoeForCausalLM", arch: "olmoe", ..PLAIN },
    Family { class: "Glm4MoeForCausalLM", arch: "glm4moe", layer: PRE_NORMED, ..PLAIN },
    Family { class: "GptOssForCausalLM", arch: "gpt-oss", layer: PRE_NORMED, parts: JOINED_EXPERTS, ..PLAIN },
    Family { class: "DeepseekV2ForCausalLM", arch: "deepseek2", parts: LATENT, ..PLAIN },
    Family { class: "DeepseekV3ForCausalLM", arch: "deepseek2", parts: LATENT, ..PLAIN },
    Family { class: "GemmaForCausalLM", arch: "gemma", offset_norms: true, tied: true, ..PLAIN },
    Family {
        class: "Gemma2ForCausalLM",
        arch: "gemma2",
        layer: SANDWICHED,
        offset_norms: true,
        tied: true,
        ..PLAIN
    },
    Family {
        class: "Gemma3ForCausalLM",
        arch: "gemma3",
        layer: SANDWICHED,
        offset_norms: true,
        tied: true,
        ..PLAIN
    },
    Family { class: "Phi3ForCausalLM", arch: "phi3", ..PLAIN },
    Family { class: "GraniteForCausalLM", arch: "granite", ..PLAIN },
    Family { class: "HyperCLOVAXForCausalLM", arch: "hyperclovax", layer: PERI_NORMED, ..PLAIN },
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
pub(super) const HEAD: &str = "output.weight";

/// Learned positions.
const POSITIONS: &str = "position_embd";

/// Tensors outside of layers.
const MODEL: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("norm", "output_norm"),
    ("embedding_norm", "token_embd_norm"),
    ("lm_head", "output"),
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", POSITIONS),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
];

/// BERT's, which are there for its training: what they compute is no hidden state.
const TRAINING: &[&str] = &["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"];

/// Tensors of a layer, as most classes call them.
const LAYER: &[(&str, &str)] = &[
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
const WHOLE: &[(&str, &str)] = &[
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("feed_forward.expert_bias", "exp_probs_b.bias"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ("self_attn.sinks", "attn_sinks.weight"),
];

/// The matrices of an expert: `…experts.{e}.w1` is `ffn_gate.{e}`, as in GGUF files from before experts were joined.
const EXPERT: &[(&str, &str)] = &[
    ("w1", "ffn_gate"),
    ("w3", "ffn_up"),
    ("w2", "ffn_down"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
];

/// Which part of a tensor, which is one matrix or one for each expert, another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All outputs.
    All,
    /// Every second output from the first one on.
    Even,
    /// Every second output from the second one on.
    Odd,
    /// Of each head the matrix that makes its keys, transposed.
    Keys,
    /// Of each head the matrix that makes its values.
    Values,
}

/// What becomes of a tensor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the tensor of this name.
    Copy(String),
    /// The tensor of this name has the rows from this one on.
    Rows(String, u32),
    /// The tensor of this name has elements larger by 1.
    PlusOne(String),
    /// It is the tensor of this name, which has no dimension of 1 in the middle.
    Squeezed(String),
    /// The tensors of these names have a part of it each.
    Parts(Vec<(String, Part)>),
    /// It is computed from the configuration.
    Nowhere,
}

/// What becomes of tensor `name` of a model of this family, whose layers `guessing` are not the decoder's; `None` where such models
/// have no such tensor.
pub(super) fn place(family: &Family, guessing: Range<u64>, name: &str) -> Option<Place> {
    // Models that were saved without their head do without it.
    let name = name.strip_prefix("model.").unwrap_or(name);
    if family.arch == "bert" && TRAINING.contains(&name) {
        return Some(Place::Nowhere);
    }
    let of_layer = match name.strip_prefix(family.layers) {
        None => None,
        Some(rest) => {
            let (i, part) = rest.split_once('.')?;
            if guessing.contains(&i.parse().ok()?) {
                return Some(Place::Nowhere);
            }
            Some((i, part))
        }
    };
    if let Some((i, part)) = of_layer {
        if let Some(whole) = find(WHOLE, part) {
            return Some(Place::Copy(format!("blk.{i}.{whole}")));
        }
        if let Some((_, parts)) = family.parts.iter().find(|row| row.0 == part) {
            let parts = parts.iter().map(|&(name, part)| (format!("blk.{i}.{name}"), part));
            return Some(Place::Parts(parts.collect()));
        }
    }
    let Some(end) = [".weight", ".bias"].into_iter().find(|end| name.ends_with(end)) else {
        return name.ends_with("rotary_emb.inv_freq").then_some(Place::Nowhere);
    };
    let full = match of_layer {
        None => find(MODEL, name.strip_suffix(end)?)?.to_owned(),
        Some((i, part)) => format!("blk.{i}.{}", layer(family, part.strip_suffix(end)?)?),
    };
    let plus_one = family.offset_norms && full.ends_with("norm");
    let later = family.first_position > 0 && full == POSITIONS;
    let squeezed = full.ends_with(SHORT_CONV);
    let full = format!("{full}{end}");
    Some(match (plus_one, later) {
        (true, _) => Place::PlusOne(full),
        (_, true) => Place::Rows(full, family.first_position),
        _ if squeezed => Place::Squeezed(full),
        _ => Place::Copy(full),
    })
}

fn layer(family: &Family, part: &str) -> Option<String> {
    let experts = ["block_sparse_moe.experts.", "mlp.experts.", "feed_forward.experts."];
    if let Some(rest) = experts.iter().find_map(|prefix| part.strip_prefix(prefix)) {
        let (e, matrix) = rest.split_once('.')?;
        let _: u32 = e.parse().ok()?;
        return Some(format!("{}.{e}", find(EXPERT, matrix)?));
    }
    let shared = ["mlp.shared_expert.", "mlp.shared_experts."];
    if let Some(matrix) = shared.iter().find_map(|prefix| part.strip_prefix(prefix)) {
        return Some(format!("{}_shexp", find(EXPERT, matrix)?));
    }
    find(family.layer, part).or_else(|| find(LAYER, part)).map(str::to_owned)
}

fn find(table: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(class: &str, name: &str) -> Option<Place> {
        place(FAMILIES.iter().find(|f| f.class == class).unwrap(), 12..13, name)
    }

    #[test]
    fn names_are_translated_and_foreign_ones_are_not() {
        let copy = |name: &str| Some(Place::Copy(name.into()));
        assert_eq!(of("LlamaForCausalLM", "lm_head.weight"), copy("output.weight"));
        assert_eq!(
            of("LlamaForCausalLM", "model.layers.11.self_attn.q_proj.bias"),
            copy("blk.11.attn_q.bias")
        );
        let norm = "model.layers.0.post_attention_layernorm.weight";
        assert_eq!(of("LlamaForCausalLM", norm), copy("blk.0.ffn_norm.weight"));
        assert_eq!(of("Olmo2ForCausalLM", norm), copy("blk.0.post_attention_norm.weight"));
        let plus_one = Some(Place::PlusOne("blk.0.post_attention_norm.weight".into()));
        assert_eq!(of("Gemma3ForCausalLM", norm), plus_one);
        let expert = "model.layers.2.block_sparse_moe.experts.7.w2.weight";
        assert_eq!(of("MixtralForCausalLM", expert), copy("blk.2.ffn_down.7.weight"));
        let bias = "model.layers.3.mlp.gate.e_score_correction_bias";
        assert_eq!(of("Glm4MoeForCausalLM", bias), copy("blk.3.exp_probs_b.bias"));
        let shared = "model.layers.3.mlp.shared_experts.up_proj.weight";
        assert_eq!(of("Glm4MoeForCausalLM", shared), copy("blk.3.ffn_up_shexp.weight"));
        let bias = "model.layers.3.feed_forward.expert_bias";
        assert_eq!(of("Lfm2MoeForCausalLM", bias), copy("blk.3.exp_probs_b.bias"));
        let conv = Some(Place::Squeezed("blk.3.shortconv.conv.weight".into()));
        assert_eq!(of("Lfm2ForCausalLM", "model.layers.3.conv.conv.weight"), conv);
        assert_eq!(of("Lfm2ForCausalLM", "model.embedding_norm.weight"), copy("token_embd_norm.weight"));
        // The thirteenth layer of twelve.
        assert_eq!(of("Glm4MoeForCausalLM", "model.layers.12.eh_proj.weight"), Some(Place::Nowhere));
        // One more than the configuration tells of is refused, not ignored.
        assert_eq!(of("Glm4MoeForCausalLM", "model.layers.13.eh_proj.weight"), None);
        assert_eq!(
            of("LlamaForCausalLM", "model.layers.0.self_attn.rotary_emb.inv_freq"),
            Some(Place::Nowhere)
        );
        assert_eq!(
            of("GptOssForCausalLM", "model.layers.0.self_attn.sinks"),
            copy("blk.0.attn_sinks.weight")
        );
        assert_eq!(
            of("GptOssForCausalLM", "model.layers.1.mlp.experts.down_proj"),
            Some(Place::Parts(vec![("blk.1.ffn_down_exps.weight".into(), Part::All)]))
        );
        assert_eq!(of("LlamaForCausalLM", "model.layers.1.mlp.experts.down_proj"), None);
        let kv_a = "model.layers.5.self_attn.kv_a_proj_with_mqa.weight";
        assert_eq!(of("DeepseekV3ForCausalLM", kv_a), copy("blk.5.attn_kv_a_mqa.weight"));
        let positions = "embeddings.position_embeddings.weight";
        assert_eq!(of("BertModel", positions), copy("position_embd.weight"));
        assert_eq!(of("XLMRobertaModel", positions), Some(Place::Rows("position_embd.weight".into(), 2)));
        for foreign in
            ["model.layers.x.mlp.up_proj.weight", "vision.patch.weight", "model.layers.0.mlp.up_proj.qweight"]
        {
            assert_eq!(of("LlamaForCausalLM", foreign), None, "{foreign}");
        }
    }
}
