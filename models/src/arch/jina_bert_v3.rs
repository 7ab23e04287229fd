//! Jina Embeddings 3: XLM-RoBERTa with rotary positions.
//!
//! Its adapters for tasks are files of their own, which are no part of the model's.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, Mask, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.mask = Mask::Bidirectional;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::STREAM_NORMED, |_, layer| {
        layer.ffn.gated = false;
        layer.ffn.act = Activation::Gelu;
    })
}
