//! Gemma 3: norms before and after both blocks, q and k norms, GELU, embeddings scaled by `sqrt(dim)`, and five
//! layers with a sliding window for each one that sees everything, with a rotary base of their own.
//!
//! The files store norm weights with their offset of 1 added. The embedding scale is the f32 root: engines that run
//! in bf16 round it to bf16 (25.25 for 25.298 at 640), which is not part of the model.

use super::{Blueprint, Common, DESCRIPTIVE, Names, ROPE_FACTORS};
use crate::{
    rope,
    source::{Config, Value},
};
use kinfer_core::{Activation, AttnSpec, FfnSpec, LayerSpec, ModelSpec, Result};

/// Layers of the 27B model, the only one that scales its queries by `dim / heads` instead of `head_dim`
/// (`query_pre_attn_scalar` 168); the file format has no key for it.
const LAYERS_27B: usize = 62;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config)?;
    let window = config.opt_count("attention.sliding_window")?.filter(|&w| w > 0);
    let windowed = windowed(config, c.layers)?;
    let query = if c.layers == LAYERS_27B { c.dim as f64 / c.heads[0] as f64 } else { c.head_dim as f64 };
    let scale = config.opt_positive("attention.scale")?.unwrap_or(1.0 / query.sqrt());
    let local_base = config.opt_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // Scaling of the context stretches the global layers only.
    let ropes = vec![
        rope::read(config, c.rope_dim, 1_000_000.0, ROPE_FACTORS)?,
        rope::plain(c.rope_dim, local_base, None, 1.0),
    ];
    let logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|c| c as f32);
    config.refuse("attn_logit_softcapping", "a soft cap on attention scores")?;
    config.finish(&[&DESCRIPTIVE[..], &["vision.", "mm."]].concat())?;
    let layer = |i: usize| {
        let window = window.filter(|_| windowed[i]);
        LayerSpec {
            attn: AttnSpec {
                heads: c.heads[i],
                kv_heads: c.kv_heads[i],
                head_dim: c.head_dim,
                scale: scale as f32,
                window,
                softcap: None,
                rope: Some(if window.is_some() { 1 } else { 0 }),
                norm_eps: c.norm_eps,
            },
            ffn: FfnSpec { hidden: c.hidden[i], act: Activation::GeluTanh, norm_eps: c.norm_eps },
        }
    };
    Ok(Blueprint {
        spec: ModelSpec {
            arch: config.arch().into(),
            vocab: c.vocab,
            dim: c.dim,
            context: c.context,
            embed_scale: (c.dim as f32).sqrt(),
            norm_eps: c.norm_eps,
            logit_softcap,
            ropes,
            layers: (0..c.layers).map(layer).collect(),
        },
        names: Names {
            qk_norm: Some(["attn_q_norm", "attn_k_norm"]),
            attn_post_norm: Some("post_attention_norm"),
            ffn_post_norm: Some("post_ffw_norm"),
            ignored: &["v.", "mm."],
            ..Names::GGUF
        },
    })
}

/// Which layers have the window: a flag for each, or a period whose last layer has none (6 where the file is silent).
fn windowed(config: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "attention.sliding_window_pattern";
    let period = match config.opt_value(KEY) {
        Some(Value::Bools(flags)) if flags.len() == layers => return Ok(flags),
        Some(Value::Int(n)) if n > 0 && n <= layers as i128 => n as usize,
        None => 6,
        Some(v) => {
            return Err(
                config.error(KEY, format!("expected a period of 1 to {layers} or {layers} flags, got {v}"))
            );
        }
    };
    Ok((0..layers).map(|i| (i + 1) % period != 0).collect())
}
