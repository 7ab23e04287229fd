//! Latent attention of primitives.

use crate::backend::{AttnWeights, Backend, Heads, LatentScratch, LatentWeights, Scratch, input, residual};
use crate::{AttnSpec, LatentSpec, Result};

/// [`Backend::attn_in`] of latent attention, see [`LatentSpec`]: `s.qkv[r]` holds the absorbed queries, and the vector of the
/// position as key and as value.
#[allow(clippy::too_many_arguments)]
pub fn latent_in<B: Backend>(
    b: &B,
    step: &mut B::Step,
    spec: &AttnSpec,
    latent: &LatentSpec,
    w: &AttnWeights<B>,
    up: &LatentWeights<B>,
    kv: &mut B::Kv,
    layer: usize,
    s: &mut Scratch<B>,
) -> Result<()> {
    let AttnSpec { heads, head_dim, .. } = *spec;
    let LatentSpec { rank, q_rank, plain, value: _, eps } = *latent;
    let turned = head_dim - rank;
    let input = input(b, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
    let Scratch { qkv, latent: LatentScratch { down, q_down, queries, head_in, head_out }, .. } = s;
    b.linear(step, &w.qkv, input, down)?;
    let (q_cols, width) = (q_rank.unwrap_or(spec.projected_q_dim()), spec.projection_dim());
    b.rms_norm_heads(step, down, q_cols + turned..width, &up.kv_norm, eps)?;
    let at = |first, stride, width| Heads::Columns { first, stride, width };
    let (q, q_width): (&B::Act, usize) = match (&up.q, q_rank) {
        (Some((norm, project)), Some(q_rank)) => {
            b.rms_norm_heads(step, down, 0..q_rank, norm, eps)?;
            b.rearrange(step, down, at(0, 0, width), q_down, at(0, 0, q_rank), 1, q_rank)?;
            b.linear(step, project, q_down, queries)?;
            (queries, spec.projected_q_dim())
        }
        _ => (down, width),
    };
    let stride = turned + plain;
    b.rearrange(step, q, at(turned, stride, q_width), head_in, Heads::Rows, heads, plain)?;
    b.linear_heads(step, &up.k_up, head_in, head_out)?;
    let all = spec.qkv_dim();
    b.rearrange(step, q, at(0, stride, q_width), qkv, at(0, head_dim, all), heads, turned)?;
    b.rearrange(step, head_out, Heads::Rows, qkv, at(turned, head_dim, all), heads, rank)?;
    for copy in [heads, heads + 1] {
        b.rearrange(step, down, at(q_cols, 0, width), qkv, at(copy * head_dim, 0, all), 1, head_dim)?;
    }
    if let Some(rope) = spec.rope {
        b.rope(step, qkv, 0..(heads + 1) * head_dim, head_dim, rope)?;
    }
    b.kv_write(step, kv, layer, spec, qkv)
}

/// [`Backend::attn_out`] of latent attention.
pub fn latent_out<B: Backend>(
    b: &B,
    step: &mut B::Step,
    spec: &AttnSpec,
    latent: &LatentSpec,
    w: &AttnWeights<B>,
    up: &LatentWeights<B>,
    s: &mut Scratch<B>,
) -> Result<()> {
    let AttnSpec { heads, head_dim, .. } = *spec;
    let LatentSpec { rank, value, .. } = *latent;
    let LatentScratch { queries: values, head_in, head_out, .. } = &mut s.latent;
    let from = Heads::Columns { first: head_dim - rank, stride: head_dim, width: spec.q_dim() };
    b.rearrange(step, &s.attn, from, head_in, Heads::Rows, heads, rank)?;
    b.linear_heads(step, &up.v_up, head_in, head_out)?;
    let to = Heads::Columns { first: 0, stride: value, width: heads * value };
    b.rearrange(step, head_out, Heads::Rows, values, to, heads, value)?;
    b.linear(step, &w.out, values, &mut s.proj)?;
    residual(b, step, &w.out_bias, spec.norm, &w.post_norm, s)
}
