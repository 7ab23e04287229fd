//! Fused stages. Each equals its default in [`kinfer_core::backend`] bit for bit; the backend suite compares them.

use crate::act::View;
use crate::step::{ATTN_ROWS, BLOCK_FLOATS};
use crate::team::Worker;
use crate::weight::{Input, Weight};
use crate::{Act, Cpu, Kv, Step};
use kinfer_core::backend::{AttnWeights, FfnWeights, NormWeights, Scratch};
use kinfer_core::batch::{BLOCK_LEN, Role};
use kinfer_core::{AttnSpec, FfnSpec, Mask, NormSpec, QkNorm};
use kinfer_kernels::bf16::TileAttend;
use kinfer_kernels::ops::{Attend, KvRows, partial_len};
use kinfer_kernels::pack::ROWS;
use std::ops::Range;

const _: () = assert!(BLOCK_LEN == kinfer_kernels::ops::BLOCK_LEN);

/// Locks the rounded form of activations for the caller's stage.
macro_rules! rounded {
    ($act:expr, $guard:ident) => {{
        $guard = $act.rounded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        $guard.view($act.width())
    }};
}
pub(crate) use rounded;

pub(crate) fn attn_in(
    cpu: &Cpu,
    step: &Step,
    spec: &AttnSpec,
    w: &AttnWeights<Cpu>,
    kv: &mut Kv,
    layer: usize,
    s: &mut Scratch<Cpu>,
) {
    let AttnSpec {
        heads,
        kv_heads: _,
        head_dim,
        scale: _,
        mask: _,
        window: _,
        softcap: _,
        alibi: _,
        rope,
        norm: norm_spec,
        qk_norm,
        gated: _,
        latent: _,
    } = spec;
    let AttnWeights {
        norm,
        qkv,
        qkv_bias,
        q_norm,
        k_norm,
        sinks: _,
        latent: _,
        out: _,
        out_bias: _,
        post_norm: _,
    } = w;
    let rows = s.x.rows();
    s.norm.shape(rows, s.x.width());
    s.qkv.shape(rows, spec.projection_dim());
    let mut guard;
    let (x, out) = (s.x.view(), s.qkv.view_mut());
    let normed = s.norm.view_mut();
    let input = Input { float: normed, rounded: rounded!(s.norm, guard) };
    // Norms but the most common ones come before the work is split by heads.
    let by_row = qk_norm.filter(|&kind| kind != QkNorm::Heads && (q_norm.is_some() || k_norm.is_some()));
    let (kv, roles) = (&*kv, step.roles_of(rows));
    cpu.team.run(|worker| {
        // SAFETY: rows are normed each by one worker, output columns written each by the worker that has their group,
        // heads finished each by one worker; barriers lie between.
        unsafe {
            let scratch = step.scratch.of(worker.id);
            norm_rows(cpu, x, norm, *norm_spec, input, qkv, roles, worker.share(rows), scratch);
            worker.barrier();
            for rows in qkv.passes(roles) {
                let cols = qkv.multiply(qkv.share(worker), input, roles[rows.start], rows.clone(), out);
                if let Some(bias) = qkv_bias {
                    add_bias(cpu, out, &bias[cols.clone()], rows, cols);
                }
            }
            worker.barrier();
            let (q_norm, k_norm) = match by_row {
                None => {
                    let [q, k] = [q_norm, k_norm].map(|norm| norm.as_ref().map(|n| n.weight.as_slice()));
                    (q, k)
                }
                Some(kind) => {
                    let k = spec.q_dim()..spec.q_dim() + spec.kv_dim();
                    for r in worker.share(rows) {
                        for (norm, cols) in [(q_norm, 0..k.start), (k_norm, k.clone())] {
                            let Some(NormWeights { weight, bias }) = norm else { continue };
                            let (x, eps) = (out.row_mut(r, cols.clone()), norm_spec.eps);
                            match kind {
                                QkNorm::Heads | QkNorm::Rows => cpu.ops.rms_norm_heads(x, weight, eps),
                                QkNorm::LayerHeads | QkNorm::LayerRows => {
                                    let width = spec.qk_norm_width(cols.len());
                                    cpu.ops.layer_norm_heads(x, width, weight, bias.as_deref(), eps);
                                }
                            }
                        }
                    }
                    worker.barrier();
                    (None, None)
                }
            };
            for unit in worker.share(rows * heads) {
                let (r, h) = (unit / heads, unit % heads);
                let head = out.row_mut(r, h * head_dim..(h + 1) * head_dim);
                finish_head(cpu, step, head, q_norm, norm_spec.eps, *rope, r);
            }
            keys(cpu, step, spec, Some((k_norm, *rope)), kv, layer, out, worker);
        }
    });
}

