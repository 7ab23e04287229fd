//! Gemma: GELU, and embeddings scaled by `sqrt(dim)`. The files store norm weights with their offset of 1 added.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let embed_scale = (c.dim as f32).sqrt();
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, Names::GGUF, |_, layer| layer.ffn.act = Activation::GeluTanh)?;
    b.spec.embed_scale = embed_scale;
    Ok(b)
}
