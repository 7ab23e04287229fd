//! Delta nets.

use crate::{norm, sigmoid};
use candle_core::{D, DType, Device, Result, Tensor};
use kinfer_core::backend::DeltaVectors;
use kinfer_core::{DeltaSpec, Run};

/// What a delta net keeps of sequences.
pub(crate) struct States {
    /// What is convolved at the last positions, `[states * (taps - 1), channels]`, each sequence's oldest first.
    past: Tensor,
    /// `[states * value_heads, key_dim, value_dim]`.
    heads: Tensor,
}

impl States {
    pub(crate) fn new(spec: &DeltaSpec, states: usize, device: &Device) -> Result<States> {
        let past = (states * (spec.taps - 1), spec.channels());
        let heads = (states * spec.value_heads, spec.key_dim, spec.value_dim);
        Ok(States {
            past: Tensor::zeros(past, DType::F32, device)?,
            heads: Tensor::zeros(heads, DType::F32, device)?,
        })
    }

    /// The gated delta rule of every row of `x`, `[rows, q | k | v | z | b | a]`: `[rows, all_values]`. Moves the states on.
    pub(crate) fn rule(
        &self,
        spec: &DeltaSpec,
        w: &DeltaVectors<Tensor>,
        runs: &[Run],
        x: &Tensor,
    ) -> Result<Tensor> {
        let runs = runs.iter().map(|run| self.run(spec, w, run, x));
        Tensor::cat(&runs.collect::<Result<Vec<_>>>()?, 0)
    }

    fn run(&self, spec: &DeltaSpec, w: &DeltaVectors<Tensor>, run: &Run, x: &Tensor) -> Result<Tensor> {
        let DeltaSpec { value_heads, key_dim, value_dim, taps, .. } = *spec;
        let (rows, state, channels) = (run.rows.len(), run.state as usize, spec.channels());
        let x = x.narrow(0, run.rows.start, rows)?;
        let (past_at, heads_at) = (state * (taps - 1), state * value_heads);
        let (past, mut heads) =
            (self.past.narrow(0, past_at, taps - 1)?, self.heads.narrow(0, heads_at, value_heads)?);
        let past = if run.start == 0 { past.zeros_like()? } else { past };
        if run.start == 0 {
            heads = heads.zeros_like()?;
        }
        let all = Tensor::cat(&[past, x.narrow(1, 0, channels)?], 0)?;
        self.past.slice_set(&all.narrow(0, rows, taps - 1)?.contiguous()?, 0, past_at)?;
        let weights = w.taps.reshape((taps, channels))?;
        let mut sum = all.narrow(0, 0, rows)?.broadcast_mul(&weights.narrow(0, 0, 1)?)?;
        for j in 1..taps {
            sum = (sum + all.narrow(0, j, rows)?.broadcast_mul(&weights.narrow(0, j, 1)?)?)?;
        }
        let convolved = sum.silu()?;

        // The key head of each value head.
        let mut key_of = vec![0u32; value_heads];
        for key in 0..spec.key_heads {
            (0..spec.group()).for_each(|i| key_of[spec.value_head(key, i)] = key as u32);
        }
        let key_of = Tensor::new(key_of, x.device())?;
        // [rows, value_heads, key_dim]
        let of_keys = |first: usize| {
            let heads = convolved.narrow(1, first, spec.all_keys())?.contiguous()?;
            let heads = heads.reshape((rows, spec.key_heads, key_dim))?.index_select(&key_of, 1)?;
            let length = (heads.sqr()?.sum_keepdim(D::Minus1)? + f64::from(DeltaSpec::LENGTH_EPS))?.sqrt()?;
            heads.broadcast_div(&length)
        };
        let (q, k) = ((of_keys(0)? / (key_dim as f64).sqrt())?, of_keys(spec.all_keys())?);
        // [rows, value_heads, ..]
        let part = |t: &Tensor, first: usize, width: usize| {
            t.narrow(1, first, value_heads * width)?.contiguous()?.reshape((rows, value_heads, width))
        };
        let v = part(&convolved, 2 * spec.all_keys(), value_dim)?;
        let z = part(&x, channels, value_dim)?;
        let betas = channels + spec.all_values();
        let beta = sigmoid(&part(&x, betas, 1)?)?;
        let a =
            part(&x, betas + value_heads, 1)?.broadcast_add(&w.dt_bias.reshape((1, value_heads, 1))?)?;
        // ln(1 + e^a), whatever the size of a.
        let softplus = (a.relu()? + (a.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let decay = softplus.broadcast_mul(&w.decay.reshape((1, value_heads, 1))?)?.exp()?;

        let mut outputs = Vec::with_capacity(rows);
        for r in 0..rows {
            let at = |t: &Tensor| t.get(r)?.contiguous();
            heads = heads.broadcast_mul(&at(&decay)?.unsqueeze(2)?)?;
            let k = at(&k)?.unsqueeze(2)?;
            let known = heads.broadcast_mul(&k)?.sum(1)?;
            let change = (at(&v)? - known)?.broadcast_mul(&at(&beta)?)?;
            heads = (heads + k.broadcast_mul(&change.unsqueeze(1)?)?)?;
            outputs.push(heads.broadcast_mul(&at(&q)?.unsqueeze(2)?)?.sum(1)?);
        }
        self.heads.slice_set(&heads.contiguous()?, 0, heads_at)?;
        let y = norm(&Tensor::stack(&outputs, 0)?, &w.norm, spec.norm.eps)?;
        (y * z.silu()?)?.reshape((rows, spec.all_values()))
    }
}
