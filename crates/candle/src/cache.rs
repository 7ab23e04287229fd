//! The paged cache, attention over it, and convolutions beside it.

use crate::delta::States;
use crate::{cat, softcap};
use candle_core::{D, DType, Device, Result, Tensor};
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{AttnSpec, ConvSpec, Error, KvType, KvTypes, Mask, PartSpec, Run};

/// Keys and values of the attention blocks of a part, and the tails of its convolutions, by block id; and the states of its delta nets.
pub struct Kv {
    layers: Vec<KvLayer>,
    /// Each `[blocks * tail, width]`.
    tails: Vec<Tensor>,
    /// Of the delta nets.
    pub(crate) states: Vec<States>,
}

/// One layer's keys and values, each `[blocks * BLOCK_LEN, kv_heads, head_dim]`.
struct KvLayer {
    k: Tensor,
    v: Tensor,
}

/// Where position `p` of a run lies in the cache.
fn slot(run: &Run, blocks: &[u32], p: usize) -> usize {
    blocks[run.blocks.start + p / BLOCK_LEN] as usize * BLOCK_LEN + p % BLOCK_LEN
}

/// A tensor's type for keys or values.
fn dtype(kind: KvType) -> kinfer_core::Result<DType> {
    match kind {
        KvType::F32 => Ok(DType::F32),
        KvType::F16 => Ok(DType::F16),
        KvType::Bf16 => Ok(DType::BF16),
        KvType::Q8_0 | KvType::Q4_0 => {
            Err(Error::CacheType { device: "candle".into(), kind, supported: "f32, f16 and bf16".into() })
        }
    }
}

impl Kv {
    /// A cache of zeros; the outer error is a type that candle does not have.
    pub(crate) fn new(
        part: &PartSpec,
        blocks: usize,
        states: usize,
        types: KvTypes,
        device: &Device,
    ) -> kinfer_core::Result<Result<Self>> {
        let (k, v) = (dtype(types.k)?, dtype(types.v)?);
        let layer = |a: &AttnSpec| {
            let shape = (blocks * BLOCK_LEN, a.kv_heads, a.head_dim);
            Ok(KvLayer { k: Tensor::zeros(shape, k, device)?, v: Tensor::zeros(shape, v, device)? })
        };
        let tails = |c: &ConvSpec| Tensor::zeros((blocks * c.tail(), c.width), DType::F32, device);
        Ok((|| {
            let layers = part.attn.iter().map(layer).collect::<Result<_>>()?;
            let tails = part.conv.iter().map(tails).collect::<Result<_>>()?;
            let states = part.delta.iter().map(|spec| States::new(spec, states, device));
            Ok(Kv { layers, tails, states: states.collect::<Result<_>>()? })
        })())
    }

    pub(crate) fn bytes(part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        let position = |a: &AttnSpec| a.kv_heads * types.row_bytes(a.head_dim);
        let attn = (blocks * BLOCK_LEN) as u64 * part.attn.iter().map(|a| position(a) as u64).sum::<u64>();
        let tails: u64 = part.conv.iter().map(|c| c.tail_bytes(blocks) as u64).sum();
        attn + tails + part.delta.iter().map(|d| d.state_bytes(states) as u64).sum::<u64>()
    }

    /// The gated short convolution of every row of `bcx`, `[rows, b | c | x]`: `[rows, width]`. Keeps the tails.
    pub(crate) fn short_conv(
        &self,
        layer: usize,
        spec: &ConvSpec,
        taps: &Tensor,
        runs: &[Run],
        blocks: &[u32],
        bcx: &Tensor,
    ) -> Result<Tensor> {
        let ConvSpec { width, taps: count, norm: _ } = *spec;
        let (tails, taps, device) = (&self.tails[layer], taps.reshape((count, width))?, bcx.device());
        let run = |run: &Run| {
            let rows = run.rows.len();
            let part = |i| bcx.narrow(0, run.rows.start, rows)?.narrow(1, i * width, width);
            let (now, gate, table) = ((part(0)? * part(2)?)?, part(1)?, &blocks[run.blocks.clone()]);
            // Zeros, what is cached, and this run: its row `p` reads `count` rows from row `p` on.
            let cached = run.start.min(count - 1);
            let mut all = vec![Tensor::zeros((count - 1 - cached, width), DType::F32, device)?];
            if cached > 0 {
                let at = (run.start - cached..run.start).map(|p| spec.tail_row(table, p) as u32);
                all.push(tails.index_select(&Tensor::from_iter(at, device)?, 0)?);
            }
            all.push(now.clone());
            let all = cat(&all, 0)?;
            let mut sum = now.zeros_like()?;
            for j in 0..count {
                sum = (sum + all.narrow(0, j, rows)?.broadcast_mul(&taps.narrow(0, j, 1)?)?)?;
            }
            let end = run.start + rows;
            for p in (run.start..end).filter(|&p| spec.in_tail(p, end)) {
                let row = now.narrow(0, p - run.start, 1)?.contiguous()?;
                tails.slice_set(&row, 0, spec.tail_row(table, p))?;
            }
            gate * sum
        };
        Tensor::cat(&runs.iter().map(run).collect::<Result<Vec<_>>>()?, 0)
    }

