//! OLMo 2 and 3: blocks read the residual stream as it is, and their outputs are normed; so are all queries and all keys
//! of a position together.
//!
//! OLMo 3 has a sliding window in three of four layers; scaling of the context stretches the others only.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, QkNorm, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    const BASE: f64 = 10_000.0;
    let mut c = Common::read(config, NormKind::Rms)?;
    let (window, windowed) = (c.window(config)?, c.windowed(config, 4)?);
    let base = config.opt_positive("rope.freq_base")?.unwrap_or(BASE);
    let local_base = config.opt_positive("rope.freq_base_swa")?.unwrap_or(base);
    let ropes =
        vec![rope::read(config, c.rope_dim, BASE, ROPE_FACTORS)?, rope::plain(c.rope_dim, local_base, None, 1.0)];
    c.qk_norm = Some(QkNorm::Rows);
    c.blueprint(config, ropes, Names::POST_NORMED, |i, layer| {
        layer.attn.window = window.filter(|_| windowed[i]);
        layer.attn.rope = Some(if layer.attn.window.is_some() { 1 } else { 0 });
    })
}
