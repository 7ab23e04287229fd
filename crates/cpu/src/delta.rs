//! Delta nets.

use crate::act::View;
use crate::kv::States;
use crate::stages::{norm_rows, rounded};
use crate::team::Worker;
use crate::weight::Input;
use crate::{Act, Cpu, Kv, Step};
use kinfer_core::DeltaSpec;
use kinfer_core::backend::{DeltaVectors, DeltaWeights, Scratch};
use kinfer_kernels::ops::{ConvTaps, DeltaRow};

/// Scratch floats of a worker: convolved queries, keys and values of a key head, and a value head's output.
pub(crate) fn scratch_len(spec: &DeltaSpec) -> usize {
    2 * spec.key_dim + (spec.group() + 1) * spec.value_dim
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn delta_rule(
    cpu: &Cpu,
    step: &Step,
    kv: &mut Kv,
    layer: usize,
    spec: &DeltaSpec,
    w: &DeltaVectors<Vec<f32>>,
    x: &Act,
    out: &mut Act,
) {
    out.shape(x.rows(), spec.all_values());
    let (states, x, out) = (kv.states(layer), x.view(), out.view_mut());
    // SAFETY: the cache is borrowed exclusively; items are split over the workers.
    cpu.team.run(|worker| unsafe { run(cpu, step, spec, w, states, x, out, worker) });
}

/// Equals its default bit for bit.
pub(crate) fn delta_in(
    cpu: &Cpu,
    step: &Step,
    spec: &DeltaSpec,
    w: &DeltaWeights<Cpu>,
    kv: &mut Kv,
    layer: usize,
    s: &mut Scratch<Cpu>,
) {
    let DeltaWeights { norm, input: weight, rule, out: _ } = w;
    let rows = s.x.rows();
    s.norm.shape(rows, s.x.width());
    s.qkv.shape(rows, weight.rows());
    s.attn.shape(rows, spec.all_values());
    let mut guard;
    let (x, projected, out) = (s.x.view(), s.qkv.view_mut(), s.attn.view_mut());
    let input = Input { float: s.norm.view_mut(), rounded: rounded!(s.norm, guard) };
    let (states, roles) = (kv.states(layer), step.roles_of(rows));
    cpu.team.run(|worker| {
        // SAFETY: rows are normed each by one worker, output columns written each by the worker that has their group, items of the rule
        // split over the workers; barriers lie between.
        unsafe {
            let scratch = step.scratch.of(worker.id);
            norm_rows(cpu, x, norm, spec.norm, input, weight, roles, worker.share(rows), scratch);
            worker.barrier();
            for rows in weight.passes(roles) {
                weight.multiply(weight.share(worker), input, roles[rows.start], rows.clone(), projected);
            }
            worker.barrier();
            run(cpu, step, spec, rule, states, projected, out, worker);
        }
    });
}

/// A worker's share of the rule: items are a key head of a run with its value heads, whose rows follow one another.
///
/// # Safety
/// Inputs are complete. Nobody else accesses `out`, or the states of the step's runs. The worker's scratch is free.
#[allow(clippy::too_many_arguments)]
unsafe fn run(
    cpu: &Cpu,
    step: &Step,
    spec: &DeltaSpec,
    w: &DeltaVectors<Vec<f32>>,
    states: &States,
    x: View,
    out: View,
    worker: &Worker<'_>,
) {
    let DeltaSpec { key_heads, value_heads, key_dim, value_dim, sharing: _, taps, norm: norm_spec } = *spec;
    let DeltaVectors { taps: weights, decay, dt_bias, norm } = w;
    let (group, behind) = (spec.group(), taps - 1);
    // Where the parts of a row begin.
    let (keys, values) = (spec.all_keys(), 2 * spec.all_keys());
    let (z, betas) = (spec.channels(), spec.channels() + spec.all_values());
    // SAFETY: by this function's contract.
    let scratch = unsafe { step.scratch.of(worker.id) };
    let (convolved, rest) = scratch.split_at_mut(2 * key_dim + group * value_dim);
    let (read, _) = rest.split_at_mut(value_dim);
    for item in worker.share(step.runs.len() * key_heads) {
        let (run, key) = (&step.runs[item / key_heads], item % key_heads);
        // SAFETY: this head of this state is this worker's.
        let state = unsafe { states.head_mut(run.state as usize, key) };
        if run.start == 0 {
            state.fill(0.0);
        }
        let (past, heads) = state.split_at_mut(behind * convolved.len());
        // Columns of each head that is convolved, one behind the other.
        let columns = |i: usize| match i {
            0 => key * key_dim..(key + 1) * key_dim,
            1 => keys + key * key_dim..keys + (key + 1) * key_dim,
            _ => {
                let first = values + spec.value_head(key, i - 2) * value_dim;
                first..first + value_dim
            }
        };
        for (p, r) in (run.start..).zip(run.rows.clone()) {
            let mut at = 0;
            for i in 0..group + 2 {
                let cols = columns(i);
                let to = at..at + cols.len();
                let conv = ConvTaps {
                    taps: &weights[cols.start..],
                    stride: spec.channels(),
                    past: &mut past[at..],
                    past_stride: convolved.len(),
                    behind,
                    oldest: p % behind,
                };
                // SAFETY: inputs are complete.
                cpu.ops.causal_conv(unsafe { x.row(r, cols) }, conv, &mut convolved[to.clone()]);
                at = to.end;
            }
            cpu.ops.silu(convolved);
            let (q, rest) = convolved.split_at_mut(key_dim);
            let (k, v) = rest.split_at_mut(key_dim);
            cpu.ops.to_length(q, 1.0 / (key_dim as f32).sqrt(), DeltaSpec::LENGTH_EPS);
            cpu.ops.to_length(k, 1.0, DeltaSpec::LENGTH_EPS);
            let heads = heads.chunks_exact_mut(key_dim * value_dim).zip(v.chunks_exact(value_dim));
            for (i, (state, v)) in heads.enumerate() {
                let h = spec.value_head(key, i);
                let cols = h * value_dim..(h + 1) * value_dim;
                // SAFETY: inputs are complete; these columns of this row are this worker's.
                let (gate, b, a, out) = unsafe {
                    let one = |at: usize| x.row(r, at..at + 1)[0];
                    let gate = x.row(r, z + cols.start..z + cols.end);
                    (gate, one(betas + h), one(betas + value_heads + h), out.row_mut(r, cols))
                };
                let row = DeltaRow {
                    q,
                    k,
                    v,
                    decay: (decay[h] * softplus(a + dt_bias[h])).exp(),
                    beta: 1.0 / (1.0 + (-b).exp()),
                };
                cpu.ops.delta_rule(row, state, out);
                cpu.ops.rms_norm(out, norm, norm_spec.eps, read);
                cpu.ops.silu_mul(gate, read, out);
            }
        }
    }
}

/// `ln(1 + e^x)`.
fn softplus(x: f32) -> f32 {
    // From here on it is `x` in float.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
