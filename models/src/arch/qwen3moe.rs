//! Qwen 3 with mixtures of experts: Qwen 3 but for its feed-forwards.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.experts(config, Scores::Softmax, true)?;
    c.qk_norm = Some(QkNorm::Heads);
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::GGUF, |_, _| {})
}
