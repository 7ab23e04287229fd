//! Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values, and rotary halves as stored.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::GGUF, |_, _| {})
}
