//! BERT, RoBERTa and XLM-RoBERTa encoders: learned positions, layer norms of the residual stream after each block, biases
//! everywhere, no gate.

use super::{Blueprint, Names, common::Common};
use crate::source::Config;
use kinfer_core::{Activation, Mask, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.mask = Mask::Bidirectional;
    let names = Names { positions: Some("position_embd"), rope_factors: &[], ..Names::STREAM_NORMED };
    c.blueprint(config, Vec::new(), names, |_, layer| {
        layer.ffn.gated = false;
        layer.ffn.act = Activation::Gelu;
    })
}
