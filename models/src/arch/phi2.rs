//! Phi-1 to Phi-2: one layer norm for both blocks, which run in parallel; biases everywhere, also on the logits; no gate;
//! heads that turn in part.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let names = Names { ffn_norm: Names::GGUF.attn_norm, ..Names::GGUF };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, layer| {
        layer.parallel = true;
        layer.ffn.gated = false;
        layer.ffn.act = Activation::GeluTanh;
    })
}
