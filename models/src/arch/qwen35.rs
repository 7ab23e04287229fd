//! Qwen 3.5: most layers are gated delta nets, the others attention with normed queries and keys, of which a part turns, and a gated output.
//!
//! Rotary sections say which pairs turn by which place in an image; in text all three places are the position. The last layers of a file
//! may guess further tokens; they are ignored where its metadata says so.

use super::{Blueprint, Names, ROPE_FACTORS, common::Common, common::MAX_HEAD_DIM};
use crate::{
    rope,
    source::{Config, Value},
};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{DeltaSpec, HeadSharing, Mask, Mixer, NormKind, QkNorm, Result, Scores};

/// Far beyond any model; keeps a corrupt file's states countable.
const MAX_HEADS: usize = 1 << 12;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    of(config, HeadSharing::Turns, false)
}

/// With mixtures of experts, beside which a gated one is for every position.
pub(super) fn mixture(config: &Config<'_>, sharing: HeadSharing) -> Result<Blueprint> {
    of(config, sharing, true)
}

fn of(config: &Config<'_>, sharing: HeadSharing, experts: bool) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.qk_norm = Some(QkNorm::Heads);
    let is_delta = recurrent(config, c.layers)?;
    let guessing = c.without_guessing(config)?;
    if experts {
        c.experts(config, Scores::Softmax, true)?;
    }
    if c.mask == Mask::Bidirectional {
        let problem = "is false: delta nets that take in later positions are not supported";
        return Err(config.error("attention.causal", problem));
    }
    config.opt_value("rope.dimension_sections");
    let delta = Mixer::DeltaNet(delta(config, &c, sharing)?);
    let names = Names {
        ffn_norm: Some("post_attention_norm"),
        guessing,
        ..Names::GGUF
    };
    let ropes = vec![rope::read(config, c.rope_dim, 10_000_000.0, ROPE_FACTORS)?];
    c.blueprint(config, ropes, names, |i, layer| {
        layer.attn.gated = true;
        layer.instead = is_delta[i].then(|| delta.clone());
    })
}

/// Which layers are delta nets: a flag for each, or all but the last one of each few.
fn recurrent(config: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "attention.recurrent_layers";
    let interval = config.opt_size("full_attention_interval")?.unwrap_or(4);
    match config.opt_value(KEY) {
        None => Ok((0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect()),
        Some(Value::Bools(flags)) if flags.len() == layers => Ok(flags),
        Some(v) => Err(config.error(KEY, format!("expected {layers} flags, got {v}"))),
    }
}

fn delta(config: &Config<'_>, c: &Common, sharing: HeadSharing) -> Result<DeltaSpec> {
    let at_most = |key: &str, most: usize| match config.size(key)? {
        n if n <= most => Ok(n),
        n => Err(config.error(key, format!("{n} is not supported; at most {most} are"))),
    };
    let key_heads = at_most("ssm.group_count", MAX_HEADS)?;
    let value_heads = at_most("ssm.time_step_rank", MAX_HEADS)?;
    let key_dim = at_most("ssm.state_size", MAX_HEAD_DIM)?;
    let values = at_most("ssm.inner_size", MAX_HEADS * MAX_HEAD_DIM)?;
    if !value_heads.is_multiple_of(key_heads) {
        let problem = format!("{value_heads} value heads cannot share {key_heads} key heads evenly");
        return Err(config.error("ssm.time_step_rank", problem));
    }
    if !values.is_multiple_of(value_heads) || values / value_heads > MAX_HEAD_DIM {
        let problem = format!("{values} are no {value_heads} heads of at most {MAX_HEAD_DIM} elements");
        return Err(config.error("ssm.inner_size", problem));
    }
    const TAPS: &str = "ssm.conv_kernel";
    let taps = config.size(TAPS)?;
    if !(2..=BLOCK_LEN).contains(&taps) {
        let problem = format!("convolutions over {taps} positions are not supported; 2 to {BLOCK_LEN} are");
        return Err(config.error(TAPS, problem));
    }
    let value_dim = values / value_heads;
    Ok(DeltaSpec { key_heads, value_heads, key_dim, value_dim, sharing, taps, norm: c.norm })
}
