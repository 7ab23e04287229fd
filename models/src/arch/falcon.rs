//! Falcon: layer norms, both blocks in parallel, no gate, exact GELU, one or few key and value heads.
//!
//! Falcon 7B has one norm for both blocks; in the larger models attention has a second one of its own.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    const SECOND: &str = "attn_norm_2";
    let c = Common::read(config, NormKind::Layer)?;
    let has_second = config.source().tensor(&format!("blk.0.{SECOND}.weight"))?.is_some();
    let names = Names {
        attn_norm: if has_second { Some(SECOND) } else { Names::GGUF.attn_norm },
        ffn_norm: Names::GGUF.attn_norm,
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |_, layer| {
        layer.parallel = true;
        layer.ffn.gated = false;
        layer.ffn.act = Activation::Gelu;
    })
}
