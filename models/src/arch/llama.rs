//! Llama 1 to 3 and the many models that share its layout: Mistral, SmolLM2, Yi, Vicuna, …; and Mixtral, whose
//! feed-forwards are mixtures of experts.
//!
//! RMS norm, grouped-query attention with rotary positions, SwiGLU. The files store query and key rows for rotary
//! pairs of adjacent elements. Llama 3's frequency scaling is a tensor of divisors.

use super::{Blueprint, Names, QkRows, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.experts(config, Scores::Softmax, true)?;
    let names = Names { qk_rows: pairs(config, &c)?, ..Names::GGUF };
    // Mistral 7B v0.1 has a window in every layer.
    let window = c.window(config)?;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, layer| layer.attn.window = window)
}

/// GGUF files order whole heads by pairs, so whole heads have to turn.
pub(super) fn pairs(config: &Config<'_>, c: &Common) -> Result<QkRows> {
    if c.rope_dim != c.head_dim {
        let problem = format!(
            "is {}; heads of {} elements turn as a whole in this architecture",
            c.rope_dim, c.head_dim
        );
        return Err(config.error("rope.dimension_count", problem));
    }
    Ok(match config.source().rotary_halves() {
        true => QkRows::Halves,
        false => QkRows::Pairs { turned: c.rope_dim },
    })
}