/// Norm and rotary embedding of one head of row `r`.
fn finish_head(
    cpu: &Cpu,
    step: &Step,
    head: &mut [f32],
    norm: Option<&[f32]>,
    eps: f32,
    rope: Option<usize>,
    r: usize,
) {
    if let Some(weight) = norm {
        cpu.ops.rms_norm_heads(head, weight, eps);
    }
    if let Some(rope) = rope {
        let (cos, sin) = step.rope(rope, r);
        cpu.ops.rope(head, head.len(), cos, sin);
    }
}

/// A worker's share of the keys and values: with `finish`, norms and turns the keys first; then writes both to the cache.
///
/// # Safety
/// Nobody else accesses the key and value columns of `qkv` or the positions written.
#[allow(clippy::too_many_arguments)]
unsafe fn keys(
    cpu: &Cpu,
    step: &Step,
    spec: &AttnSpec,
    finish: Option<(Option<&[f32]>, Option<usize>)>,
    kv: &Kv,
    layer: usize,
    qkv: View,
    worker: &Worker<'_>,
) {
    let cache = kv.layer(layer);
    let dim = spec.head_dim;
    for unit in worker.share(step.chunks.len() * spec.kv_heads) {
        let ((run, first, n), j) = (step.chunks[unit / spec.kv_heads], unit % spec.kv_heads);
        let (run, first, n) = (&step.runs[run as usize], first as usize, n as usize);
        let k = spec.q_dim() + j * dim;
        let v = k + spec.kv_dim();
        let position = run.start + first - run.rows.start;
        let block = step.table(run)[position / BLOCK_LEN];
        // SAFETY: these columns of these rows, and this head of this block, are this worker's.
        let head = unsafe { cache.head_mut(block, j) };
        for r in first..first + n {
            // SAFETY: as above.
            let (key, value) = unsafe { (qkv.row_mut(r, k..k + dim), qkv.row(r, v..v + dim)) };
            if let Some((norm, rope)) = finish {
                finish_head(cpu, step, key, norm, spec.norm.eps, rope, r);
            }
            let slot = position % BLOCK_LEN + r - first;
            let rows = KvRows { k: key, v: value, stride: dim, rows: 1, slot };
            cpu.ops.kv_write(cache.layout, head, rows);
        }
    }
}

pub(crate) fn kv_write(cpu: &Cpu, step: &Step, kv: &mut Kv, layer: usize, spec: &AttnSpec, qkv: &Act) {
    let kv = &*kv;
    let view = qkv.view();
    cpu.team.run(|worker| {
        // SAFETY: units are split over the workers; without `finish` the keys are only read.
        unsafe { keys(cpu, step, spec, None, kv, layer, view, worker) }
    });
}

