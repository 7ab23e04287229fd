//! GPT-NeoX, Pythia, Dolly: layer norms, biases, no gate, exact GELU, heads that turn in part; both blocks in parallel,
//! each with its own norm, in most models.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Activation, NormKind, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Layer)?;
    let parallel = config.flag("use_parallel_residual")?;
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, Names::GGUF, |_, layer| {
        layer.parallel = parallel;
        layer.ffn.gated = false;
        layer.ffn.act = Activation::Gelu;
    })
}
