//! Latent attention: what its heads do that those of other kinds do not.

use crate::driver::{Argument, Grid};
use crate::experts::{Choice, heads};
use crate::ops::{arguments, quads};
use crate::{Act, Cuda, Step, Weight};
use kinfer_core::backend::Heads;
use kinfer_core::{Error, Result};

/// `Place` of `kernels/cuda/rows.cu`, in elements.
#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    row: u64,
    head: u64,
}

/// Where the first head of the first row lies in `x`, and the others from there.
fn place(x: &Act, heads: Heads, rows: usize) -> (u64, Place) {
    match heads {
        Heads::Columns { first, stride, width } => {
            (x.floats() + 4 * first as u64, Place { row: width as u64, head: stride as u64 })
        }
        Heads::Rows => (x.floats(), Place { row: x.width() as u64, head: (rows * x.width()) as u64 }),
    }
}

/// Copies the first `width` elements of each of `heads` heads; those that become rows of their own are rounded for their product.
#[allow(clippy::too_many_arguments)]
pub(crate) fn rearrange(
    cuda: &Cuda,
    step: &Step,
    x: &Act,
    from: Heads,
    out: &mut Act,
    to: Heads,
    heads: usize,
    width: usize,
) -> Result<()> {
    let rows = step.rows();
    let (at, from) = place(x, from, rows);
    let kernels = cuda.kernels()?;
    if let Heads::Columns { width: all, .. } = to {
        out.shape(rows, all)?;
        let ((to_at, to), width) = (place(out, to, rows), width as i32);
        let grid = Grid::new(heads, rows, width_threads(width as usize));
        // SAFETY: the heads lie within the rows of both.
        return unsafe {
            cuda.launch(step, &kernels.rearrange, grid, arguments![at, from, to_at, to, width])
        };
    }
    out.shape(heads * rows, width)?;
    let Choice { chosen, roles: row_roles, .. } = step.heads()?;
    let (roles, chosen, row_roles) = (step.roles_of(rows).1, chosen.pointer(), row_roles.pointer());
    let to = out.out(row_roles)?;
    let columns = quads(out.padded(), 1);
    let grid = Grid { blocks: (columns.blocks.0, heads as u32, rows as u32), ..columns };
    let arguments = arguments![at, from, roles, chosen, row_roles, to];
    // SAFETY: the heads lie within the rows, and `out` has a row for each.
    unsafe { cuda.launch(step, &kernels.rearrange_to_rows, grid, arguments) }
}

/// Threads that take four of so many columns each.
fn width_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 256)
}

/// `out[h * rows + r] = weights[h] x[h * rows + r]` of rows that [`rearrange`] made.
pub(crate) fn linear_heads(
    cuda: &Cuda,
    step: &Step,
    weights: &[Weight],
    x: &Act,
    out: &mut Act,
) -> Result<()> {
    let Some(first) = weights.first() else { return Err(Error::Batch("products of no heads".into())) };
    if x.width() != first.cols || x.rows() != weights.len() * step.rows() || !x.is_rounded() {
        let (rows, width, cols) = (x.rows(), x.width(), first.cols);
        let shapes = format!("{} heads of {cols} columns times {rows} x {width} activations", weights.len());
        return Err(Error::Batch(shapes));
    }
    out.shape(x.rows(), first.rows)?;
    heads(cuda, step, weights, x, out)
}
