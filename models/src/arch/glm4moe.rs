//! GLM-4.5 and 4.6: a few dense layers, then mixtures of experts chosen by sigmoids, beside which one is for every position.
//! Biases on queries, keys and values; the largest model norms the heads of queries and keys.
//!
//! The last layers of a file may guess further tokens; they are ignored where its metadata says so.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    let guessing = c.without_guessing(config)?;
    c.experts(config, Scores::Sigmoid, true)?;
    let normed = config.source().tensor("blk.0.attn_q_norm.weight")?.is_some();
    c.qk_norm = normed.then_some(QkNorm::Heads);
    let names = Names {
        ffn_norm: Some("post_attention_norm"),
        guessing,
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, _| {})
}
