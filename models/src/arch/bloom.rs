//! BLOOM: linear biases in place of positions (ALiBi), normed embeddings, layer norms, biases everywhere, no gate.

use super::{Blueprint, Names, common::Common};
use crate::{alibi, source::Config};
use kinfer_core::{Activation, NormKind, Result};

/// The file format has no key for it.
const LARGEST_BIAS: f64 = 8.0;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let slopes: Vec<_> = c.heads.iter().map(|&heads| alibi::slopes(heads, LARGEST_BIAS)).collect();
    let names = Names { embed_norm: Some("token_embd_norm"), rope_factors: &[], ..Names::GGUF };
    c.blueprint(config, Vec::new(), names, |i, layer| {
        layer.attn.alibi = Some(slopes[i].clone());
        layer.ffn.gated = false;
        layer.ffn.act = Activation::GeluTanh;
    })
}