/// Attention, by items: the queries of one tile of rows and one KV head.
///
/// Where there are too few items to keep the team busy, as when one sequence decodes, their partitions are computed as items of
/// their own, and merged after a barrier in the order in which an item computes them by itself.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attend(
    cpu: &Cpu,
    step: &mut Step,
    kv: &Kv,
    layer: usize,
    spec: &AttnSpec,
    sinks: Option<&[f32]>,
    qkv: &Act,
    out: &mut Act,
) {
    let AttnSpec {
        heads,
        kv_heads,
        head_dim,
        scale,
        mask,
        window,
        softcap,
        ref alibi,
        rope: _,
        norm: _,
        qk_norm: _,
        gated: _,
        latent: _,
    } = *spec;
    out.shape(qkv.rows(), spec.q_dim());
    let cache = kv.layer(layer);
    // SAFETY: nobody writes the cache in this stage.
    let bytes = unsafe { cache.bytes() };
    let group = heads / kv_heads;
    let out = out.view_mut();
    let mut partials = std::mem::replace(&mut step.partials, crate::mem::Buffer::new(0));
    let step_ref = &*step;
    let item = |i: usize| {
        let ((run, first, n), kv_head) = (step_ref.tiles[i / kv_heads], i % kv_heads);
        let (run, first) = (&step_ref.runs[run as usize], first as usize);
        let a = Attend {
            layout: cache.layout,
            cache: bytes,
            table: step_ref.table(run),
            kv_head,
            group,
            q: &qkv.data()[first * qkv.stride() + kv_head * group * head_dim..],
            q_stride: qkv.stride(),
            rows: n as usize,
            start: run.start + first - run.rows.start,
            whole: (mask == Mask::Bidirectional).then_some(run.start + run.rows.len()),
            window,
            scale,
            softcap,
            alibi: alibi.as_ref().map(|slopes| &slopes[kv_head * group..(kv_head + 1) * group]),
            sinks: sinks.map(|s| &s[kv_head * group..(kv_head + 1) * group]),
        };
        (a, first)
    };
    let tiles_len = TileAttend::scratch_len(head_dim, ATTN_ROWS * group);
    let on_tiles =
        |first: usize| cpu.convert.filter(|_| step_ref.roles_of(step_ref.rows())[first] == Role::Prompt);
    let items = step.tiles.len() * kv_heads;
    let threads = cpu.team.threads();
    let len = partial_len(head_dim);
    let pieces: usize = (0..items).map(|i| item(i).0.partitions().len()).sum();
    let floats: usize = (0..items).map(|i| item(i).0).map(|a| a.partitions().len() * a.queries() * len).sum();
    let split = threads > 1 && items < 2 * threads && pieces > items && floats <= partials.as_slice().len();

    let shared = View { ptr: partials.as_mut_slice().as_mut_ptr(), stride: 0, width: 0 };
    cpu.team.run(|worker| {
        // SAFETY: each worker has its own scratch.
        let (tiles, scratch) = unsafe { step_ref.scratch.of(worker.id) }.split_at_mut(tiles_len);
        if !split {
            while let Some(i) = worker.claim(items) {
                // The last rows of a prompt see the most keys: begin with them.
                let (a, first) = item(items - 1 - i);
                let n = a.queries() * len;
                let (work, result) = scratch.split_at_mut(2 * ATTN_ROWS * group * len);
                let mut tiles = on_tiles(first).and_then(|proof| TileAttend::new(proof, tiles));
                cpu.ops.attention(&a, &mut work[..2 * n], result, group * head_dim, tiles.as_mut());
                // SAFETY: this item's rows and columns are this worker's.
                unsafe { put(result, &a, first, out) };
            }
            return;
        }
        while let Some(piece) = worker.claim(pieces) {
            let (a, first, at, partition) = locate(items, piece, len, item);
            // SAFETY: each piece has its own part of the shared partial results.
            let dst = unsafe { shared.row_mut(0, at..at + a.queries() * len) };
            let mut tiles = on_tiles(first).and_then(|proof| TileAttend::new(proof, tiles));
            cpu.ops.attend(&a, partition, dst, tiles.as_mut());
        }
        worker.barrier();
        let mut at = 0;
        for i in 0..items {
            let (a, first) = item(i);
            let n = a.queries() * len;
            let end = at + a.partitions().len() * n;
            if i % threads == worker.id {
                // SAFETY: this item's partial results are this worker's after the barrier.
                let (sum, rest) = unsafe { shared.row_mut(0, at..end) }.split_at_mut(n);
                for next in rest.chunks_exact(n) {
                    cpu.ops.merge(head_dim, sum, next);
                }
                cpu.ops.finish(head_dim, group, sum, a.sinks, scratch, group * head_dim);
                // SAFETY: this item's rows and columns are this worker's.
                unsafe { put(scratch, &a, first, out) };
            }
            at = end;
        }
    });
    step.partials = partials;
}

