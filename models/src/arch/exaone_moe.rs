//! EXAONE with experts (K-EXAONE): a dense layer, then mixtures of experts chosen by sigmoids, beside which one is for every position; each
//! head of queries and keys is normed.
//!
//! Three of four layers have a sliding window; those that see everything have no positions. The last layers of a file may guess further
//! tokens; they are ignored where its metadata says so.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    let guessing = c.without_guessing(config)?;
    c.experts(config, Scores::Sigmoid, true)?;
    let (window, windowed) = (c.window(config)?, c.windowed(config, 4)?);
    let ropes = vec![rope::read(config, c.rope_dim, 1_000_000.0, ROPE_FACTORS)?];
    c.qk_norm = Some(QkNorm::Heads);
    let names = Names { guessing, ..Names::GGUF };
    c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        if window.is_some() && !windowed[i] {
            layer.attn.rope = None;
        }
    })
}
