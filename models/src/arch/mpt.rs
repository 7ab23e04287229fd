//! MPT: linear biases in place of positions (ALiBi), layer norms, no gate, and no biases in most models.

use super::{Blueprint, Names, common::Common};
use crate::{alibi, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    config.refuse("attention.clamp_kqv", "keeping queries, keys and values within limits")?;
    // Models without have learned positions, which none was seen of.
    let largest = config.positive("attention.max_alibi_bias")?;
    let slopes: Vec<_> = c.heads.iter().map(|&heads| alibi::slopes(heads, largest)).collect();
    c.blueprint(config, Vec::new(), Names { rope_factors: &[], ..Names::GGUF }, |i, layer| {
        layer.attn.alibi = Some(slopes[i].clone());
        layer.ffn.gated = false;
        layer.ffn.act = Activation::Gelu;
    })
}