/// Item, its first row, place of its partial results, and partition of a piece, pieces counted through all items.
fn locate<'a>(
    items: usize,
    piece: usize,
    len: usize,
    item: impl Fn(usize) -> (Attend<'a>, usize),
) -> (Attend<'a>, usize, usize, usize) {
    let (mut before, mut at, mut i) = (0, 0, 0);
    loop {
        let (a, first) = item(i);
        let live = a.partitions();
        if piece < before + live.len() || i + 1 == items {
            let p = piece - before;
            return (a, first, at + p * a.queries() * len, live.start + p);
        }
        before += live.len();
        at += live.len() * a.queries() * len;
        i += 1;
    }
}

/// Copies an item's outputs, `[rows, group * head_dim]`, to their place.
///
/// # Safety
/// Nobody else accesses them there meanwhile.
unsafe fn put(result: &[f32], a: &Attend<'_>, first: usize, out: View) {
    let width = a.group * a.layout.head_dim;
    for (r, row) in result.chunks_exact(width).take(a.rows).enumerate() {
        // SAFETY: by this function's contract.
        unsafe { out.row_mut(first + r, a.kv_head * width..(a.kv_head + 1) * width) }.copy_from_slice(row);
    }
}

pub(crate) fn attn_out(cpu: &Cpu, step: &Step, spec: &AttnSpec, w: &AttnWeights<Cpu>, s: &mut Scratch<Cpu>) {
    let AttnWeights {
        norm: _,
        qkv: _,
        qkv_bias: _,
        q_norm: _,
        k_norm: _,
        sinks: _,
        latent: _,
        out,
        out_bias,
        post_norm,
    } = w;
    mixer_out(cpu, step, spec.norm, out, out_bias.as_deref(), post_norm.as_ref(), s);
}

/// The end of attention, or of what takes its place: output projection, post-norm where there is one, and the residual.
pub(crate) fn mixer_out(
    cpu: &Cpu,
    step: &Step,
    norm_spec: NormSpec,
    out: &Weight,
    bias: Option<&[f32]>,
    post_norm: Option<&NormWeights<Cpu>>,
    s: &mut Scratch<Cpu>,
) {
    let rows = s.attn.rows();
    s.proj.shape(rows, out.rows());
    s.norm.shape(rows, out.rows());
    let mut guard;
    let input = Input { float: s.attn.view(), rounded: rounded!(s.attn, guard) };
    let residual = Residual {
        x: s.x.view_mut(),
        proj: s.proj.view_mut(),
        norm: s.norm.view_mut(),
        bias,
        post_norm,
        norm_spec,
    };
    let roles = step.roles_of(rows);
    cpu.team.run(|worker| {
        // SAFETY: rows are rounded each by one worker before the barrier; see `Residual::run`.
        unsafe {
            if out.wants_rounded() {
                for r in worker.share(rows) {
                    let row = input.float.row(r, 0..out.cols());
                    out.put(cpu, row, input, roles[r], r, 0..out.cols());
                }
                worker.barrier();
            }
            residual.run(cpu, worker, out, input, roles, step.scratch.of(worker.id));
        }
    });
}

