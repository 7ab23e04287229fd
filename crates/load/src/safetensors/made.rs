//! Tensors that no file stores as GGUF files do: their rows are made when they are asked for.
//!
//! Either they are decoded ([`Coded`]), or their elements lie elsewhere in a stored tensor: of every second row, of a column, of
//! rows that are stored group by group, or in blocks whose codes have another order. The latter changes no bit of a value.

use std::ops::Range;

use kinfer_kernels::quant::Format;
use safetensors::Dtype;

use super::coded::{Coded, Module, Piece};
use super::config::{Groups, Heads, Latent};
use super::names::Part;
use super::ordered::Ordered;
use crate::gguf::Problem;

/// A tensor whose rows are made.
#[derive(Debug)]
pub(crate) enum Made {
    /// A matrix that is stored quantised, in a format that nothing is computed with.
    Coded(Coded),
    /// Elements of a stored tensor.
    Picked(Picked),
    /// Rows and columns of a stored matrix.
    Ordered(Ordered),
}

impl Made {
    /// Outermost dimension first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Made::Coded(coded) => coded.shape().to_vec(),
            Made::Picked(picked) => picked.shape.clone(),
            Made::Ordered(ordered) => ordered.shape.clone(),
        }
    }

    /// The format of its rows.
    pub fn format(&self) -> Format {
        match self {
            Made::Coded(coded) => coded.format(),
            Made::Picked(picked) => picked.of.format(),
            Made::Ordered(ordered) => ordered.of.format(),
        }
    }

    /// What it is decoded from, if it is.
    pub fn coded(&self) -> Option<&Coded> {
        match self {
            Made::Coded(coded)
            | Made::Picked(Picked { of: Of::Coded(coded), .. })
            | Made::Ordered(Ordered { of: Of::Coded(coded), .. }) => Some(coded),
            Made::Picked(_) | Made::Ordered(_) => None,
        }
    }

    /// What it is made of.
    pub fn pieces(&self) -> Vec<&Piece> {
        match self {
            Made::Coded(coded) => coded.pieces().collect(),
            Made::Picked(Picked { of, .. }) | Made::Ordered(Ordered { of, .. }) => match of {
                Of::Floats { piece, .. } => vec![piece],
                Of::Coded(coded) => coded.pieces().collect(),
                Of::Blocks { codes, scales } => vec![codes, scales],
            },
        }
    }

    /// Bytes of that; of what several tensors are made of, its part.
    pub fn stored_bytes(&self) -> usize {
        let all: usize = self.pieces().iter().map(|piece| piece.range.len()).sum();
        let (own, of): (usize, &Of) = match self {
            Made::Coded(_) => return all,
            Made::Picked(picked) => {
                (picked.runs.iter().map(|run| run.dims.iter().product::<usize>()).sum(), &picked.of)
            }
            Made::Ordered(ordered) => (ordered.shape.iter().product(), &ordered.of),
        };
        (all as u128 * own as u128 / of.elements().max(1) as u128) as usize
    }

    /// These rows in [`Made::format`], counted through all matrices.
    pub fn rows<'b>(&self, rows: Range<usize>, bytes: &dyn Fn(&Piece) -> &'b [u8]) -> Vec<u8> {
        match self {
            Made::Coded(coded) => coded.decode(rows, bytes),
            Made::Picked(picked) => picked.rows(rows, bytes),
            Made::Ordered(ordered) => ordered.rows(rows, bytes),
        }
    }
}

/// What elements are picked of.
#[derive(Debug)]
pub(super) enum Of {
    Floats {
        piece: Piece,
        format: Format,
    },
    Coded(Coded),
    /// MXFP4, whose elements are blocks of 32 columns here: `codes` is `[matrices, rows, blocks, 16]`, of which the low nibble of byte
    /// `j` is column `2 j` and the high one the column after it; `scales` is `[matrices, rows, blocks]`.
    Blocks {
        codes: Piece,
        scales: Piece,
    },
}

impl Of {
    pub fn format(&self) -> Format {
        match self {
            Of::Floats { format, .. } => *format,
            Of::Coded(coded) => coded.format(),
            Of::Blocks { .. } => Format::MXFP4,
        }
    }

    fn elements(&self) -> usize {
        match self {
            Of::Floats { piece, .. } => piece.shape.iter().product(),
            Of::Coded(coded) => coded.shape().iter().product(),
            Of::Blocks { scales, .. } => scales.shape.iter().product(),
        }
    }
}

