//! Operations on rows, and products: one launch each.

use crate::act::Out;
use crate::driver::{Argument, Grid};
use crate::experts::{Groups, MAX_EXPERTS};
use crate::step::Field;
use crate::weight::{Generated, Kernels, Segment};
use crate::{Act, Cuda, Step, Vector, Weight};
use kinfer_core::batch::Role;
use kinfer_core::{Activation, Error, NormKind, NormSpec, Result};
use std::ops::Range;

/// The arguments of a kernel, each a variable of the type that the kernel's parameter has.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &[$(Argument::new(&$value)),*] };
}
pub(crate) use arguments;

/// Threads of a block of most kernels.
const THREADS: usize = 256;
/// For a tensor core product with one weight.
const NO_EXPERTS: [u64; MAX_EXPERTS] = [0; MAX_EXPERTS];

/// `Ending` of `kernels/cuda/matvec.cuh`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Ending {
    to: Out,
    kind: i32,
    pieces: i32,
}

impl Ending {
    /// Outputs are activated, of gate | up where `gated`.
    pub(crate) fn activated(act: Activation, gated: bool, to: Out) -> Ending {
        Ending { to, kind: activation_code(act), pieces: 1 + i32::from(gated) }
    }
    /// Parts of a weight that are multiplied side by side.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.max(1) as usize
    }
}

/// `Product` of `kernels/cuda/matvec.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Product {
    pub w: u64,
    pub x: u64,
    pub y: u64,
    pub bias: u64,
    pub units: i32,
    pub columns: i32,
    pub rows: i32,
    pub stride: i32,
    pub n: i32,
    pub add: i32,
    pub ending: Ending,
}

/// `FloatProduct` of `kernels/cuda/floats.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FloatProduct {
    pub w: u64,
    pub x: u64,
    pub y: u64,
    pub bias: u64,
    pub kind: i32,
    pub width: i32,
    pub columns: i32,
    pub rows: i32,
    pub stride: i32,
    pub n: i32,
    pub add: i32,
    pub pad: i32,
}

/// Threads of a block for the norm of rows of `width`: they keep two times four columns each (`HELD` of `rows.cu`). By the width alone,
/// for the order of its sums.
pub(crate) fn norm_threads(width: usize) -> usize {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 1024)
}

/// The grid of a kernel on rows whose threads take four columns each.
pub(crate) fn quads(width: usize, rows: usize) -> Grid {
    let threads = width.div_ceil(4).next_multiple_of(32).clamp(32, THREADS);
    Grid::new(width.div_ceil(4 * threads), rows, threads)
}

/// For a kernel that writes `out`, of which nothing reads more than products with `next` do; `None`: anything may read it.
pub(crate) fn out_for(step: &Step, out: &Act, next: Option<&Weight>) -> Result<Out> {
    let (roles, device_roles) = step.roles_of(out.rows());
    match next {
        Some(next) if !next.reads_floats(roles) => out.out_rounded(device_roles),
        _ => out.out(device_roles),
    }
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
                Ending::default(),
                same[0],
                first..first + same.len(),
            )?;
            first += same.len();
        }
    }
    Ok(())
}

/// `out = act(W x + bias)`, of gate | up where `gated`, in one launch. `false`: no kernel does that for these rows and this weight, and nothing
/// was done. `out` has its shape; `next` as in `norm`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn activated_product(
    cuda: &Cuda,
    step: &Step,
    weight: &Weight,
    x: &Act,
    out: &mut Act,
    bias: Option<&Vector>,
    act: Activation,
    gated: bool,
    next: &Weight,
) -> Result<bool> {
    let (roles, device_roles) = step.roles_of(x.rows());
    let Some(segment) = weight.activates(roles, gated).filter(|_| x.width() == weight.cols) else {
        return Ok(false);
    };
    if !x.is_rounded() {
        round(cuda, step, x, device_roles)?;
    }
    let ending = Ending::activated(act, gated, out_for(step, out, Some(next))?);
    let (role, rows) = (Role::Generated, 0..x.rows());
    segment_product(cuda, step, weight, segment, x, out, bias, false, ending, role, rows).map(|()| true)
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
    ending: Ending,
    role: Role,
    rows: Range<usize>,
) -> Result<()> {
    let n = rows.len();
    let y = out.floats() + 4 * (rows.start * weight.rows + segment.first) as u64;
    let bias = bias.map_or(0, |b| b.data.pointer() + 4 * segment.first as u64);
    let columns = x.padded();
    let bf16 = |bf16: u64| bf16 + 2 * (rows.start * columns) as u64;
    let no_groups = Groups::default();
    match &segment.kernels {
        Kernels::Packed { units, generated, gemm, .. } => {
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
                ending,
            };
            if let (Role::Prompt, Some(gemm)) = (role, gemm) {
                product.x = bf16(half);
                // SAFETY: `x` and `y` have these rows, and the weight these units.
                return unsafe {
                    gemm.launch(cuda, step, n, segment.rows, arguments![product, NO_EXPERTS, no_groups])
                };
            }
            let Generated { one, several, .. } = generated;
            let (kernel, grid) = match several.iter().find(|k| n <= k.0).or(several.last()) {
                Some((at_once, kernel)) if n > 1 => {
                    (kernel, generated.several_grid(kernel, n, segment.rows, *at_once, ending.pieces()))
                }
                _ => (one, generated.one_grid(1, segment.rows, ending.pieces())),
            };
            // SAFETY: as above.
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
            if let (Role::Prompt, Some(gemm)) = (role, gemm) {
                product.x = bf16(x.rounded()?.1);
                // SAFETY: as above.
                return unsafe {
                    gemm.launch(cuda, step, n, segment.rows, arguments![product, NO_EXPERTS, no_groups])
                };
            }
            let grid = Grid::new(n.div_ceil(8), segment.rows.div_ceil(8), THREADS);
            // SAFETY: as above.
            unsafe { cuda.launch(step, matvec, grid, arguments![product]) }
        }
    }
}

