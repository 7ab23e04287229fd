//! From the names of transformers' tensors to those of GGUF files.

mod families;
mod layer_normed;

use std::ops::Range;

use families::{
    DECAY, DELTA_CONV, DELTA_NORM, EXPERT, HEAD_NORMS, LAYER, MODEL, POSITIONS, SHORT_CONV, WHOLE,
};
pub(super) use families::{FAMILIES, Family, HEAD, ROTARY_XLM_ROBERTA, is_delta};

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
    /// Something of a delta net.
    Delta(DeltaPart),
    /// The first half of the outputs.
    First,
    /// The second half of the outputs.
    Second,
    /// All outputs, of a matrix that is stored transposed.
    Turned,
    /// All of them, which are stored group by group, a group's queries, then its key, then its value: queries, keys and values here.
    Groups,
}

/// Which rows or columns of a tensor of a delta net another has. Where heads take turns, the first value heads of all key heads come
/// before the second ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeltaPart {
    /// Rows: all, of which those of value heads take turns behind those of queries and keys.
    Mixed,
    /// Rows: all, of value heads that take turns.
    Values,
    /// Rows, or elements of a vector: one for each value head, which take turns.
    Heads,
    /// Columns: all, of value heads that take turns.
    Columns,
    /// Rows: queries, keys and values, which are stored with their gates by key heads.
    Projected,
    /// Rows: those gates.
    Gate,
}

/// The architecture whose checkpoints may have adapters for tasks beside each matrix.
const ADAPTED: &str = "jina-bert-v3";
/// What names the two by then.
const PARAMETRIZED: &str = ".parametrizations.";

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
    /// The tensor of this name has rates of decay, of which these are the logarithms.
    Decay(String),
    /// The tensor of this name has it as this row.
    Row(String, usize),
    /// It is computed from the configuration.
    Nowhere,
}