/// Elements of a stored tensor.
#[derive(Debug)]
pub(crate) struct Picked {
    of: Of,
    /// Outermost dimension first.
    shape: Vec<usize>,
    /// Its rows, in order.
    runs: Vec<Run>,
}

/// Elements that lie at regular places: `[n, r, c]` is the one at `first + n * steps[0] + r * steps[1] + c * steps[2]`.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Matrices, rows and columns, or blocks of columns.
    dims: [usize; 3],
    first: usize,
    steps: [usize; 3],
}

impl Run {
    fn rows(&self) -> usize {
        self.dims[0] * self.dims[1]
    }
}

/// Columns and rows that are turned together, so that lines of the cache are used whole.
const TILE: usize = 64;
/// Columns of a block of MXFP4, and bytes of its codes.
const BLOCK: usize = 32;

impl Picked {
    /// A part of tensor `name`, which is stored as floats.
    pub(super) fn of_floats(
        name: &str,
        part: Part,
        piece: Piece,
        format: Format,
        heads: Option<Heads>,
    ) -> Result<Picked, Problem> {
        let shape = piece.shape.clone();
        let of = Of::Floats { piece, format };
        let (first, step) = match part {
            Part::Keys | Part::Values | Part::Groups | Part::Delta(_) => {
                return Picked::of_heads(name, part, of, &shape, heads);
            }
            Part::First | Part::Second => return Picked::half(name, part, of, &shape),
            Part::Turned => match shape[..] {
                [cols, rows] => {
                    let run = Run { dims: [1, rows, cols], first: 0, steps: [0, 1, rows] };
                    return Ok(Picked { of, shape: vec![rows, cols], runs: vec![run] });
                }
                _ => return Err(misshapen(name, &shape, "a matrix")),
            },
            Part::All | Part::Even => (0, if part == Part::All { 1 } else { 2 }),
            Part::Odd => (1, 2),
        };
        match shape[..] {
            // transformers multiplies by these matrices from the right.
            [matrices, cols, rows] => {
                let rows_here = every(name, rows, step)?;
                let (dims, steps) = ([matrices, rows_here, cols], [cols.saturating_mul(rows), step, rows]);
                Ok(Picked { of, shape: dims.to_vec(), runs: vec![Run { dims, first, steps }] })
            }
            // Biases: a row for each expert.
            [matrices, cols] => {
                let cols_here = every(name, cols, step)?;
                let run = Run { dims: [1, matrices, cols_here], first, steps: [0, cols, step] };
                Ok(Picked { of, shape: vec![matrices, cols_here], runs: vec![run] })
            }
            _ => Err(misshapen(name, &shape, "matrices or biases of experts")),
        }
    }

    /// A part of vector `name`, which is stored as floats.
    pub(super) fn of_vector(
        name: &str,
        part: Part,
        piece: Piece,
        format: Format,
        heads: Option<Heads>,
    ) -> Result<Picked, Problem> {
        let rows = piece.shape.iter().product();
        Picked::of_floats(name, part, Piece { shape: vec![rows, 1], ..piece }, format, heads)
    }

    /// A part of matrix `name`, which is stored quantised.
    pub(super) fn of_coded(
        name: &str,
        part: Part,
        coded: Coded,
        heads: Option<Heads>,
    ) -> Result<Picked, Problem> {
        let shape = coded.shape();
        Picked::of_heads(name, part, Of::Coded(coded), &shape, heads)
    }

    /// One half of the outputs of each expert.
    fn half(name: &str, part: Part, of: Of, shape: &[usize]) -> Result<Picked, Problem> {
        let &[matrices, rows, cols] = shape else {
            return Err(misshapen(name, shape, "matrices of experts"));
        };
        let half = every(name, rows, 2)?;
        let first = if part == Part::First { 0 } else { half.saturating_mul(cols) };
        let dims = [matrices, half, cols];
        let run = Run { dims, first, steps: [rows.saturating_mul(cols), cols, 1] };
        Ok(Picked { of, shape: dims.to_vec(), runs: vec![run] })
    }

