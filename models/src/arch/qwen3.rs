//! Qwen 3: each query and key head is normed before it turns.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.qk_norm = Some(QkNorm::Heads);
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::GGUF, |_, _| {})
}
