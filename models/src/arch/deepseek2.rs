//! DeepSeek V2 and V3 and the models built like them: latent attention, a few dense layers, then mixtures of experts beside
//! which one is for every position.

use super::{
    Blueprint, Names, ROPE_FACTORS,
    common::{Common, MAX_HEAD_DIM},
};
use crate::{rope, source::Config};
use kinfer_core::{LatentSpec, NormKind, Result, Scores};

/// Epsilon of the latents' norms in every published model, whatever that of the others is; the file has no key for it.
const LATENT_EPS: f32 = 1e-6;

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    let guessing = c.without_guessing(config)?;
    c.experts(config, Scores::Softmax, false)?;
    const VALUE: &str = "attention.value_length_mla";
    // Wider ones, of a corrupt file, would overflow sizes or ask for gigabytes.
    let width = |key: &str| match config.opt_size(key)? {
        Some(n) if n > MAX_HEAD_DIM => {
            Err(config.error(key, format!("is {n}; at most {MAX_HEAD_DIM} is supported")))
        }
        n => Ok(n),
    };
    let Some(value) = width(VALUE)? else {
        let problem = "is missing: a file from before latent attention was stored as such; convert the model again";
        return Err(config.error(VALUE, problem));
    };
    let needed = |key: &str| match width(key)? {
        Some(n) => Ok(n),
        None => config.size(key),
    };
    let (rank, projected) = (needed("attention.kv_lora_rank")?, needed("attention.key_length_mla")?);
    if c.head_dim != rank + c.rope_dim || projected <= c.rope_dim || c.kv_heads.iter().any(|&n| n != 1) {
        let problem = format!(
            "{} elements of a key, {rank} of them latent, {} that turn, {projected} when projected, do not belong together",
            c.head_dim, c.rope_dim
        );
        return Err(config.error("attention.key_length", problem));
    }
    let q_rank = width("attention.q_lora_rank")?;
    c.latent = Some(LatentSpec { rank, q_rank, plain: projected - c.rope_dim, value, eps: LATENT_EPS });
    config.opt_size("attention.value_length")?;
    // YaRN's temperature is in the scores here, for keys that turn and those that do not.
    let temperature = rope::temperature_of_scores(config)?;
    c.scale = (temperature * temperature / (projected as f64).sqrt()) as f32;
    let mut ropes = vec![rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?];
    ropes.iter_mut().for_each(|rope| rope.magnitude = 1.0);
    let names = Names { guessing, ..Names::GGUF };
    c.blueprint(config, ropes, names, |_, _| {})
}
