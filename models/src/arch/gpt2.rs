//! GPT-2: learned positions, layer norms, biases everywhere, no gate.

use super::{Blueprint, Names, common::Common};
use crate::source::Config;
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let names = Names { positions: Some("position_embd"), rope_factors: &[], ..Names::GGUF };
    c.blueprint(config, Vec::new(), names, |_, layer| {
        layer.ffn.gated = false;
        layer.ffn.act = Activation::GeluTanh;
    })
}