/// What becomes of tensor `name` of a model of this family, whose layers `guessing` are not the decoder's; `None` where such models
/// have no such tensor.
pub(super) fn place(family: &Family, guessing: Range<u64>, name: &str) -> Option<Place> {
    // Models that were saved without their head do without it.
    let name = name.strip_prefix(family.root).unwrap_or(name);
    // So do encoders that were saved with what they were trained by.
    let name = match family.arch.contains("bert") {
        true => ["bert.", "roberta."].into_iter().find_map(|start| name.strip_prefix(start)).unwrap_or(name),
        false => name,
    };
    let original;
    let name = match name.split_once(PARAMETRIZED) {
        Some((module, "weight.original")) if family.arch == ADAPTED => {
            original = format!("{module}.weight");
            original.as_str()
        }
        // The model is what it is without a task.
        Some((_, "weight.0.lora_A" | "weight.0.lora_B")) if family.arch == ADAPTED => {
            return Some(Place::Nowhere);
        }
        _ => name,
    };
    let left_out = |name: &str| family.left_out.iter().any(|start| name.starts_with(start));
    if left_out(name) {
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
        if left_out(part) {
            return Some(Place::Nowhere);
        }
        if family.is_delta() && part == DECAY {
            return Some(Place::Decay(format!("blk.{i}.ssm_a")));
        }
        if let Some((_, parts)) = family.parts.iter().find(|row| row.0 == part) {
            let parts = parts.iter().map(|&(name, part)| (format!("blk.{i}.{name}"), part));
            return Some(Place::Parts(parts.collect()));
        }
        if let Some(whole) = find(WHOLE, part) {
            return Some(Place::Copy(format!("blk.{i}.{whole}")));
        }
        if let Some((norms, row)) = part.strip_suffix(".weight").and_then(|norm| norm.rsplit_once(".norms."))
        {
            let whole = find(HEAD_NORMS, norms)?;
            return Some(Place::Row(format!("blk.{i}.{whole}"), row.parse().ok()?));
        }
    }
    let Some(end) = [".weight", ".bias"].into_iter().find(|end| name.ends_with(end)) else {
        // Rotary frequencies, which the configuration gives.
        return name.ends_with(".inv_freq").then_some(Place::Nowhere);
    };
    let full = match of_layer {
        None => find(MODEL, name.strip_suffix(end)?)?.to_owned(),
        Some((i, part)) => format!("blk.{i}.{}", layer(family, part.strip_suffix(end)?)?),
    };
    let plus_one = family.offset_norms && full.ends_with("norm") && !full.ends_with(DELTA_NORM);
    let later = family.first_position > 0 && full == POSITIONS;
    let squeezed = full.ends_with(SHORT_CONV) || full.ends_with(DELTA_CONV);
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
        let part = |name: &str, part: DeltaPart| (name.to_owned(), Part::Delta(part));
        let fused = vec![
            part("blk.1.attn_qkv.weight", DeltaPart::Projected),
            part("blk.1.attn_gate.weight", DeltaPart::Gate),
        ];
        for (class, name, place) in [
            ("Qwen3NextForCausalLM", "linear_attn.in_proj_qkvz.weight", Some(Place::Parts(fused))),
            ("Qwen3NextForCausalLM", "linear_attn.dt_bias", copy("blk.1.ssm_dt.bias")),
            ("Qwen3_5ForCausalLM", "linear_attn.A_log", Some(Place::Decay("blk.1.ssm_a".into()))),
            // Not larger by 1, as other norms of these models.
            ("Qwen3_5ForCausalLM", "linear_attn.norm.weight", copy("blk.1.ssm_norm.weight")),
            ("LlamaForCausalLM", "linear_attn.A_log", None),
        ] {
            assert_eq!(of(class, &format!("model.layers.1.{name}")), place, "{class}: {name}");
        }
        let adapted = |name: &str| place(&ROTARY_XLM_ROBERTA, 12..12, name);
        let matrix = "roberta.encoder.layers.1.mixer.Wqkv.parametrizations.weight";
        assert_eq!(adapted(&format!("{matrix}.original")), copy("blk.1.attn_qkv.weight"));
        assert_eq!(adapted(&format!("{matrix}.0.lora_A")), Some(Place::Nowhere));
        assert_eq!(adapted(&format!("{matrix}.1.other")), None);
        let words = "roberta.embeddings.word_embeddings.parametrizations.weight.original";
        assert_eq!(adapted(words), copy("token_embd.weight"));
        assert_eq!(of("BertModel", "encoder.layer.1.output.dense.parametrizations.weight.original"), None);
        assert_eq!(of("Qwen3NextForCausalLM", "mtp.fc.weight"), Some(Place::Nowhere));
        assert_eq!(of("LlamaForCausalLM", "mtp.fc.weight"), None);
        // The thirteenth layer of twelve.
        assert_eq!(of("Glm4MoeForCausalLM", "model.layers.12.eh_proj.weight"), Some(Place::Nowhere));
        // One more than the configuration tells of is refused, not ignored.
        assert_eq!(of("Glm4MoeForCausalLM", "model.layers.13.eh_proj.weight"), None);
        assert_eq!(
            of("LlamaForCausalLM", "model.layers.0.self_attn.rotary_emb.inv_freq"),
            Some(Place::Nowhere)
        );
        let frequencies = "transformer.h.0.attn.attention.rotary.inv_freq";
        assert_eq!(of("ExaoneForCausalLM", frequencies), Some(Place::Nowhere));
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
        let turned = Some(Place::Parts(vec![("blk.2.ffn_up.weight".into(), Part::Turned)]));
        assert_eq!(of("GPT2LMHeadModel", "transformer.h.2.mlp.c_fc.weight"), turned);
        // Saved without a head.
        assert_eq!(of("GPT2LMHeadModel", "h.2.mlp.c_fc.weight"), turned);
        assert_eq!(of("GPT2LMHeadModel", "h.2.mlp.c_fc.bias"), copy("blk.2.ffn_up.bias"));
        assert_eq!(of("GPT2LMHeadModel", "wpe.weight"), copy("position_embd.weight"));
        assert_eq!(of("GPT2LMHeadModel", "h.2.attn.bias"), Some(Place::Nowhere));
        assert_eq!(of("GPT2LMHeadModel", "model.h.2.attn.bias"), None);
        let mask = "gpt_neox.layers.3.attention.masked_bias";
        assert_eq!(of("GPTNeoXForCausalLM", mask), Some(Place::Nowhere));
        assert_eq!(of("GPTNeoXForCausalLM", "embed_out.weight"), copy("output.weight"));
        let groups = Some(Place::Parts(vec![("blk.3.attn_qkv.bias".into(), Part::Groups)]));
        assert_eq!(of("GPTNeoXForCausalLM", "gpt_neox.layers.3.attention.query_key_value.bias"), groups);
        assert_eq!(of("BloomForCausalLM", "h.3.self_attention.query_key_value.bias"), groups);
        let norm = "model.layers.1.self_attn.q_layernorm.norms.31.weight";
        assert_eq!(of("StableLmForCausalLM", norm), Some(Place::Row("blk.1.attn_q_norm.weight".into(), 31)));
        assert_eq!(of("StableLmForCausalLM", &norm.replace("31", "x")), None);
        for foreign in
            ["model.layers.x.mlp.up_proj.weight", "vision.patch.weight", "model.layers.0.mlp.up_proj.qweight"]
        {
            assert_eq!(of("LlamaForCausalLM", foreign), None, "{foreign}");
        }
    }
}
