//! SmolLM3: Llama without positions in every fourth layer.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common, llama};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

/// Of every four layers, the last one has no rotary embedding; the file format has no key for it.
const PERIOD: usize = 4;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let names = Names { qk_rows: llama::pairs(config, &c)?, ..Names::GGUF };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |i, layer| {
        if (i + 1) % PERIOD == 0 {
            layer.attn.rope = None;
        }
    })
}
