//! HyperCLOVA X SEED Think: Llama with multipliers of embeddings, residuals, attention scores and logits, as Granite has them, and in most
//! models norms of both blocks' outputs, too. No other program has a name for it: its files are those that kinfer converts.
//!
//! Without those norms the multiplier of blocks' outputs is Granite's, a residual stream that is smaller by it. With them it is in their
//! weights: they set the size of what is added, and their epsilons, which see the block's output, stay.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    let multiplier =
        |key: &str| -> Result<f32> { Ok(config.opt_positive(key)?.map_or(1.0, |value| value as f32)) };
    let (residual, embedding) = (multiplier("residual_scale")?, multiplier("embedding_scale")?);
    let logits = multiplier("logit_scale")?;
    let normed = config.flag("use_post_norm")?;
    let (smaller_by, post_norm_scale) = if normed { (1.0, residual) } else { (residual, 1.0) };
    c.norm.eps /= smaller_by * smaller_by;
    let names = Names {
        attn_post_norm: normed.then_some("post_attention_norm"),
        ffn_post_norm: normed.then_some("post_ffw_norm"),
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |_, _| {})?;
    b.spec.embed_scale = embedding / smaller_by;
    (b.logit_scale, b.post_norm_scale) = (logits, post_norm_scale);
    Ok(b)
}
