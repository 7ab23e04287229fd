//! StarCoder2: layer norms, biases everywhere, no gate, and a sliding window where the file has one.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let window = c.window(config)?;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::GGUF, |_, layer| {
        layer.attn.window = window;
        layer.ffn.gated = false;
        layer.ffn.act = Activation::GeluTanh;
    })
}
