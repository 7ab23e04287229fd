//! Operations on rows, and products: one launch each.

use crate::driver::{Argument, Grid};
use crate::step::Field;
use crate::weight::{Kernels, Segment};
use crate::{Act, Cuda, Step, Vector, Weight};
use kinfer_core::batch::Role;
use kinfer_core::{Activation, Error, ExpertSpec, NormKind, NormSpec, Result, Routing, Scores};
use kinfer_kernels::pack::ROWS;
use std::ops::Range;

/// The arguments of a kernel, each a variable of the type that the kernel's parameter has.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &[$(Argument::new(&$value)),*] };
}
pub(crate) use arguments;

/// Threads of a block of most kernels.
const THREADS: usize = 256;
/// Rows of a tile of the tensor core product, of both factors.
const TILE: usize = 128;
/// Experts of a layer at most: their weights are parameters of a kernel.
const MAX_EXPERTS: usize = 256;

/// `Product` of `kernels/cuda/quantised.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Product {
    w: u64,
    x: u64,
    y: u64,
    bias: u64,
    units: i32,
    columns: i32,
    rows: i32,
    stride: i32,
    n: i32,
    add: i32,
}

/// `FloatProduct` of `kernels/cuda/floats.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct FloatProduct {
    w: u64,
    x: u64,
    y: u64,
    bias: u64,
    kind: i32,
    width: i32,
    columns: i32,
    rows: i32,
    stride: i32,
    n: i32,
    add: i32,
    pad: i32,
}

/// Warps that share a row of `units` units.
fn warps(units: usize) -> usize {
    [8, 4, 2].into_iter().find(|&w| units >= w).unwrap_or(1)
}

