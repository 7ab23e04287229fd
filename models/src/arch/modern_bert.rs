//! ModernBERT: norms before both blocks, rotary positions, a gate, and two layers with a window for each one that sees
//! everything, which comes first of the three. The embeddings are normed, so the first layer does without a norm before attention.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, Mask, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.mask = Mask::Bidirectional;
    let window = c.window(config)?;
    let period = config.opt_size("attention.sliding_window_pattern")?.unwrap_or(3);
    let local_base = config.opt_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let ropes = vec![
        rope::read(config, c.rope_dim, 160_000.0, ROPE_FACTORS)?,
        rope::plain(c.rope_dim, local_base, None, 1.0),
    ];
    // Of classifiers, whose tensors would be refused.
    config.ignore(&["classifier.pooling_type"]);
    const ACT: &str = "hidden_activation";
    let act = match config.opt_str(ACT)? {
        None | Some("gelu") => Activation::Gelu,
        Some("silu") => Activation::Silu,
        Some(other) => return Err(config.error(ACT, format!("`{other}` is not known; gelu and silu are"))),
    };
    let names = Names { embed_norm: Some("token_embd_norm"), ..Names::GGUF };
    c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.window = window.filter(|_| i % period != 0);
        layer.attn.rope = Some(if layer.attn.window.is_some() { 1 } else { 0 });
        layer.ffn.act = act;
    })
}
