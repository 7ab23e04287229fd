//! Gated short convolutions.

use crate::act::View;
use crate::kv::Tails;
use crate::stages::{norm_rows, rounded};
use crate::team::Worker;
use crate::weight::Input;
use crate::{Act, Cpu, Kv, Step};
use kinfer_core::ConvSpec;
use kinfer_core::backend::{ConvWeights, Scratch};
use kinfer_kernels::ops::ConvRow;

/// Channels that one item takes: whole cache lines, and enough items for many threads.
const CHANNELS: usize = 64;

#[allow(clippy::too_many_arguments)]
pub(crate) fn short_conv(
    cpu: &Cpu,
    step: &Step,
    kv: &mut Kv,
    layer: usize,
    spec: &ConvSpec,
    taps: &[f32],
    bcx: &Act,
    out: &mut Act,
) {
    out.shape(bcx.rows(), spec.width);
    let (tails, bcx, out) = (kv.tails(layer), bcx.view(), out.view_mut());
    // SAFETY: the cache is borrowed exclusively; items are split over the workers.
    cpu.team.run(|worker| unsafe { convolve(cpu, step, spec, taps, tails, bcx, out, worker) });
}

/// Equals its default bit for bit.
pub(crate) fn conv_in(
    cpu: &Cpu,
    step: &Step,
    spec: &ConvSpec,
    w: &ConvWeights<Cpu>,
    kv: &mut Kv,
    layer: usize,
    s: &mut Scratch<Cpu>,
) {
    let ConvSpec { width, taps: _, norm: norm_spec } = *spec;
    let ConvWeights { norm, bcx, taps, out: _ } = w;
    let rows = s.x.rows();
    s.norm.shape(rows, s.x.width());
    s.qkv.shape(rows, bcx.rows());
    s.attn.shape(rows, width);
    let mut guard;
    let (x, projected, out) = (s.x.view(), s.qkv.view_mut(), s.attn.view_mut());
    let input = Input { float: s.norm.view_mut(), rounded: rounded!(s.norm, guard) };
    let (tails, roles) = (kv.tails(layer), step.roles_of(rows));
    cpu.team.run(|worker| {
        // SAFETY: rows are normed each by one worker, output columns written each by the worker that has their group, items of the
        // convolution split over the workers; barriers lie between.
        unsafe {
            let scratch = step.scratch.of(worker.id);
            norm_rows(cpu, x, norm, norm_spec, input, bcx, roles, worker.share(rows), scratch);
            worker.barrier();
            for rows in bcx.passes(roles) {
                bcx.multiply(bcx.share(worker), input, roles[rows.start], rows.clone(), projected);
            }
            worker.barrier();
            convolve(cpu, step, spec, taps, tails, projected, out, worker);
        }
    });
}

/// A worker's share of the convolution: items are some channels of a run, whose rows follow one another.
///
/// # Safety
/// Inputs are complete. Nobody else accesses `out`, or the tails of the blocks that the step's runs write. The worker's scratch is free.
#[allow(clippy::too_many_arguments)]
unsafe fn convolve(
    cpu: &Cpu,
    step: &Step,
    spec: &ConvSpec,
    taps: &[f32],
    tails: &Tails,
    bcx: View,
    out: View,
    worker: &Worker<'_>,
) {
    let ConvSpec { width, taps: count, norm: _ } = *spec;
    // SAFETY: by this function's contract.
    let scratch = unsafe { step.scratch.of(worker.id) };
    let (groups, behind) = (width.div_ceil(CHANNELS), count - 1);
    for item in worker.share(step.runs.len() * groups) {
        let (run, first) = (&step.runs[item / groups], item % groups * CHANNELS);
        let cols = first..width.min(first + CHANNELS);
        let (table, n) = (step.table(run), cols.len());
        let past = &mut scratch[..behind * n];
        for (j, row) in past.chunks_exact_mut(n).enumerate() {
            let Some(p) = (run.start + j).checked_sub(behind) else {
                row.fill(0.0);
                continue;
            };
            // SAFETY: these channels of the run's own tails are this worker's; blocks before those that it writes are only read.
            let cached = unsafe { tails.row(spec.tail_row(table, p), cols.clone()) };
            row.copy_from_slice(cached);
        }
        let (mut oldest, end) = (0, run.start + run.rows.len());
        for (p, r) in (run.start..end).zip(run.rows.clone()) {
            let part = |i: usize| i * width + cols.start..i * width + cols.end;
            // SAFETY: inputs are complete; these columns of this row are this worker's.
            let (row, out) = unsafe {
                let [b, c, x] = [0, 1, 2].map(|i| bcx.row(r, part(i)));
                (ConvRow { b, c, x, taps: &taps[cols.start..], stride: width }, out.row_mut(r, cols.clone()))
            };
            cpu.ops.short_conv(row, past, oldest, out);
            if spec.in_tail(p, end) {
                // SAFETY: as above.
                let to = unsafe { tails.row_mut(spec.tail_row(table, p), cols.clone()) };
                to.copy_from_slice(&past[oldest * n..(oldest + 1) * n]);
            }
            oldest = (oldest + 1) % behind;
        }
    }
}