/// Rounds the rows of `x` for products.
pub(crate) fn round(cuda: &Cuda, step: &Step, x: &Act, roles: u64) -> Result<()> {
    let (from, out, grid) = (x.floats(), x.out_rounded(roles)?, quads(x.padded(), x.rows()));
    // SAFETY: `x` has its rows.
    unsafe { cuda.launch(step, &cuda.kernels()?.round, grid, arguments![from, out]) }
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

/// `out = norm(x)`; `next`: what alone `out` is going to be multiplied with.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm(
    cuda: &Cuda,
    step: &Step,
    x: &Act,
    spec: NormSpec,
    weight: &Vector,
    bias: Option<&Vector>,
    out: &mut Act,
    next: Option<&Weight>,
) -> Result<()> {
    out.shape(x.rows(), x.width())?;
    let ((kind, eps), from, weight) = (norm_code(spec), x.floats(), weight.data.pointer());
    let (bias, to) = (bias.map_or(0, |b| b.data.pointer()), out_for(step, out, next)?);
    let grid = Grid::new(x.rows(), 1, norm_threads(x.width()));
    // SAFETY: both have these rows, and the weight their width.
    unsafe { cuda.launch(step, &cuda.kernels()?.norm, grid, arguments![from, kind, eps, weight, bias, to]) }
}

/// Norm in place over each `width` elements of `x[r][cols]`. Weight and bias are as long as that, or as all columns.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_heads(
    cuda: &Cuda,
    step: &Step,
    x: &mut Act,
    cols: Range<usize>,
    width: usize,
    spec: NormSpec,
    weight: &Vector,
    bias: Option<&Vector>,
) -> Result<()> {
    x.set_rounded(false);
    let ((kind, eps), pieces) = (norm_code(spec), cols.len() / width.max(1));
    let (stride, first, n) = (x.width() as i32, cols.start as i32, width as i32);
    let apart = if weight.len == width { 0 } else { n };
    let (at, weight, bias) = (x.floats(), weight.data.pointer(), bias.map_or(0, |b| b.data.pointer()));
    let grid = Grid::new(pieces, x.rows(), norm_threads(width));
    let arguments = arguments![at, stride, first, n, kind, eps, weight, bias, apart];
    // SAFETY: the columns lie within the rows.
    unsafe { cuda.launch(step, &cuda.kernels()?.norm_heads, grid, arguments) }
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

/// `out = act(x)`, with a gate `act(gate) * up`. `out` has its shape; `next` as in `norm`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn activate(
    cuda: &Cuda,
    step: &Step,
    act: Activation,
    x: u64,
    gated: bool,
    out: &mut Act,
    next: Option<&Weight>,
) -> Result<()> {
    let to = out_for(step, out, next)?;
    activate_to(cuda, step, act, x, gated, out.rows(), to)
}

/// The same to `rows` rows of what is written.
pub(crate) fn activate_to(
    cuda: &Cuda,
    step: &Step,
    act: Activation,
    x: u64,
    gated: bool,
    rows: usize,
    to: Out,
) -> Result<()> {
    let kind = activation_code(act);
    let (gated, grid) = (i32::from(gated), quads(to.padded as usize, rows));
    // SAFETY: `x` has as many rows, of the width or twice.
    unsafe { cuda.launch(step, &cuda.kernels()?.activate, grid, arguments![x, kind, gated, to]) }
}

/// `enum Activation` of `kernels/cuda/activation.cuh`.
fn activation_code(act: Activation) -> i32 {
    match act {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::SwigluOai => 3,
    }
}

/// `x[r] *= sigmoid(gate[r][first..])`; `next` as in `norm`.
pub(crate) fn gate_columns(
    cuda: &Cuda,
    step: &Step,
    x: &mut Act,
    gate: &Act,
    first: usize,
    next: Option<&Weight>,
) -> Result<()> {
    let (at, gate_at, stride) = (x.floats(), gate.floats() + 4 * first as u64, gate.width() as i32);
    let (to, grid) = (out_for(step, x, next)?, quads(x.padded(), x.rows()));
    let arguments = arguments![at, gate_at, stride, to];
    // SAFETY: the gate's rows have as many columns behind the first one.
    unsafe { cuda.launch(step, &cuda.kernels()?.gate_columns, grid, arguments) }
}

pub(crate) fn gather(cuda: &Cuda, step: &Step, x: &Act, out: &mut Act) -> Result<()> {
    let rows = step.outputs();
    out.shape(rows, x.width())?;
    let (from, outputs, to, width) = (x.floats(), step.field(Field::Outputs), out.floats(), x.width() as i32);
    let grid = quads(x.width(), rows);
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
