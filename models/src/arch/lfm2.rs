//! LFM2: most layers are gated short convolutions, some attention with normed queries and keys.
//!
//! The files call the final norm what others call the embeddings'.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{ConvSpec, Mask, Mixer, NormKind, QkNorm, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::with_convolutions(config, NormKind::Rms)?;
    of(config, c)
}

/// The same with mixtures of experts after the first layers.
pub(super) fn mixture(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::with_convolutions(config, NormKind::Rms)?;
    c.experts(config, Scores::Sigmoid, true)?;
    of(config, c)
}

fn of(config: &Config<'_>, mut c: Common) -> Result<Blueprint> {
    const TAPS: &str = "shortconv.l_cache";
    let taps = config.size(TAPS)?;
    if !(2..=BLOCK_LEN).contains(&taps) {
        let problem = format!("convolutions over {taps} positions are not supported; 2 to {BLOCK_LEN} are");
        return Err(config.error(TAPS, problem));
    }
    if c.mask == Mask::Bidirectional {
        let problem = "is false: convolutions that take in later positions are not supported";
        return Err(config.error("attention.causal", problem));
    }
    let conv = ConvSpec { width: c.dim, taps, norm: c.norm };
    let is_conv: Vec<bool> = c.kv_heads.iter().map(|&n| n == 0).collect();
    c.qk_norm = Some(QkNorm::Heads);
    let names = Names { norm: "token_embd_norm", ..Names::GGUF };
    let ropes = vec![rope::read(config, c.rope_dim, 1_000_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |i, layer| layer.instead = is_conv[i].then_some(Mixer::Convolution(conv)))
}
