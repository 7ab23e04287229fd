//! Command R and Aya: layer norms without bias, one for both blocks, which run in parallel; logits with a multiplier.

use super::{Blueprint, Names, QkRows, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let names = names(&c);
    let logit_scale = config.positive("logit_scale")? as f32;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |_, layer| layer.parallel = true)?;
    b.logit_scale = logit_scale;
    Ok(b)
}

/// The names of both generations.
pub(super) fn names(c: &Common) -> Names {
    Names { qk_rows: QkRows::Pairs { turned: c.rope_dim }, ffn_norm: Names::GGUF.attn_norm, ..Names::GGUF }
}