pub(crate) fn ffn(cpu: &Cpu, step: &Step, spec: &FfnSpec, w: &FfnWeights<Cpu>, s: &mut Scratch<Cpu>) {
    let FfnSpec { hidden, gated: has_gate, act, norm: norm_spec, experts: _ } = *spec;
    let FfnWeights { norm, gate_up, gate_up_bias, down, down_bias, post_norm } = w;
    let rows = s.x.rows();
    s.norm.shape(rows, s.x.width());
    if has_gate {
        s.gate_up.shape(rows, 2 * hidden);
    }
    s.hidden.shape(rows, hidden);
    s.proj.shape(rows, down.rows());
    let (x, gated) = (s.x.view_mut(), s.hidden.view_mut());
    let both = if has_gate { s.gate_up.view_mut() } else { gated };
    let (mut guard, mut hidden_guard);
    let normed = s.norm.view_mut();
    let input = Input { float: normed, rounded: rounded!(s.norm, guard) };
    let inner = Input { float: gated, rounded: rounded!(s.hidden, hidden_guard) };
    let residual = Residual {
        x,
        proj: s.proj.view_mut(),
        norm: normed,
        bias: down_bias.as_deref(),
        post_norm: post_norm.as_ref(),
        norm_spec,
    };
    let roles = step.roles_of(rows);
    // Gate, up and rounded form of the same 32 columns can be one worker's when every block of 32 is two whole groups.
    let local = hidden.is_multiple_of(32) && gate_up.whole_groups();
    cpu.team.run(|worker| {
        // SAFETY: rows are normed each by one worker; hidden columns belong to the worker that computes gate and up of them
        // (or, if not local, rows after a barrier); see `Residual::run`.
        unsafe {
            let scratch = step.scratch.of(worker.id);
            norm_rows(cpu, x, norm, norm_spec, input, gate_up, roles, worker.share(rows), scratch);
            worker.barrier();
            let product = |groups: Range<usize>, rows: &Range<usize>, out: View| {
                let cols = gate_up.multiply(groups, input, roles[rows.start], rows.clone(), out);
                if let Some(bias) = gate_up_bias {
                    add_bias(cpu, out, &bias[cols.clone()], rows.clone(), cols);
                }
            };
            if local {
                let share = worker.share(hidden / 32);
                let (block, gated) = scratch.split_at_mut(BLOCK_FLOATS);
                for rows in gate_up.passes(roles) {
                    let width = BLOCK_FLOATS / 2 / rows.len() / 32;
                    for first in share.clone().step_by(width) {
                        let cols = 32 * first..32 * share.end.min(first + width);
                        let groups = cols.start / 16..cols.end / 16;
                        let (g, u) = block.split_at_mut(BLOCK_FLOATS / 2);
                        let gate = View::block(g, &rows, cols.clone());
                        product(groups.clone(), &rows, gate);
                        let (up_cols, up) = (hidden + cols.start..hidden + cols.end, hidden / 16);
                        let up_groups = groups.start + up..groups.end + up;
                        let up = View::block(u, &rows, up_cols.clone());
                        if has_gate {
                            product(up_groups, &rows, up);
                        }
                        for r in rows.clone() {
                            let gated = &mut gated[..cols.len()];
                            let up = has_gate.then(|| up.row(r, up_cols.clone()));
                            cpu.activate_slices(act, gate.row(r, cols.clone()), up, gated);
                            down.put(cpu, gated, inner, roles[r], r, cols.clone());
                        }
                    }
                }
            } else {
                for rows in gate_up.passes(roles) {
                    product(gate_up.share(worker), &rows, both);
                }
                worker.barrier();
                for r in worker.share(rows) {
                    let gated = &mut scratch[..hidden];
                    let up = has_gate.then(|| both.row(r, hidden..2 * hidden));
                    cpu.activate_slices(act, both.row(r, 0..hidden), up, gated);
                    down.put(cpu, gated, inner, roles[r], r, 0..hidden);
                }
            }
            worker.barrier();
            residual.run(cpu, worker, down, inner, roles, scratch);
        }
    });
}

