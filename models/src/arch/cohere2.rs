//! Command R7B: Command R with a sliding window in three of four layers; those that see everything have no positions.

use super::{Blueprint, ROPE_FACTORS, command_r, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let names = command_r::names(&c);
    let logit_scale = config.positive("logit_scale")? as f32;
    let window = config.size("attention.sliding_window")?;
    let windowed = c.windowed(config, 4)?;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |i, layer| {
        layer.parallel = true;
        match windowed[i] {
            true => layer.attn.window = Some(window),
            false => layer.attn.rope = None,
        }
    })?;
    b.logit_scale = logit_scale;
    Ok(b)
}
