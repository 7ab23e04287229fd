//! Settings of LFM2, with and without experts.

use super::details::layer_types;
use super::{Config, Out, Problem, expected, wrong};

impl Config<'_> {
    /// What differs from other decoders of `layers` layers, `dim` wide, whose attention has `kv_heads` key/value heads.
    pub(super) fn lfm2(&self, out: &mut Out, dim: u32, layers: usize, kv_heads: u32) -> Result<(), Problem> {
        let of_layer = |is_conv: bool| if is_conv { 0 } else { kv_heads };
        let kv_heads: Vec<u32> = self.convolutions(layers)?.into_iter().map(of_layer).collect();
        out.set("attention.head_count_kv", kv_heads.as_slice());
        out.set("shortconv.l_cache", self.count("conv_L_cache")?);
        match out.arch {
            "lfm2moe" => self.lfm2_experts(out)?,
            _ => out.set("feed_forward_length", self.lfm2_hidden()?),
        }
        // What the published files repeat, and transformers does not look at.
        for key in ["block_dim", "conv_dim", "conv_dim_out"] {
            self.only(key, &[dim.into()])?;
        }
        let top = |key: &str| self.json.get(key).cloned();
        let theta =
            top("rope_theta").or(self.json.get("rope_parameters").and_then(|v| v.get("rope_theta").cloned()));
        for (key, same) in
            [("num_heads", top("num_attention_heads")), ("block_norm_eps", top("norm_eps")), ("theta", theta)]
        {
            self.only(key, same.as_slice())?;
        }
        self.only("block_use_swiglu", &[true.into()])?;
        self.only("use_pos_enc", &[true.into()])?;
        // Of the beginning of its training; and what `tied` reads.
        let other =
            ["block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"];
        for key in other.into_iter().chain(["tie_embedding"]) {
            self.get(key);
        }
        Ok(())
    }

    /// Which layers are convolutions: by their types, or else all but those that are named as attention.
    fn convolutions(&self, layers: usize) -> Result<Vec<bool>, Problem> {
        const ATTENTION: &str = "full_attn_idxs";
        let attention = self.get(ATTENTION);
        if let Some(v) = self.get("layer_types") {
            return layer_types(v, layers, "conv");
        }
        let Some(v) = attention else { return Ok(vec![false; layers]) };
        let mut flags = vec![true; layers];
        for i in v.as_array().into_iter().flatten() {
            let flag = i.as_u64().and_then(|i| flags.get_mut(usize::try_from(i).ok()?));
            *flag.ok_or_else(|| expected(ATTENTION, v, &format!("an array of layers below {layers}")))? =
                false;
        }
        match v.is_array() {
            true => Ok(flags),
            false => Err(expected(ATTENTION, v, "an array of layers")),
        }
    }

    /// Width of the feed-forward: two thirds of what is said, times a factor, rounded up to a multiple.
    fn lfm2_hidden(&self) -> Result<u32, Problem> {
        const FACTOR: &str = "block_ffn_dim_multiplier";
        let (old, new) = (self.opt_count("block_ff_dim")?, self.opt_count("intermediate_size")?);
        let said = old.or(new).ok_or_else(|| wrong("intermediate_size", "is missing"))?;
        let (factor, unit) = (self.opt_number(FACTOR)?, self.opt_count("block_multiple_of")?.unwrap_or(256));
        // Absent, it is true.
        let adjusted =
            self.get("block_auto_adjust_ff_dim").is_none() || self.flag("block_auto_adjust_ff_dim")?;
        if !adjusted {
            return Ok(said);
        }
        let hidden = f64::from(said) * 2.0 / 3.0;
        // An absent factor is 1, but one that is null says that nothing is rounded either.
        let factor = match (factor, self.json.contains_key(FACTOR)) {
            (Some(factor), _) => factor,
            (None, false) => 1.0,
            (None, true) => return Ok(hidden as u32),
        };
        if factor.is_nan() || factor <= 0.0 || unit == 0 {
            return Err(wrong(FACTOR, "and `block_multiple_of` have to be positive"));
        }
        ((factor * hidden.trunc()) as u32)
            .checked_next_multiple_of(unit)
            .ok_or_else(|| wrong("intermediate_size", &format!("is {said}, which is too large")))
    }

    fn lfm2_experts(&self, out: &mut Out) -> Result<(), Problem> {
        out.set("feed_forward_length", self.count("intermediate_size")?);
        out.set("leading_dense_block_count", self.count("num_dense_layers")?);
        out.set("expert_count", self.count("num_experts")?);
        out.set("expert_used_count", self.count("num_experts_per_tok")?);
        out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
        // Absent, it is true.
        let renormalised = self.get("norm_topk_prob").is_none() || self.flag("norm_topk_prob")?;
        out.set("expert_weights_norm", renormalised);
        out.set("expert_weights_scale", self.opt_number("routed_scaling_factor")?.unwrap_or(1.0) as f32);
        // It shows in the tensors.
        self.get("use_expert_bias");
        Ok(())
    }
}