/// `out = W x + bias`, or `out += W x + bias`. `out` has its shape.
pub(crate) fn product(
    cuda: &Cuda,
    step: &Step,
    weight: &Weight,
    x: &Act,
    out: &mut Act,
    bias: Option<&Vector>,
    add: bool,
) -> Result<()> {
    if x.width() != weight.cols {
        return Err(Error::Batch(format!("{} columns times {} activations", weight.cols, x.width())));
    }
    let (roles, device_roles) = step.roles_of(x.rows());
    let prompts = roles.contains(&Role::Prompt);
    let rounded = |s: &Segment| match &s.kernels {
        Kernels::Packed { .. } => true,
        Kernels::Float { gemm, .. } => prompts && gemm.is_some(),
    };
    if !x.is_rounded() && weight.segments.iter().any(rounded) {
        round(cuda, step, x, device_roles)?;
    }
    out.set_rounded(false);
    for segment in &weight.segments {
        let mut first = 0;
        for same in roles.chunk_by(|a, b| a == b) {
            segment_product(
                cuda,
                step,
                weight,
                segment,
                x,
                out,
                bias,
                add,
                same[0],
                first..first + same.len(),
            )?;
            first += same.len();
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn segment_product(
    cuda: &Cuda,
    step: &Step,
    weight: &Weight,
    segment: &Segment,
    x: &Act,
    out: &Act,
    bias: Option<&Vector>,
    add: bool,
    role: Role,
    rows: Range<usize>,
) -> Result<()> {
    let n = rows.len();
    let y = out.floats() + 4 * (rows.start * weight.rows + segment.first) as u64;
    let bias = bias.map_or(0, |b| b.data.pointer() + 4 * segment.first as u64);
    let columns = x.padded();
    let bf16 = |bf16: u64| bf16 + 2 * (rows.start * columns) as u64;
    let tiles = Grid::new(n.div_ceil(TILE), segment.rows.div_ceil(TILE), THREADS);
    match &segment.kernels {
        Kernels::Packed { units, matvec, gemm, .. } => {
            let (int8, half) = x.rounded()?;
            let mut product = Product {
                w: segment.data.pointer(),
                x: int8 + 48 * (rows.start * columns / 32) as u64,
                y,
                bias,
                units: *units as i32,
                columns: columns as i32,
                rows: segment.rows as i32,
                stride: weight.rows as i32,
                n: n as i32,
                add: add.into(),
            };
            let (kernel, grid) = match (role, gemm) {
                (Role::Prompt, Some(gemm)) => {
                    product.x = bf16(half);
                    (gemm, tiles)
                }
                _ => {
                    let groups = segment.rows.div_ceil(ROWS);
                    let [one, eight] = matvec;
                    let (kernel, chunks) = if n == 1 { (one, 1) } else { (eight, n.div_ceil(8)) };
                    (kernel, Grid::new(chunks, groups, 32 * warps(*units)))
                }
            };
            // SAFETY: `x` and `y` have these rows, and the weight these units.
            unsafe { cuda.launch(step, kernel, grid, arguments![product]) }
        }
        Kernels::Float { kind, matvec, gemm, .. } => {
            let mut product = FloatProduct {
                w: segment.data.pointer(),
                x: x.floats() + 4 * (rows.start * x.width()) as u64,
                y,
                bias,
                kind: *kind,
                width: weight.cols as i32,
                columns: columns as i32,
                rows: segment.rows as i32,
                stride: weight.rows as i32,
                n: n as i32,
                add: add.into(),
                pad: 0,
            };
            let (kernel, grid) = match (role, gemm) {
                (Role::Prompt, Some(gemm)) => {
                    product.x = bf16(x.rounded()?.1);
                    (gemm, tiles)
                }
                _ => (matvec, Grid::new(n.div_ceil(8), segment.rows.div_ceil(8), THREADS)),
            };
            // SAFETY: as above.
            unsafe { cuda.launch(step, kernel, grid, arguments![product]) }
        }
    }
}

/// The products of a layer's experts: `out[i] = W[chosen[i]] x[i / per_row]`.
///
/// `part` picks the weight of an expert. `x` is rounded in 8 bits; `out` has its shape.
#[allow(clippy::too_many_arguments)]
pub(crate) fn expert_products(
    cuda: &Cuda,
    step: &Step,
    experts: &[[Weight; 2]],
    part: usize,
    biases: Option<&Vector>,
    chosen: u64,
    per_row: i32,
    x: &Act,
    out: &Act,
) -> Result<()> {
    if experts.len() > MAX_EXPERTS {
        return Err(Error::Unsupported {
            what: format!("a layer of {} experts on CUDA", experts.len()),
            supported: format!("up to {MAX_EXPERTS}"),
        });
    }
    let Some(first) = experts.first().map(|e| &e[part]) else { return Ok(()) };
    for (i, segment) in first.segments.iter().enumerate() {
        let mut pointers = [0u64; MAX_EXPERTS];
        for (to, expert) in pointers.iter_mut().zip(experts) {
            *to = expert[part].segments.get(i).map_or(0, |s| s.data.pointer());
        }
        let y = out.floats() + 4 * segment.first as u64;
        let bias = biases.map_or(0, |b| b.data.pointer() + 4 * segment.first as u64);
        let (rows, stride, n) = (segment.rows as i32, first.rows as i32, x.rows() as i32);
        match &segment.kernels {
            Kernels::Packed { units, experts, .. } => {
                let product = Product {
                    w: 0,
                    x: x.rounded()?.0,
                    y,
                    bias,
                    units: *units as i32,
                    columns: x.padded() as i32,
                    rows,
                    stride,
                    n,
                    add: 0,
                };
                let grid = Grid::new(out.rows(), segment.rows.div_ceil(ROWS), 32 * warps(*units));
                // SAFETY: every chosen expert has a weight; `x` and `y` have these rows.
                unsafe { cuda.launch(step, experts, grid, arguments![product, pointers, chosen, per_row])? };
            }
            Kernels::Float { kind, experts, .. } => {
                let product = FloatProduct {
                    w: 0,
                    x: x.floats(),
                    y,
                    bias,
                    kind: *kind,
                    width: first.cols as i32,
                    columns: x.padded() as i32,
                    rows,
                    stride,
                    n,
                    add: 0,
                    pad: 0,
                };
                let grid = Grid::new(out.rows(), segment.rows.div_ceil(8), THREADS);
                // SAFETY: as above.
                unsafe { cuda.launch(step, experts, grid, arguments![product, pointers, chosen, per_row])? };
            }
        }
    }
    Ok(())
}

/// Rounds the rows of `x` for products.
fn round(cuda: &Cuda, step: &Step, x: &Act, roles: u64) -> Result<()> {
    let (from, out) = (x.floats(), x.out(roles)?);
    // SAFETY: `x` has its rows.
    unsafe {
        cuda.launch(step, &cuda.kernels()?.round, Grid::new(x.rows(), 1, THREADS), arguments![from, out])
    }
}

/// `out = x`, rounded in 8 bits whatever the roles.
pub(crate) fn round_int8(cuda: &Cuda, step: &Step, x: &Act, generated: u64, out: &mut Act) -> Result<()> {
    out.shape(x.rows(), x.width())?;
    let (from, to) = (x.floats(), out.out(generated)?);
    // SAFETY: both have these rows.
    unsafe {
        cuda.launch(step, &cuda.kernels()?.round, Grid::new(x.rows(), 1, THREADS), arguments![from, to])
    }
}

pub(crate) fn embed(cuda: &Cuda, step: &Step, table: &Weight, scale: f32, out: &mut Act) -> Result<()> {
    out.shape(step.rows(), table.cols)?;
    let [segment] = table.segments.as_slice() else {
        return Err(Error::Batch("an embedding table of several formats".into()));
    };
    let (w, tokens, to, cols) =
        (segment.data.pointer(), step.field(Field::Tokens), out.floats(), table.cols as i32);
    let grid = Grid::new(step.rows(), 1, THREADS);
    // SAFETY: the batch was checked: every token has a row.
    unsafe {
        match &segment.kernels {
            Kernels::Packed { units, embed, .. } => {
                let units = *units as i32;
                cuda.launch(step, embed, grid, arguments![w, units, tokens, scale, to, cols])
            }
            Kernels::Float { kind, embed, .. } => {
                cuda.launch(step, embed, grid, arguments![w, *kind, tokens, scale, to, cols])
            }
        }
    }
}

/// A norm as kernels take it.
pub(crate) fn norm_code(spec: NormSpec) -> (i32, f32) {
    let kind = match spec.kind {
        NormKind::Rms => 0,
        NormKind::Layer => 1,
    };
    (kind, spec.eps)
}

pub(crate) fn norm(
    cuda: &Cuda,
    step: &Step,
    x: &Act,
    spec: NormSpec,
    weight: &Vector,
    bias: Option<&Vector>,
    out: &mut Act,
) -> Result<()> {
    out.shape(x.rows(), x.width())?;
    let ((kind, eps), from, weight) = (norm_code(spec), x.floats(), weight.data.pointer());
    let (bias, to) = (bias.map_or(0, |b| b.data.pointer()), out.out(step.roles_of(x.rows()).1)?);
    let grid = Grid::new(x.rows(), 1, THREADS);
    // SAFETY: both have these rows, and the weight their width.
    unsafe { cuda.launch(step, &cuda.kernels()?.norm, grid, arguments![from, kind, eps, weight, bias, to]) }
}

pub(crate) fn norm_heads(
    cuda: &Cuda,
    step: &Step,
    x: &mut Act,
    cols: Range<usize>,
    weight: &Vector,
    eps: f32,
) -> Result<()> {
    x.set_rounded(false);
    let (stride, first, n) = (x.width() as i32, cols.start as i32, weight.len as i32);
    let (at, weight_at) = (x.floats(), weight.data.pointer());
    let grid = Grid::new(cols.len() / weight.len.max(1), x.rows(), 128);
    // SAFETY: the columns lie within the rows.
    unsafe {
        cuda.launch(step, &cuda.kernels()?.norm_heads, grid, arguments![at, stride, first, n, weight_at, eps])
    }
}

pub(crate) fn add_bias(cuda: &Cuda, step: &Step, x: &mut Act, bias: &Vector) -> Result<()> {
    x.set_rounded(false);
    let (at, bias, width) = (x.floats(), bias.data.pointer(), x.width() as i32);
    let grid = Grid::new(x.rows(), 1, THREADS);
    // SAFETY: the bias has the rows' width.
    unsafe { cuda.launch(step, &cuda.kernels()?.add_bias, grid, arguments![at, bias, width]) }
}

pub(crate) fn add(cuda: &Cuda, step: &Step, x: &mut Act, y: &Act) -> Result<()> {
    x.set_rounded(false);
    let (to, from, n) = (x.floats(), y.floats(), x.rows() * x.width());
    let grid = Grid::new(n.div_ceil(THREADS).min(1024), 1, THREADS);
    // SAFETY: both have as many elements.
    unsafe { cuda.launch(step, &cuda.kernels()?.add, grid, arguments![to, from, n]) }
}

pub(crate) fn add_positions(cuda: &Cuda, step: &Step, table: &Vector, x: &mut Act) -> Result<()> {
    x.set_rounded(false);
    let (at, table, positions) = (x.floats(), table.data.pointer(), step.field(Field::Positions));
    let (width, grid) = (x.width() as i32, Grid::new(x.rows(), 1, THREADS));
    // SAFETY: positions end with the table: a runner refuses others.
    unsafe {
        cuda.launch(step, &cuda.kernels()?.add_positions, grid, arguments![at, table, positions, width])
    }
}

pub(crate) fn rope(
    cuda: &Cuda,
    step: &Step,
    x: &mut Act,
    cols: Range<usize>,
    head_dim: usize,
    rope: usize,
) -> Result<()> {
    x.set_rounded(false);
    let (cosines, sines, half) = step.rope(rope)?;
    let (at, stride, first, dim) = (x.floats(), x.width() as i32, cols.start as i32, head_dim as i32);
    let grid = Grid::new(cols.len() / head_dim, x.rows(), 64);
    let arguments = arguments![at, stride, first, dim, cosines, sines, half];
    // SAFETY: the columns lie within the rows.
    unsafe { cuda.launch(step, &cuda.kernels()?.rope, grid, arguments) }
}

/// `out = act(x)`, with a gate `act(gate) * up`. `out` has its shape.
pub(crate) fn activate(
    cuda: &Cuda,
    step: &Step,
    act: Activation,
    x: u64,
    gated: bool,
    out: &mut Act,
) -> Result<()> {
    let roles = step.roles_of(out.rows()).1;
    activate_as(cuda, step, act, x, gated, out, roles)
}

/// The same with roles of its own.
pub(crate) fn activate_as(
    cuda: &Cuda,
    step: &Step,
    act: Activation,
    x: u64,
    gated: bool,
    out: &mut Act,
    roles: u64,
) -> Result<()> {
    let kind = match act {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::SwigluOai => 3,
    };
    let (gated, to) = (i32::from(gated), out.out(roles)?);
    let grid = Grid::new(out.padded().div_ceil(THREADS), out.rows(), THREADS);
    // SAFETY: `x` has as many rows, of the width or twice.
    unsafe { cuda.launch(step, &cuda.kernels()?.activate, grid, arguments![x, kind, gated, to]) }
}

pub(crate) fn gather(cuda: &Cuda, step: &Step, x: &Act, out: &mut Act) -> Result<()> {
    let rows = step.outputs();
    out.shape(rows, x.width())?;
    let (from, outputs, to, width) = (x.floats(), step.field(Field::Outputs), out.floats(), x.width() as i32);
    let grid = Grid::new(rows, 1, THREADS);
    // SAFETY: outputs are rows of the batch.
    unsafe { cuda.launch(step, &cuda.kernels()?.gather, grid, arguments![from, outputs, to, width]) }
}

pub(crate) fn softcap(cuda: &Cuda, step: &Step, x: &mut Act, cap: f32) -> Result<()> {
    x.set_rounded(false);
    let (at, n) = (x.floats(), x.rows() * x.width());
    let grid = Grid::new(n.div_ceil(THREADS).min(1024), 1, THREADS);
    // SAFETY: all elements.
    unsafe { cuda.launch(step, &cuda.kernels()?.softcap, grid, arguments![at, cap, n]) }
}

/// `x[r] *= sigmoid(gate[r])`.
pub(crate) fn gate_rows(cuda: &Cuda, step: &Step, x: &mut Act, gate: &Act) -> Result<()> {
    x.set_rounded(false);
    let (at, gate, width) = (x.floats(), gate.floats(), x.width() as i32);
    let grid = Grid::new(x.rows(), 1, THREADS);
    // SAFETY: as many rows of both.
    unsafe { cuda.launch(step, &cuda.kernels()?.gate_rows, grid, arguments![at, gate, width]) }
}

/// `Routing` of `rows.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Route {
    bias: u64,
    count: i32,
    used: i32,
    sigmoid: i32,
    renormalise: i32,
    scale: f32,
    pad: i32,
}

pub(crate) fn route(
    cuda: &Cuda,
    step: &Step,
    spec: ExpertSpec,
    bias: Option<&Vector>,
    x: &Act,
) -> Result<()> {
    let ExpertSpec { count, routing: Routing { used, scores, renormalise, scale }, shared: _ } = spec;
    let mixture =
        step.mixture.as_ref().ok_or_else(|| Error::Batch("a model without experts routes".into()))?;
    let route = Route {
        bias: bias.map_or(0, |b| b.data.pointer()),
        count: count as i32,
        used: used as i32,
        sigmoid: i32::from(scores == Scores::Sigmoid),
        renormalise: i32::from(renormalise),
        scale,
        pad: 0,
    };
    let (from, chosen, weights) = (x.floats(), mixture.chosen.pointer(), mixture.weights.pointer());
    let arguments = arguments![from, route, chosen, weights];
    // SAFETY: the buffers have room for the model's largest `used`.
    unsafe { cuda.launch(step, &cuda.kernels()?.route, Grid::new(x.rows(), 1, 32), arguments) }
}

impl Cuda {
    /// Computes the rotary tables of the step's rows.
    pub(crate) fn rope_tables(&self, step: &Step) -> Result<()> {
        let positions = step.field(Field::Positions);
        let (kernel, tables) = step.rope_tables();
        for (frequencies, half, magnitude, cosines, sines) in tables {
            let arguments = arguments![positions, frequencies, half, magnitude, cosines, sines];
            // SAFETY: the tables have room for all rows.
            unsafe { self.launch(step, kernel, Grid::new(step.rows(), 1, 64), arguments)? };
        }
        Ok(())
    }
}
