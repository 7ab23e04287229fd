//! Granite: Llama whose embeddings, residuals, attention scores and logits have multipliers.
//!
//! Every block's output is multiplied by the same `m` before it is added. That is the plain model in a residual stream
//! smaller by `m`: the embeddings are divided by `m`, and as every reader of the stream is an RMS norm, which forgets
//! the size of its input but for its epsilon, the epsilons are divided by `m^2`.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common, llama};
use crate::{
    rope,
    source::{Config, Value},
};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    multiplied(config, Common::read(config, NormKind::Rms)?)
}

/// The rest of it, for `c` with or without experts.
pub(super) fn multiplied(config: &Config<'_>, mut c: Common) -> Result<Blueprint> {
    let residual = config.opt_positive("residual_scale")?.unwrap_or(1.0) as f32;
    let embedding = config.opt_positive("embedding_scale")?.unwrap_or(1.0) as f32;
    let divisor = config.positive("logit_scale")? as f32;
    c.norm.eps /= residual * residual;
    let names = Names { qk_rows: llama::pairs(config, &c)?, ..Names::GGUF };
    // In this architecture the key says whether there are positions at all.
    let turns = config.opt_value("rope.scaling.finetuned") != Some(Value::Bool(false));
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    let mut b = c.blueprint(config, ropes, names, |_, layer| {
        if !turns {
            layer.attn.rope = None;
        }
    })?;
    b.spec.embed_scale = embedding / residual;
    b.logit_scale = 1.0 / divisor;
    Ok(b)
}