    /// A part of tensor `name`, which is stored as blocks of MXFP4.
    pub(super) fn of_blocks(name: &str, part: Part, module: &Module) -> Result<Picked, Problem> {
        let [codes_name, scales_name] = ["blocks", "scales"].map(|end| format!("{name}_{end}"));
        let missing = |tensor: &str| Problem::Coded {
            tensor: tensor.into(),
            problem: "is missing; the checkpoint is not whole".into(),
        };
        let codes = module.codes.clone().ok_or_else(|| missing(&codes_name))?;
        let scales = module.scales.clone().ok_or_else(|| missing(&scales_name))?;
        let &[matrices, rows, blocks] = scales.shape.as_slice() else {
            return Err(misshapen(&scales_name, &scales.shape, "scales of experts' blocks"));
        };
        codes.expect(&codes_name, &[Dtype::U8], &[matrices, rows, blocks, BLOCK / 2])?;
        scales.expect(&scales_name, &[Dtype::U8], &[matrices, rows, blocks])?;
        let (first, step) = match part {
            Part::All => (0, 1),
            Part::Even => (0, 2),
            Part::Odd => (1, 2),
            _ => return Err(misshapen(name, &codes.shape, "no blocks")),
        };
        let dims = [matrices, every(name, rows, step)?, blocks];
        let shape = vec![matrices, dims[1], blocks.saturating_mul(BLOCK)];
        let steps = [rows.saturating_mul(blocks), blocks.saturating_mul(step), 1];
        let run = Run { dims, first: blocks * first, steps };
        Ok(Picked { of: Of::Blocks { codes, scales }, shape, runs: vec![run] })
    }

    /// What makes queries, keys and values, of which several are stored as one tensor.
    fn of_heads(
        name: &str,
        part: Part,
        of: Of,
        shape: &[usize],
        heads: Option<Heads>,
    ) -> Result<Picked, Problem> {
        match (part, heads) {
            (Part::Keys | Part::Values, Some(Heads::Latent(latent))) => {
                Picked::of_latent(name, part, of, shape, latent)
            }
            (Part::Groups, Some(Heads::Groups(groups))) => Picked::of_groups(name, of, shape, groups),
            _ => Err(misshapen(name, shape, "a matrix that is not quantised")),
        }
    }

    /// What makes the keys, or the values, of each head of latent attention: `[heads * (plain + value), rank]` is stored.
    fn of_latent(name: &str, part: Part, of: Of, shape: &[usize], latent: Latent) -> Result<Picked, Problem> {
        let Latent { heads, rank, plain, value, .. } = latent;
        let [heads, rank, plain, value] = [heads, rank, plain, value].map(|n| n as usize);
        let expected = [heads.saturating_mul(plain.saturating_add(value)), rank];
        if shape != expected {
            let what = format!("{expected:?}, of {heads} heads with keys of {plain} and values of {value}");
            return Err(misshapen(name, shape, &what));
        }
        let head = (plain + value).saturating_mul(rank);
        let (dims, first, steps) = match part {
            Part::Keys => ([heads, rank, plain], 0, [head, 1, rank]),
            _ => ([heads, value, rank], plain.saturating_mul(rank), [head, rank, 1]),
        };
        Ok(Picked { of, shape: dims.to_vec(), runs: vec![Run { dims, first, steps }] })
    }

    /// Queries, keys and values, of which each group's are stored together: `[groups * (queries + 2) * dim, cols]`.
    fn of_groups(name: &str, of: Of, shape: &[usize], heads: Groups) -> Result<Picked, Problem> {
        let [groups, queries, dim] = [heads.groups, heads.queries, heads.dim].map(|n| n as usize);
        let rows = groups.saturating_mul(queries.saturating_add(2)).saturating_mul(dim);
        let cols = match *shape {
            [stored, cols] if stored == rows => cols,
            _ => {
                let what = format!(
                    "{rows} rows, of {groups} groups with {queries} queries, a key and a value, {dim} elements wide"
                );
                return Err(misshapen(name, shape, &what));
            }
        };
        let head = dim.saturating_mul(cols);
        let run = |from: usize, heads: usize| Run {
            dims: [groups, heads.saturating_mul(dim), cols],
            first: head.saturating_mul(from),
            steps: [head.saturating_mul(queries + 2), cols, 1],
        };
        let runs = vec![run(0, queries), run(queries, 1), run(queries + 1, 1)];
        Ok(Picked { of, shape: vec![rows, cols], runs })
    }

    /// All of it.
    pub(super) fn all(&self, bytes: &[u8]) -> Vec<u8> {
        self.rows(0..self.runs.iter().map(Run::rows).sum(), &|_| bytes)
    }

