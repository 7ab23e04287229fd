//! Matrices as model files store them.

use crate::Format;

/// A stored matrix, as it lies in the model file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Tensor name, for errors and records.
    pub name: &'a str,
    /// Which matrix it is of a tensor that holds those of several experts, else 0; for records.
    pub expert: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs; a row is `cols` elements in blocks of the format.
    pub cols: usize,
    /// How `data` stores the elements.
    pub format: Format,
    /// `rows * bytes(cols)` bytes, row after row.
    pub data: &'a [u8],
    /// What all elements are multiplied with besides: 1 in all formats but NVFP4, whose files have such a number for each matrix.
    pub scale: f32,
    /// The order in which the rows are to be taken.
    pub order: RowOrder,
}

/// Row order of a stored projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As stored.
    AsStored,
    /// The rows of each head that turn are stored for rotary pairs `(2i, 2i+1)`; taken in the order
    /// `0, 2, 4, …, 1, 3, 5, …` they suit the half-split convention of [`RopeSpec`](crate::RopeSpec).
    AdjacentPairs {
        /// Rows of a head.
        head_dim: usize,
        /// The first rows of a head, which turn.
        turned: usize,
    },
    /// The rows of `parts` matrices take turns, `rows` of each at a time; they are taken one matrix after the other.
    Interleaved {
        /// Matrices.
        parts: usize,
        /// Rows of each that follow one another.
        rows: usize,
        /// How often each comes.
        times: usize,
    },
    /// The last `turned` rows of each head turn, stored for adjacent pairs; they are taken first, as above, and the others after them.
    TurnedLast {
        /// Rows of a head.
        head_dim: usize,
        /// Those of them that turn.
        turned: usize,
    },
}

impl RowOrder {
    /// The stored row that is taken as row `r`.
    pub fn stored_row(self, r: usize) -> usize {
        match self {
            RowOrder::AsStored => r,
            RowOrder::Interleaved { parts, rows, times } => {
                let (part, r) = (r / (rows * times), r % (rows * times));
                (r / rows * parts + part) * rows + r % rows
            }
            RowOrder::AdjacentPairs { head_dim, turned } => {
                let (head, i) = (r / head_dim, r % head_dim);
                head * head_dim + pairs_to_halves(i, turned)
            }
            RowOrder::TurnedLast { head_dim, turned } => {
                let (head, i) = (r / head_dim, r % head_dim);
                let plain = head_dim - turned;
                let i = if i < turned { plain + pairs_to_halves(i, turned) } else { i - turned };
                head * head_dim + i
            }
        }
    }
}

/// The row of `turned` pairs of rows that is row `i` of two halves; rows behind them stay.
fn pairs_to_halves(i: usize, turned: usize) -> usize {
    let half = turned / 2;
    match i {
        _ if i < half => 2 * i,
        _ if i < turned => 2 * (i - half) + 1,
        _ => i,
    }
}

impl Matrix<'_> {
    /// The stored row that is taken as row `r`.
    pub fn stored_row(&self, r: usize) -> usize {
        self.order.stored_row(r)
    }

    /// Bytes of one stored row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.format.block_len() * self.format.block_bytes()
    }

    /// The bytes of the row that is taken as row `r`.
    pub fn row(&self, r: usize) -> &[u8] {
        let n = self.row_bytes();
        let s = self.stored_row(r) * n;
        &self.data[s..s + n]
    }

    /// The values of the row that is taken as row `r`.
    pub fn values(&self, r: usize, out: &mut [f32]) {
        crate::dequantize(self.format, self.row(r), out);
        if self.scale != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.scale);
        }
    }
}
