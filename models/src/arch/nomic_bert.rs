//! Nomic's BERT: rotary positions and a gate with SiLU, without biases in its products.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Mask, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.mask = Mask::Bidirectional;
    let ropes = vec![rope::read(config, c.rope_dim, 1000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::STREAM_NORMED, |_, _| {})
}
