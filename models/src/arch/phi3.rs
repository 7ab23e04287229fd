//! Phi-3, Phi-3.5-mini and Phi-4: Llama with one tensor for q, k and v and one for gate and up, rotary halves as
//! stored, and for contexts beyond the original one other divisors of the rotary frequencies (LongRoPE).

use super::{Blueprint, Names, common::Common};
use crate::{rope, source::Config};
use kinfer_core::{Error, LongContext, NormKind, Result};

const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config, NormKind::Rms)?;
    let window = c.window(config)?;
    let names = Names { rope_factors: &[SHORT, LONG], ..Names::GGUF };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000.0, SHORT)?];
    let has = |name| config.source().tensor(name).map(|t| t.is_some());
    let long = match (has(SHORT)?, has(LONG)?) {
        (true, true) => Some(LongContext {
            beyond: config.size("rope.scaling.original_context_length")?,
            ropes: vec![rope::read(config, c.rope_dim, 10_000.0, LONG)?],
        }),
        (false, false) => None,
        (short, _) => {
            let name = if short { LONG } else { SHORT };
            return Err(Error::MissingTensor { name: name.into(), arch: config.arch().into() });
        }
    };
    let mut b = c.blueprint(config, ropes, names, |_, layer| layer.attn.window = window)?;
    b.spec.long = long;
    Ok(b)
}
