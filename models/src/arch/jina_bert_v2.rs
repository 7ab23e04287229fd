//! Jina's BERT: linear biases in place of positions (ALiBi), a gate with GELU, and in the model for code norms of queries and keys, and
//! a second norm after attention.

use super::{Blueprint, Names, common::Common};
use crate::build::SECOND_NORM;
use crate::{alibi, source::Config};
use kinfer_core::{Activation, Mask, NormKind, QkNorm, Result};

/// The file format has no key for it.
const LARGEST_BIAS: f64 = 8.0;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.mask = Mask::Bidirectional;
    let first = |part: &str| config.source().tensor(&format!("blk.0.{part}.weight"));
    c.qk_norm = first("attn_q_norm")?.map(|_| QkNorm::LayerRows);
    let renormed = first(SECOND_NORM)?.is_some();
    let [gate, up] = Names::GGUF.gate_up;
    let joined = first(up)?.is_some_and(|up| up.shape.first() != c.hidden.first());
    let gated = joined || first(gate)?.is_some();
    let slopes: Vec<_> = c.heads.iter().map(|&heads| alibi::slopes(heads, LARGEST_BIAS)).collect();
    let names = Names { rope_factors: &[], ..Names::STREAM_NORMED };
    c.blueprint(config, Vec::new(), names, |i, layer| {
        layer.attn.alibi = Some(slopes[i].clone());
        layer.ffn.gated = gated;
        layer.ffn.act = Activation::Gelu;
        layer.renormed = renormed;
    })
}
