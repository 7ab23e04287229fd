//! Llama 1 to 3 and the many models that share its layout: Mistral, SmolLM2, Yi, Vicuna, …
//!
//! RMS norm, grouped-query attention with rotary positions, SwiGLU. The files store query and key rows for rotary
//! pairs of adjacent elements. Llama 3's frequency scaling is a tensor of divisors.

use super::{Blueprint, Common, DESCRIPTIVE, Names, QkRows, ROPE_FACTORS};
use crate::{rope, source::Config};
use kinfer_core::{Activation, AttnSpec, FfnSpec, LayerSpec, ModelSpec, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let c = Common::read(config)?;
    if c.rope_dim != c.head_dim {
        return Err(config.error(
            "rope.dimension_count",
            format!(
                "is {}; heads of {} elements turn as a whole in this architecture",
                c.rope_dim, c.head_dim
            ),
        ));
    }
    let scale = config.opt_positive("attention.scale")?.unwrap_or(1.0 / (c.head_dim as f64).sqrt());
    // Mistral 7B v0.1 has a window in every layer; 0 says that there is none.
    let window = config.opt_count("attention.sliding_window")?.filter(|&w| w > 0);
    let rope = rope::read(config, c.rope_dim, 10_000.0, ROPE_FACTORS)?;
    config.finish(&DESCRIPTIVE)?;
    let layer = |i: usize| LayerSpec {
        attn: AttnSpec {
            heads: c.heads[i],
            kv_heads: c.kv_heads[i],
            head_dim: c.head_dim,
            scale: scale as f32,
            window,
            softcap: None,
            rope: Some(0),
            norm_eps: c.norm_eps,
        },
        ffn: FfnSpec { hidden: c.hidden[i], act: Activation::Silu, norm_eps: c.norm_eps },
    };
    Ok(Blueprint {
        spec: ModelSpec {
            arch: config.arch().into(),
            vocab: c.vocab,
            dim: c.dim,
            context: c.context,
            embed_scale: 1.0,
            norm_eps: c.norm_eps,
            logit_softcap: None,
            ropes: vec![rope],
            layers: (0..c.layers).map(layer).collect(),
        },
        names: Names { qk_rows: QkRows::Pairs, ..Names::GGUF },
    })
}