/// Makes rows of `x` the input of `weight`, normed if the block has a norm.
///
/// # Safety
/// The rows are the caller's alone.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn norm_rows(
    cpu: &Cpu,
    x: View,
    norm: &Option<NormWeights<Cpu>>,
    spec: NormSpec,
    input: Input,
    weight: &Weight,
    roles: &[Role],
    rows: Range<usize>,
    scratch: &mut [f32],
) {
    let normed = &mut scratch[..x.width];
    for r in rows {
        // SAFETY: by this function's contract.
        unsafe {
            let row = match norm {
                Some(w) => {
                    cpu.norm_row(spec, x.row(r, 0..x.width), &w.weight, w.bias.as_deref(), normed);
                    &*normed
                }
                None => x.row(r, 0..x.width),
            };
            weight.put(cpu, row, input, roles[r], r, 0..x.width);
        }
    }
}

/// Adds columns of a bias to rows.
///
/// # Safety
/// The columns are the caller's alone.
unsafe fn add_bias(cpu: &Cpu, out: View, bias: &[f32], rows: Range<usize>, cols: Range<usize>) {
    for r in rows {
        // SAFETY: by this function's contract.
        cpu.ops.add(unsafe { out.row_mut(r, cols.clone()) }, bias);
    }
}

/// The end of a block: `x += norm(weight . input + bias)`.
struct Residual<'a> {
    x: View,
    proj: View,
    norm: View,
    bias: Option<&'a [f32]>,
    post_norm: Option<&'a NormWeights<Cpu>>,
    norm_spec: NormSpec,
}

impl Residual<'_> {
    /// # Safety
    /// Inputs are complete; no other work on `x`, `proj` and `norm` goes on. Output columns are written by the worker that
    /// has their group; with a post-norm, whole rows each by one worker after a barrier.
    unsafe fn run(
        &self,
        cpu: &Cpu,
        worker: &Worker<'_>,
        weight: &Weight,
        input: Input,
        roles: &[Role],
        scratch: &mut [f32],
    ) {
        let share = weight.share(worker);
        let bias = |out: View, rows: &Range<usize>, cols: &Range<usize>| {
            if let Some(bias) = self.bias {
                // SAFETY: by this function's contract.
                unsafe { add_bias(cpu, out, &bias[cols.clone()], rows.clone(), cols.clone()) };
            }
        };
        // SAFETY: by this function's contract.
        unsafe {
            let Some(post_norm) = self.post_norm else {
                for rows in weight.passes(roles) {
                    let width = BLOCK_FLOATS / rows.len() / ROWS;
                    for first in share.clone().step_by(width) {
                        let groups = first..share.end.min(first + width);
                        let block = View::block(scratch, &rows, weight.columns(groups.clone()));
                        let cols = weight.multiply(groups, input, roles[rows.start], rows.clone(), block);
                        bias(block, &rows, &cols);
                        for r in rows.clone() {
                            cpu.ops.add(self.x.row_mut(r, cols.clone()), block.row(r, cols.clone()));
                        }
                    }
                }
                return;
            };
            for rows in weight.passes(roles) {
                let cols = weight.multiply(share.clone(), input, roles[rows.start], rows.clone(), self.proj);
                bias(self.proj, &rows, &cols);
            }
            worker.barrier();
            let width = 0..weight.rows();
            for r in worker.share(roles.len()) {
                let normed = self.norm.row_mut(r, width.clone());
                let (proj, NormWeights { weight, bias }) = (self.proj.row(r, width.clone()), post_norm);
                cpu.norm_row(self.norm_spec, proj, weight, bias.as_deref(), normed);
                cpu.ops.add(self.x.row_mut(r, width.clone()), normed);
            }
        }
    }
}
