//! Qwen 3: each query and key head is normed before it turns.

use super::{Blueprint, Names, QkNorm, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let names = Names { qk_norm: Some(QkNorm::Heads), ..Names::GGUF };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, _| {})
}
