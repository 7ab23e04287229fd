//! Command R and Aya: layer norms without bias, one for both blocks, which run in parallel; logits with a multiplier.
//! Command R+ norms each head of queries and keys.

use super::{Blueprint, Names, QkRows, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.qk_norm = head_norms(config)?;
    let names = names(&c);
    let logit_scale = config.positive("logit_scale")? as f32;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |_, layer| layer.parallel = true)?;
    b.logit_scale = logit_scale;
    Ok(b)
}

/// Layer norms of each head of queries and keys, in models that have them.
pub(super) fn head_norms(config: &Config<'_>) -> Result<Option<QkNorm>> {
    let first = config.source().tensor("blk.0.attn_q_norm.weight")?;
    Ok(first.map(|_| QkNorm::LayerHeads))
}

/// The names of both generations.
pub(super) fn names(c: &Common) -> Names {
    Names { qk_rows: QkRows::Pairs { turned: c.rope_dim }, ffn_norm: Names::GGUF.attn_norm, ..Names::GGUF }
}
