//! StableLM: Llama with layer norms and heads that turn in part, its blocks in parallel in some models.
//! StableLM 2 12B norms each head of queries and keys.

use super::{Blueprint, Names, ROPE_FACTORS, command_r::head_norms, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Layer)?;
    c.qk_norm = head_norms(config)?;
    let parallel = config.flag("use_parallel_residual")?;
    // Parallel blocks share a norm.
    let ffn_norm = if parallel { Names::GGUF.attn_norm } else { Names::GGUF.ffn_norm };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names { ffn_norm, ..Names::GGUF }, |_, layer| layer.parallel = parallel)
}
