//! GLM-4-0414: norms before and after both blocks, biases on queries, keys and values, half of each head turning in
//! adjacent pairs, one tensor for gate and up.

use super::{Blueprint, Names, QkRows, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let names = Names {
        qk_rows: QkRows::Pairs { turned: c.rope_dim },
        attn_post_norm: Some("post_attention_norm"),
        ffn_post_norm: Some("post_ffw_norm"),
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, _| {})
}