    fn rows<'b>(&self, rows: Range<usize>, bytes: &dyn Fn(&Piece) -> &'b [u8]) -> Vec<u8> {
        let Some(cols) = self.runs.first().map(|run| run.dims[2]) else { return Vec::new() };
        let line = cols * self.of.format().block_bytes();
        let all = self.runs.iter().map(Run::rows).sum();
        let rows = rows.start.min(all)..rows.end.min(all);
        let mut out = vec![0; rows.len() * line];
        if line == 0 {
            return out;
        }
        let mut begin = 0;
        for run in &self.runs {
            let (height, end) = (run.dims[1], begin + run.rows());
            let (mut row, last) = (rows.start.max(begin), rows.end.min(end));
            while row < last {
                let (matrix, from) = ((row - begin) / height, (row - begin) % height);
                let to = height.min(from + last - row);
                let place = (row - rows.start) * line..(row + to - from - rows.start) * line;
                self.matrix(run, matrix, from..to, bytes, &mut out[place]);
                row += to - from;
            }
            begin = end;
        }
        out
    }

    /// Rows of one matrix of a run.
    fn matrix<'b>(
        &self,
        run: &Run,
        matrix: usize,
        rows: Range<usize>,
        bytes: &dyn Fn(&Piece) -> &'b [u8],
        out: &mut [u8],
    ) {
        let cols = run.dims[2];
        let [over_matrices, over_rows, over_cols] = run.steps;
        let first = run.first + matrix * over_matrices + rows.start * over_rows;
        let (steps, dims) = ([over_rows, over_cols], [rows.len(), cols]);
        match &self.of {
            Of::Floats { piece, format: Format::F32 } => pick::<4>(bytes(piece), first, steps, dims, out),
            Of::Floats { piece, .. } => pick::<2>(bytes(piece), first, steps, dims, out),
            Of::Coded(coded) => {
                // The stored rows that they are in.
                let width = coded.shape()[1];
                let last = first + (rows.len() - 1) * over_rows + (cols - 1) * over_cols;
                let above = first / width;
                let data = coded.decode(above..last / width + 1, bytes);
                let first = first - above * width;
                match coded.format() {
                    Format::F32 => pick::<4>(&data, first, steps, dims, out),
                    _ => pick::<2>(&data, first, steps, dims, out),
                }
            }
            Of::Blocks { codes, scales } => {
                let (codes, scales) = (bytes(codes).as_chunks::<{ BLOCK / 2 }>().0, bytes(scales));
                for (r, line) in out.chunks_exact_mut(cols * (1 + BLOCK / 2)).enumerate() {
                    let at = first + r * over_rows;
                    let line = line.as_chunks_mut::<{ 1 + BLOCK / 2 }>().0.iter_mut();
                    for ((block, codes), scale) in line.zip(&codes[at..at + cols]).zip(&scales[at..at + cols])
                    {
                        block[0] = *scale;
                        block[1..].copy_from_slice(&halves(codes));
                    }
                }
            }
        }
    }
}

/// Codes of consecutive columns in each byte, as those of columns `j` and `j + 16` in byte `j`.
fn halves(codes: &[u8; BLOCK / 2]) -> [u8; BLOCK / 2] {
    let mut out = [0; BLOCK / 2];
    let (low, high) = codes.split_at(BLOCK / 4);
    for ((pair, &low), &high) in out.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
        *pair = [low & 15 | high << 4, low >> 4 | high & 0xf0];
    }
    out
}

/// Elements of `N` bytes to a matrix `out`: that in row `r` and column `c` lies `steps` of both behind `first`.
fn pick<const N: usize>(
    data: &[u8],
    first: usize,
    [over_rows, over_cols]: [usize; 2],
    [rows, cols]: [usize; 2],
    out: &mut [u8],
) {
    let (data, out) = (data.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    if over_cols == 1 {
        for (r, line) in out.chunks_exact_mut(cols).enumerate() {
            let at = first + r * over_rows;
            line.copy_from_slice(&data[at..at + cols]);
        }
        return;
    }
    for top in (0..rows).step_by(TILE) {
        for left in (0..cols).step_by(TILE) {
            for c in left..cols.min(left + TILE) {
                for r in top..rows.min(top + TILE) {
                    out[r * cols + c] = data[first + r * over_rows + c * over_cols];
                }
            }
        }
    }
}

/// How many rows there are of every `step`-th.
fn every(name: &str, rows: usize, step: usize) -> Result<usize, Problem> {
    match rows.is_multiple_of(step) {
        true => Ok(rows / step),
        false => Err(Problem::Coded {
            tensor: name.into(),
            problem: format!("has {rows} outputs, which are no pairs of gate and up"),
        }),
    }
}

fn misshapen(name: &str, shape: &[usize], expected: &str) -> Problem {
    Problem::Coded { tensor: name.into(), problem: format!("is of shape {shape:?}; expected: {expected}") }
}
