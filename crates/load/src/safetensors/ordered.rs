//! Tensors of delta nets, whose rows or columns another one has in another order.
//!
//! GGUF files have queries, keys and values of all heads one after the other, where Qwen3-Next projects what belongs to a key head
//! together; and the value heads of Qwen 3.5 take turns there: the first ones of all key heads before the second ones.

use std::borrow::Cow;
use std::ops::Range;

use kinfer_kernels::quant::Format;

use super::coded::{Coded, Piece};
use super::config::Delta;
use super::made::Of;
use super::names::DeltaPart;
use crate::gguf::Problem;

/// A matrix, or a vector as a matrix of one row, of some rows and columns of a stored one, in another order. No bit of a value changes.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(super) of: Of,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// Columns of the stored matrix.
    width: usize,
    /// The stored rows, in order.
    rows: Vec<Range<usize>>,
    /// The stored columns, in order.
    cols: Vec<Range<usize>>,
}

impl Ordered {
    /// A part of tensor `name`, which is stored as floats.
    pub(super) fn of_floats(
        name: &str,
        part: DeltaPart,
        piece: Piece,
        format: Format,
        delta: Option<Delta>,
    ) -> Result<Ordered, Problem> {
        let mut shape = piece.shape.clone();
        // A convolution's channels have one input each.
        if shape.len() == 3 && shape[1] == 1 {
            shape.remove(1);
        }
        Ordered::new(name, part, Of::Floats { piece, format }, shape, delta)
    }

    /// A part of matrix `name`, which is stored quantised.
    pub(super) fn of_coded(
        name: &str,
        part: DeltaPart,
        coded: Coded,
        delta: Option<Delta>,
    ) -> Result<Ordered, Problem> {
        let shape = coded.shape().to_vec();
        Ordered::new(name, part, Of::Coded(coded), shape, delta)
    }

    fn new(
        name: &str,
        part: DeltaPart,
        of: Of,
        shape: Vec<usize>,
        delta: Option<Delta>,
    ) -> Result<Ordered, Problem> {
        let wrong = |expected: &str| Problem::Coded {
            tensor: name.into(),
            problem: format!("is of shape {shape:?}; expected: {expected}"),
        };
        let delta = delta.ok_or_else(|| wrong("no part of a delta net"))?;
        // What is ordered has so many rows, or columns.
        let (is_rows, along) = match (part, &shape[..]) {
            (DeltaPart::Columns, &[_, cols]) => (false, cols),
            (DeltaPart::Heads, &[len]) => (false, len),
            (DeltaPart::Columns, _) => return Err(wrong("a matrix")),
            (_, &[rows, _]) => (true, rows),
            _ => return Err(wrong("a matrix of rows of heads")),
        };
        let all = delta.stored(part);
        if along != all || shape.contains(&0) {
            let Delta { key_heads, value_heads, key_dim, value_dim, .. } = delta;
            return Err(wrong(&format!(
                "{all} {}, of {key_heads} key heads of {key_dim} and {value_heads} value heads of {value_dim}",
                if is_rows { "rows" } else { "columns" }
            )));
        }
        let (runs, width) = (delta.runs(part), shape[shape.len() - 1]);
        let kept: usize = runs.iter().map(Range::len).sum();
        let whole = |n: usize| vec![Range { start: 0, end: n }];
        let (rows, cols) = match is_rows {
            true => (runs, whole(width)),
            false => (whole(shape[..shape.len() - 1].iter().product()), runs),
        };
        let mut own = shape;
        let last = own.len() - 1;
        own[if is_rows { 0 } else { last }] = kept;
        Ok(Ordered { of, shape: own, width, rows, cols })
    }

    /// Its rows in its format.
    pub(super) fn rows<'b>(&self, rows: Range<usize>, bytes: &dyn Fn(&Piece) -> &'b [u8]) -> Vec<u8> {
        let element = self.of.format().block_bytes();
        let line = self.width * element;
        let cols: usize = self.cols.iter().map(Range::len).sum();
        let mut out = Vec::with_capacity(rows.len() * cols * element);
        let mut first = 0;
        for run in &self.rows {
            let inside = |row: usize| row.clamp(first, first + run.len()) - first + run.start;
            let stored = inside(rows.start)..inside(rows.end);
            first += run.len();
            if stored.is_empty() {
                continue;
            }
            let data = match &self.of {
                Of::Coded(coded) => Cow::Owned(coded.decode(stored, bytes)),
                Of::Floats { piece, .. } | Of::Blocks { codes: piece, .. } => {
                    let range = stored.start * line..stored.end * line;
                    Cow::Borrowed(bytes(piece).get(range).unwrap_or_default())
                }
            };
            for row in data.chunks_exact(line) {
                self.cols.iter().for_each(|c| out.extend(&row[c.start * element..c.end * element]));
            }
        }
        out
    }
}

impl Delta {
    /// Rows, or columns, of the stored tensor that `part` is of.
    fn stored(&self, part: DeltaPart) -> usize {
        let Delta { key_heads, value_heads, key_dim, value_dim, .. } = *self;
        let (keys, values) = (key_heads.saturating_mul(key_dim), value_heads.saturating_mul(value_dim));
        match part {
            DeltaPart::Mixed => keys.saturating_mul(2).saturating_add(values),
            DeltaPart::Values | DeltaPart::Columns => values,
            DeltaPart::Heads => value_heads,
            DeltaPart::Projected | DeltaPart::Gate => {
                keys.saturating_mul(2).saturating_add(values.saturating_mul(2))
            }
        }
    }

    /// Which of them `part` has, in order. The stored tensor has as many as it should have.
    fn runs(&self, part: DeltaPart) -> Vec<Range<usize>> {
        let Delta { key_heads, key_dim, value_dim, .. } = *self;
        let group = self.value_heads / key_heads;
        let in_turns = |first: usize, width: usize| {
            let head = move |i: usize| i % key_heads * group + i / key_heads;
            (0..self.value_heads).map(move |i| first + head(i) * width..first + (head(i) + 1) * width)
        };
        // What belongs to a key head: its query, its key, the values, and their gates.
        let values = group * value_dim;
        let of_heads = |first: usize, width: usize| {
            let all = 2 * key_dim + 2 * values;
            (0..key_heads).map(move |h| h * all + first..h * all + first + width)
        };
        match part {
            DeltaPart::Mixed => {
                let keys = 2 * key_heads * key_dim;
                std::iter::once(0..keys).chain(in_turns(keys, value_dim)).collect()
            }
            DeltaPart::Values | DeltaPart::Columns => in_turns(0, value_dim).collect(),
            DeltaPart::Heads => in_turns(0, 1).collect(),
            DeltaPart::Projected => {
                let keys = of_heads(0, key_dim).chain(of_heads(key_dim, key_dim));
                keys.chain(of_heads(2 * key_dim, values)).collect()
            }
            DeltaPart::Gate => of_heads(2 * key_dim + values, values).collect(),
        }
    }

    /// The rates of decay of the value heads, from their logarithms as transformers stores them.
    pub(super) fn decay(&self, name: &str, logarithms: &[f32]) -> Result<Vec<f32>, Problem> {
        if logarithms.len() != self.value_heads {
            let problem = format!("has {} elements; expected: {}", logarithms.len(), self.value_heads);
            return Err(Problem::Coded { tensor: name.into(), problem });
        }
        let rate = |i: usize| -f64::from(logarithms[i]).exp() as f32;
        Ok(match self.turns {
            true => self.runs(DeltaPart::Heads).into_iter().map(|run| rate(run.start)).collect(),
            false => (0..logarithms.len()).map(rate).collect(),
        })
    }
}
