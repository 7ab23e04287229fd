//! Gemma 3: norms before and after both blocks, q and k norms, GELU, embeddings scaled by `sqrt(dim)`, and five
//! layers with a sliding window for each one that sees everything, with a rotary base of their own.
//!
//! The files store norm weights with their offset of 1 added. The embedding scale is the f32 root: engines that run
//! in bf16 round it to bf16 (25.25 for 25.298 at 640), which is not part of the model.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, Mask, NormKind, QkNorm, Result};

/// Layers of the 27B model, the only one that scales its queries by `dim / heads` instead of `head_dim`
/// (`query_pre_attn_scalar` 168); the file format has no key for it.
const LAYERS_27B: usize = 62;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    of(config, c)
}

/// The same as an encoder.
pub(super) fn encoder(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.mask = Mask::Bidirectional;
    of(config, c)
}

fn of(config: &Config<'_>, mut c: Common) -> Result<Blueprint> {
    if c.layers == LAYERS_27B && config.opt_positive("attention.scale")?.is_none() {
        c.scale = 1.0 / (c.dim as f32 / c.heads[0] as f32).sqrt();
    }
    let (window, windowed) = (c.window(config)?, c.windowed(config, 6)?);
    let embed_scale = (c.dim as f32).sqrt();
    let local_base = config.opt_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // Scaling of the context stretches the global layers only.
    let ropes = vec![
        rope::read(config, c.rope_dim, 1_000_000.0, ROPE_FACTORS)?,
        rope::plain(c.rope_dim, local_base, None, 1.0),
    ];
    let logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    config.refuse("attn_logit_softcapping", "a soft cap on attention scores")?;
    config.ignore(&["vision.", "mm."]);
    c.qk_norm = Some(QkNorm::Heads);
    let names = Names {
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        ignored: &["v.", "mm."],
        ..Names::GGUF
    };
    let mut b = c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        layer.attn.rope = Some(if layer.attn.window.is_some() { 1 } else { 0 });
        layer.ffn.act = Activation::GeluTanh;
    })?;
    b.spec.embed_scale = embed_scale;
    b.spec.logit_softcap = logit_softcap;
    Ok(b)
}
