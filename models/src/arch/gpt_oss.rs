//! gpt-oss: mixtures of experts with biases and a clamped SwiGLU, attention sinks, and a sliding window in every other layer.
//!
//! YaRN's ramp runs between fractions of dimensions here, which the file has no key for (`rope_scaling.truncate` of the
//! original configuration).

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.experts(config, Scores::Softmax, true)?;
    let (window, windowed) = (c.window(config)?, c.windowed(config, 2)?);
    let names =
        Names { attn_sinks: Some("attn_sinks"), ffn_norm: Some("post_attention_norm"), ..Names::GGUF };
    let ropes = vec![rope::read_with(config, c.rope_dim, 10_000.0, ROPE_FACTORS, rope::Ramp::Exact)?];
    c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        layer.ffn.act = Activation::SwigluOai;
    })
}
