//! Settings of Qwen 3.5 and Qwen3-Next, most of whose layers are gated delta nets.

use super::details::layer_types;
use super::{Config, Family, Json, Out, Problem, wrong};

/// Heads of delta nets.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Delta {
    /// Of queries, and of keys.
    pub key_heads: usize,
    /// A multiple of them.
    pub value_heads: usize,
    /// Elements of a head of queries or keys.
    pub key_dim: usize,
    /// Elements of a head of values.
    pub value_dim: usize,
    /// Whether the value heads of different key heads take turns in a GGUF file.
    pub turns: bool,
}

const KEY_HEADS: &str = "linear_num_key_heads";
const VALUE_HEADS: &str = "linear_num_value_heads";
const KEY_DIM: &str = "linear_key_head_dim";
const VALUE_DIM: &str = "linear_value_head_dim";

impl Config<'_> {
    /// The delta nets, in the classes that have them.
    pub(in super::super) fn delta(&self, family: &Family) -> Result<Option<Delta>, Problem> {
        if !family.is_delta() {
            return Ok(None);
        }
        let size = |key: &'static str| match self.count(key)? {
            0 => Err(wrong(key, "is 0")),
            n => Ok(n as usize),
        };
        let (key_heads, value_heads) = (size(KEY_HEADS)?, size(VALUE_HEADS)?);
        if !value_heads.is_multiple_of(key_heads) {
            let problem = format!("is {value_heads}, which is no multiple of `{KEY_HEADS}` ({key_heads})");
            return Err(wrong(VALUE_HEADS, &problem));
        }
        let (key_dim, value_dim) = (size(KEY_DIM)?, size(VALUE_DIM)?);
        let turns = family.arch != "qwen3next";
        Ok(Some(Delta { key_heads, value_heads, key_dim, value_dim, turns }))
    }

    /// What differs from other decoders of `layers` layers.
    pub(super) fn delta_nets(&self, out: &mut Out, layers: usize) -> Result<(), Problem> {
        let (heads, width) = (self.count(VALUE_HEADS)?, self.count(VALUE_DIM)?);
        let inner = heads.checked_mul(width);
        let inner = inner.ok_or_else(|| wrong(VALUE_DIM, &format!("is {width}, which is too large")))?;
        out.set("ssm.conv_kernel", self.count("linear_conv_kernel_dim")?);
        out.set("ssm.state_size", self.count(KEY_DIM)?);
        out.set("ssm.group_count", self.count(KEY_HEADS)?);
        out.set("ssm.time_step_rank", heads);
        out.set("ssm.inner_size", inner);
        // Their heads have not the width of the model divided by their number.
        self.count("head_dim")?;
        let interval = self.opt_count("full_attention_interval")?.unwrap_or(4).max(1);
        out.set("attention.recurrent_layers", self.recurrent(layers, interval as usize)?.as_slice());
        out.set("full_attention_interval", interval);
        self.only("attn_output_gate", &[true.into()])?;
        self.only("mamba_ssm_dtype", &["float32".into()])?;
        // Of the layers that guess further tokens, whose tensors are left out.
        for key in ["mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"] {
            self.get(key);
        }
        if out.arch != "qwen35" {
            self.delta_experts(out)?;
        }
        Ok(())
    }

    /// Which layers are delta nets: by their types, or else all but the last of each `interval`.
    fn recurrent(&self, layers: usize, interval: usize) -> Result<Vec<bool>, Problem> {
        match self.get("layer_types") {
            Some(v) => layer_types(v, layers, "linear_attention"),
            None => Ok((0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect()),
        }
    }

    /// Experts, beside which one with a gate is for every position.
    fn delta_experts(&self, out: &mut Out) -> Result<(), Problem> {
        out.set("expert_count", self.count("num_experts")?);
        out.set("expert_used_count", self.count("num_experts_per_tok")?);
        out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
        out.set("expert_shared_feed_forward_length", self.count("shared_expert_intermediate_size")?);
        // Qwen 3.5 knows no other way.
        let fixed = out.arch == "qwen35moe";
        let renormalised = fixed || self.get("norm_topk_prob").is_none() || self.flag("norm_topk_prob")?;
        if fixed {
            self.only("norm_topk_prob", &[true.into()])?;
        }
        out.set("expert_weights_norm", renormalised);
        self.only("decoder_sparse_step", &[1.into()])?;
        self.only("mlp_only_layers", &[Json::Array(Vec::new())])
    }
}
