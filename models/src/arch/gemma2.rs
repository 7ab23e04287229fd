//! Gemma 2: Gemma with norms after both blocks too, soft caps on attention scores and logits, and a sliding window in
//! every other layer, beginning with the first.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

/// Layers of the 27B model, the only one that scales its queries by `dim / heads` instead of `head_dim`
/// (`query_pre_attn_scalar` 144); the file format has no key for it.
const LAYERS_27B: usize = 46;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    if c.layers == LAYERS_27B && config.opt_positive("attention.scale")?.is_none() {
        c.scale = 1.0 / (c.dim as f32 / c.heads[0] as f32).sqrt();
    }
    let (window, windowed) = (c.window(config)?, c.windowed(config, 2)?);
    let embed_scale = (c.dim as f32).sqrt();
    let softcap = config.opt_positive("attn_logit_softcapping")?.map(|cap| cap as f32);
    let logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    let names = Names {
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        layer.attn.softcap = softcap;
        layer.ffn.act = Activation::GeluTanh;
    })?;
    b.spec.embed_scale = embed_scale;
    b.spec.logit_softcap = logit_softcap;
    Ok(b)
}