    /// Writes the keys and values in `qkv`, `[rows, q_dim | kv_dim | kv_dim]`, at each row's position.
    pub(crate) fn write(
        &self,
        layer: usize,
        spec: &AttnSpec,
        runs: &[Run],
        blocks: &[u32],
        qkv: &Tensor,
    ) -> Result<()> {
        let rows = qkv.dim(0)?;
        let part = |from, dtype| {
            qkv.narrow(1, from, spec.kv_dim())?
                .reshape((rows, spec.kv_heads, spec.head_dim))?
                .to_dtype(dtype)?
                .contiguous()
        };
        let to = &self.layers[layer];
        let k = part(spec.q_dim(), to.k.dtype())?;
        let v = part(spec.q_dim() + spec.kv_dim(), to.v.dtype())?;
        for run in runs {
            let end = run.start + run.rows.len();
            let mut p = run.start;
            while p < end {
                let n = (BLOCK_LEN - p % BLOCK_LEN).min(end - p);
                let (row, slot) = (run.rows.start + p - run.start, slot(run, blocks, p));
                to.k.slice_set(&k.narrow(0, row, n)?, 0, slot)?;
                to.v.slice_set(&v.narrow(0, row, n)?, 0, slot)?;
                p += n;
            }
        }
        Ok(())
    }

    /// `softmax(scale * q.k) v` for every row of `qkv`: `[rows, q_dim]`.
    pub(crate) fn attend(
        &self,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Tensor>,
        runs: &[Run],
        blocks: &[u32],
        qkv: &Tensor,
    ) -> Result<Tensor> {
        let cache = &self.layers[layer];
        let runs = runs.iter().map(|run| attend_run(cache, spec, sinks, run, blocks, qkv));
        Tensor::cat(&runs.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// Attention of one run's rows over the keys that any of them sees: `[run rows, q_dim]`.
fn attend_run(
    cache: &KvLayer,
    spec: &AttnSpec,
    sinks: Option<&Tensor>,
    run: &Run,
    blocks: &[u32],
    qkv: &Tensor,
) -> Result<Tensor> {
    let AttnSpec {
        heads,
        kv_heads,
        head_dim,
        scale,
        mask,
        window,
        softcap: cap,
        alibi,
        rope: _,
        norm: _,
        qk_norm: _,
        gated: _,
        latent: _,
    } = spec;
    let (rows, group) = (run.rows.len(), heads / kv_heads);
    let end = run.start + rows;
    let oldest = |p: usize| window.map_or(0, |w| (p + 1).saturating_sub(w));
    let first = oldest(run.start);
    let device = qkv.device();

    let slots: Vec<u32> = (first..end).map(|p| slot(run, blocks, p) as u32).collect();
    let keys = slots.len();
    let slots = Tensor::from_vec(slots, keys, device)?;
    // [kv_heads, keys, head_dim]
    let load = |t: &Tensor| t.index_select(&slots, 0)?.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous();
    let (k, v) = (load(&cache.k)?, load(&cache.v)?);
    // [kv_heads, rows * group, head_dim]
    let q = qkv
        .narrow(0, run.rows.start, rows)?
        .narrow(1, 0, spec.q_dim())?
        .reshape((rows, *kv_heads, group, *head_dim))?
        .transpose(0, 1)?
        .reshape((*kv_heads, rows * group, *head_dim))?;

    let mut scores = (q.matmul(&k.t()?)? * f64::from(*scale))?;
    if let Some(cap) = cap {
        scores = softcap(&scores, *cap)?;
    }
    let newest = |p: usize| match mask {
        Mask::Causal => p,
        Mask::Bidirectional => window.map_or(end - 1, |w| (p + w - 1).min(end - 1)),
    };
    let mut mask = vec![f32::NEG_INFINITY; rows * keys];
    for (row, p) in mask.chunks_exact_mut(keys).zip(run.start..) {
        row[oldest(p) - first..=newest(p) - first].fill(0.0);
    }
    let mask = Tensor::from_vec(mask, (1, rows, 1, keys), device)?;
    let mut scores = scores.reshape((*kv_heads, rows, group, keys))?.broadcast_add(&mask)?;
    if let Some(slopes) = alibi {
        let distance = (run.start..end).flat_map(|p| (first..end).map(move |key| -(p.abs_diff(key) as f32)));
        let distance = Tensor::from_iter(distance, device)?.reshape((1, rows, 1, keys))?;
        let slopes = Tensor::new(&slopes[..], device)?.reshape((*kv_heads, 1, group, 1))?;
        scores = scores.broadcast_add(&distance.broadcast_mul(&slopes)?)?;
    }
    // A sink is one more key, whose value is nothing.
    let scores = match sinks {
        Some(sinks) => {
            let sinks = sinks.reshape((*kv_heads, 1, group, 1))?.broadcast_as((*kv_heads, rows, group, 1))?;
            Tensor::cat(&[&scores, &sinks.contiguous()?], 3)?
        }
        None => scores,
    };
    let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let probs = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.narrow(3, 0, keys)?.contiguous()?;

    probs
        .reshape((*kv_heads, rows * group, keys))?
        .matmul(&v)?
        .reshape((*kv_heads, rows, group, *head_dim))?
        .transpose(0, 1)?
        .reshape((rows, spec.q_dim()))
}
