//! What only some classes have.

use serde_json::Value as Json;

use super::{Config, Family, Out, expected, wrong};
use crate::gguf::Problem;

/// Widths of latent attention (DeepSeek).
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Latent {
    pub heads: u32,
    /// Of what keys and values are made of.
    pub rank: u32,
    /// Of what queries are made of, if they are.
    pub q_rank: Option<u32>,
    /// Elements of a head's key that do not turn.
    pub plain: u32,
    /// Elements of a key that turn.
    pub turned: u32,
    /// Elements of a head's value.
    pub value: u32,
}

/// Heads whose queries, keys and values are stored together, group by group (GPT-NeoX, BLOOM, Falcon).
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Groups {
    /// Heads of keys, and of values.
    pub groups: u32,
    /// Heads of queries that share one of them.
    pub queries: u32,
    /// Elements of a head.
    pub dim: u32,
}

/// What has to be known of heads to find them in the tensors that join some.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Heads {
    Latent(Latent),
    Groups(Groups),
}

impl Config<'_> {
    /// The heads of a class that joins them.
    pub(in super::super) fn heads(&self, family: &Family) -> Result<Option<Heads>, Problem> {
        Ok(match self.latent(family)? {
            Some(latent) => Some(Heads::Latent(latent)),
            None => self.groups(family)?.map(Heads::Groups),
        })
    }

    /// Latent attention, in the classes that have it.
    pub(in super::super) fn latent(&self, family: &Family) -> Result<Option<Latent>, Problem> {
        if family.arch != "deepseek2" {
            return Ok(None);
        }
        Ok(Some(Latent {
            heads: self.count("num_attention_heads")?,
            rank: self.count("kv_lora_rank")?,
            q_rank: self.opt_count("q_lora_rank")?,
            plain: self.count("qk_nope_head_dim")?,
            turned: self.count("qk_rope_head_dim")?,
            value: self.count("v_head_dim")?,
        }))
    }

    /// Those widths, as GGUF files have them: keys are what is cached, and what a head makes of it.
    pub(super) fn latent_widths(&self, out: &mut Out, latent: &Latent) -> Result<(), Problem> {
        let &Latent { heads: _, rank, q_rank, plain, turned, value } = latent;
        let sum = |a: u32, b: u32| {
            let problem = format!("{a} and {b} elements of a key are more than can be counted");
            a.checked_add(b).ok_or_else(|| wrong("qk_rope_head_dim", &problem))
        };
        out.set("attention.kv_lora_rank", rank);
        if let Some(q_rank) = q_rank {
            out.set("attention.q_lora_rank", q_rank);
        }
        out.set("attention.key_length", sum(rank, turned)?);
        out.set("attention.value_length", rank);
        out.set("attention.key_length_mla", sum(plain, turned)?);
        out.set("attention.value_length_mla", value);
        self.only("qk_head_dim", &[sum(plain, turned)?.into()])
    }

    /// Sliding windows, in the architectures that have them, and which layers have them.
    pub(super) fn windows(&self, out: &mut Out, family: &Family, layers: usize) -> Result<(), Problem> {
        // Layers of another kind than attention have types of their own.
        if family.is_lfm2() || family.is_delta() {
            return Ok(());
        }
        let types = match self.get("layer_types") {
            None => None,
            Some(v) => Some(layer_types(v, layers, "sliding_attention")?),
        };
        let some = match family.class {
            "MistralForCausalLM" | "Phi3ForCausalLM" | "Starcoder2ForCausalLM" => {
                // Every layer has it.
                if let Some(window) = self.opt_count("sliding_window")? {
                    if types.is_some_and(|flags| flags.contains(&false)) {
                        return Err(wrong("layer_types", "names layers without the sliding window"));
                    }
                    out.set("attention.sliding_window", window);
                }
                return Ok(());
            }
            "Gemma2ForCausalLM"
            | "Gemma3ForCausalLM"
            | "Gemma3TextModel"
            | "Olmo3ForCausalLM"
            | "Exaone4ForCausalLM"
            | "ExaoneMoeForCausalLM"
            | "ExaoneMoEForCausalLM"
            | "GptOssForCausalLM" => self.opt_count("sliding_window")?,
            "Cohere2ForCausalLM" => Some(self.count("sliding_window")?),
            _ => {
                // Qwen names a window and switches it off.
                let switched = self.json.get("use_sliding_window") == Some(&Json::Bool(false));
                if switched {
                    self.get("sliding_window");
                }
                self.only("use_sliding_window", &[false.into()])?;
                self.only("sliding_window", &[0.into()])?;
                None
            }
        };
        let period = self.get("sliding_window_pattern").or(self.get("_sliding_window_pattern"));
        let period = match period.filter(|_| some.is_some()) {
            None => None,
            // EXAONE 4: local and global layers.
            Some(Json::String(s)) if s == "LLLG" => Some(4),
            Some(v) => Some(
                v.as_u64()
                    .filter(|&n| n > 0)
                    .ok_or_else(|| expected("sliding_window_pattern", v, "a period, or \"LLLG\""))?
                    as usize,
            ),
        };
        match (some, types) {
            (Some(window), types) => {
                out.set("attention.sliding_window", window);
                let periodic = || period.map(|n| (0..layers).map(|i| (i + 1) % n != 0).collect());
                if let Some(flags) = types.or_else(periodic) {
                    out.set("attention.sliding_window_pattern", flags.as_slice());
                }
            }
            (None, Some(flags)) if flags.contains(&true) => {
                return Err(wrong(
                    "layer_types",
                    "names sliding layers, but there is no sliding window here",
                ));
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// What only some architectures have.
    pub(super) fn details(
        &self,
        out: &mut Out,
        family: &Family,
        head_dim: u32,
        layers: usize,
    ) -> Result<(), Problem> {
        match family.class {
            "GraniteForCausalLM" | "GraniteMoeForCausalLM" => {
                out.set("attention.scale", self.number("attention_multiplier")? as f32);
                out.set("embedding_scale", self.number("embedding_multiplier")? as f32);
                out.set("residual_scale", self.number("residual_multiplier")? as f32);
                out.set("logit_scale", self.number("logits_scaling")? as f32);
                if family.class == "GraniteMoeForCausalLM" {
                    out.set("expert_count", self.count("num_local_experts")?);
                    out.set("expert_used_count", self.count("num_experts_per_tok")?);
                }
            }
            "HyperCLOVAXForCausalLM" => {
                for (key, name) in [
                    // Absent, it is that of plain attention.
                    ("attention_multiplier", "attention.scale"),
                    ("embedding_multiplier", "embedding_scale"),
                    ("residual_multiplier", "residual_scale"),
                    // A factor here, where Granite's of the same name is a divisor.
                    ("logits_scaling", "logit_scale"),
                ] {
                    if let Some(multiplier) = self.opt_number(key)? {
                        out.set(name, multiplier as f32);
                    }
                }
                // Absent, it is true.
                let normed = self.get("use_post_norm").is_none() || self.flag("use_post_norm")?;
                out.set("use_post_norm", normed);
                // Of training, and a token that the tokenizer's own files name.
                for key in ["attn_pdrop", "summary_first_dropout", "end_token_id"] {
                    self.get(key);
                }
            }
            "Gemma2ForCausalLM" | "Gemma3ForCausalLM" | "Gemma3TextModel" => {
                let scalar = self.number("query_pre_attn_scalar")?;
                if scalar != f64::from(head_dim) {
                    out.set("attention.scale", (1.0 / scalar.sqrt()) as f32);
                }
                self.only("use_bidirectional_attention", &[family.encoder.into()])?;
                if family.encoder {
                    self.flag("use_bidirectional_attention")?;
                }
                for (key, name) in [
                    ("attn_logit_softcapping", "attn_logit_softcapping"),
                    ("final_logit_softcapping", "final_logit_softcapping"),
                ] {
                    if let Some(cap) = self.opt_number(key)? {
                        out.set(name, cap as f32);
                    }
                }
            }
            "SmolLM3ForCausalLM" => {
                self.only("no_rope_layer_interval", &[4.into()])?;
                let every_fourth: Json =
                    (0..layers).map(|i| Json::from(u8::from((i + 1) % 4 != 0))).collect();
                self.only("no_rope_layers", &[every_fourth])?;
            }
            "Phi3ForCausalLM" => {
                self.only("full_attn_mod", &[1.into()])?;
                self.only("interpolate_factor", &[1.into()])?;
            }
            "MixtralForCausalLM" => {
                out.set("expert_count", self.count("num_local_experts")?);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
            }
            "Qwen2MoeForCausalLM" | "Qwen3MoeForCausalLM" | "OlmoeForCausalLM" => {
                // transformers 5 has the name of the other classes for it.
                let count = match self.opt_count("num_experts")? {
                    Some(n) => n,
                    None => self.count("num_local_experts")?,
                };
                out.set("expert_count", count);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
                if let Some(hidden) = self.opt_count("moe_intermediate_size")? {
                    out.set("expert_feed_forward_length", hidden);
                }
                if let Some(shared) = self.opt_count("shared_expert_intermediate_size")? {
                    out.set("expert_shared_feed_forward_length", shared);
                }
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                self.only("decoder_sparse_step", &[1.into()])?;
                self.only("mlp_only_layers", &[Json::Array(Vec::new())])?;
                self.only("qkv_bias", &[true.into()])?;
            }
            "Glm4MoeForCausalLM" => {
                out.set("leading_dense_block_count", self.count("first_k_dense_replace")?);
                out.set("expert_count", self.count("n_routed_experts")?);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
                out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                out.set("expert_weights_scale", self.number("routed_scaling_factor")? as f32);
                self.count("n_shared_experts")?;
                // It shows in the tensors.
                self.get("use_qk_norm");
                self.only("n_group", &[1.into()])?;
                self.only("topk_group", &[1.into()])?;
            }
            "ExaoneMoeForCausalLM" | "ExaoneMoEForCausalLM" => {
                let dense = self.count("first_k_dense_replace")?;
                out.set("leading_dense_block_count", dense);
                let kind = |i: usize| if i < dense as usize { "dense" } else { "sparse" };
                self.only("mlp_layer_types", &[(0..layers).map(kind).collect()])?;
                self.only("is_moe_layer", &[(0..layers).map(|i| i >= dense as usize).collect()])?;
                out.set("expert_count", self.count("num_experts")?);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
                out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
                out.set("expert_shared_count", self.count("num_shared_experts")?);
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                out.set("expert_weights_scale", self.number("routed_scaling_factor")? as f32);
                self.only("scoring_func", &["sigmoid".into()])?;
                self.only("topk_method", &["noaux_tc".into()])?;
                self.only("n_group", &[1.into()])?;
                self.only("topk_group", &[1.into()])?;
            }
            "GptOssForCausalLM" => {
                let used = self.count("num_experts_per_tok")?;
                out.set("expert_count", self.count("num_local_experts")?);
                out.set("expert_used_count", used);
                out.set("expert_feed_forward_length", self.count("intermediate_size")?);
                // The constants of its activation.
                self.only("swiglu_limit", &[7.0.into(), 7.into()])?;
                self.only("swiglu_alpha", &[1.702.into()])?;
                // Other names of what is read above.
                self.only("experts_per_token", &[used.into()])?;
                self.get("initial_context_length");
            }
            "DeepseekV2ForCausalLM" => {
                self.deepseek_experts(out)?;
                self.only("scoring_func", &["softmax".into()])?;
                // transformers does not look at it, and the models' own code would scale or norm, not both.
                self.only("norm_topk_prob", &[false.into()])?;
                let method = self.get("topk_method").unwrap_or(&Json::Null);
                match method.as_str() {
                    Some("group_limited_greedy") => self.expert_groups(out)?,
                    Some("greedy") => {
                        self.get("n_group");
                        self.get("topk_group");
                    }
                    _ => {
                        return Err(expected("topk_method", method, "greedy and group_limited_greedy"));
                    }
                }
            }
            "DeepseekV3ForCausalLM" => {
                self.deepseek_experts(out)?;
                self.only("scoring_func", &["sigmoid".into()])?;
                self.only("topk_method", &["noaux_tc".into()])?;
                self.only("rope_interleave", &[true.into()])?;
                out.set("expert_gating_func", 2u32);
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                self.expert_groups(out)?;
            }
            _ if family.is_delta() => self.delta_nets(out, layers)?,
            _ => self.layer_normed(out, family)?,
        }
        Ok(())
    }

    /// DeepSeek's experts, and the layers before them that have none.
    fn deepseek_experts(&self, out: &mut Out) -> Result<(), Problem> {
        out.set("leading_dense_block_count", self.count("first_k_dense_replace")?);
        out.set("expert_count", self.count("n_routed_experts")?);
        out.set("expert_used_count", self.count("num_experts_per_tok")?);
        out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
        out.set("expert_shared_count", self.count("n_shared_experts")?);
        out.set("expert_weights_scale", self.number("routed_scaling_factor")? as f32);
        self.only("moe_layer_freq", &[1.into()])?;
        // Of training, and of how experts are spread over machines.
        for key in ["aux_loss_alpha", "seq_aux", "ep_size"] {
            self.get(key);
        }
        Ok(())
    }

    /// Groups of experts, of which a position goes to some.
    fn expert_groups(&self, out: &mut Out) -> Result<(), Problem> {
        out.set("expert_group_count", self.count("n_group")?);
        out.set("expert_group_used_count", self.count("topk_group")?);
        Ok(())
    }
}

/// Flags of the layers of type `kind`; the others see everything.
pub(super) fn layer_types(value: &Json, layers: usize, kind: &str) -> Result<Vec<bool>, Problem> {
    let flag = |v: &Json| match v.as_str() {
        Some("full_attention") => Some(false),
        Some(other) if other == kind => Some(true),
        _ => None,
    };
    let flags: Option<Vec<bool>> = value.as_array().and_then(|all| all.iter().map(flag).collect());
    flags.filter(|flags| flags.len() == layers).ok_or_else(|| {
        expected("layer_types", value, &format!("{layers} times \"full_attention\" or \"{kind}\""))
    })
}
