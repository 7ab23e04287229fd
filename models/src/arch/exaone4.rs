//! EXAONE 4: blocks read the residual stream as it is, and their outputs are normed; so is each query and key head.
//!
//! The 32B model has a sliding window in three of four layers; those that see everything have no positions. The 1.2B model
//! has no windows, and positions everywhere.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    let (window, windowed) = (c.window(config)?, c.windowed(config, 4)?);
    let ropes = vec![rope::read(config, c.rope_dim, 1_000_000.0, ROPE_FACTORS)?];
    c.qk_norm = Some(QkNorm::Heads);
    c.blueprint(config, ropes, Names::POST_NORMED, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        if window.is_some() && !windowed[i] {
            layer.attn.rope = None;
        }
    })
}
