//! The table of every tensor type that a GGUF file may name, so that a file can be read and described, and an error can
//! name its type, whether or not kinfer computes with it.

use super::{FORMATS, Format};

/// A ggml tensor type: its GGUF id, name and block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    format: Option<Format>,
}

/// Known to ggml, not computed with: id, name, elements per block, bytes per block. Q8_1 and Q8_K are intermediate
/// formats of ggml's kernels; integers and F64 occur in auxiliary tensors. Ids 4, 5, 31-33 and 36-38 were removed from ggml.
#[rustfmt::skip]
static OTHERS: [TensorType; 17] = [
    other(4, "Q4_2", 16, 10),
    other(5, "Q4_3", 16, 12),
    other(9, "Q8_1", 32, 36),
    other(15, "Q8_K", 256, 292),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(31, "Q4_0_4_4", 32, 18),
    other(32, "Q4_0_4_8", 32, 18),
    other(33, "Q4_0_8_8", 32, 18),
    other(36, "IQ4_NL_4_4", 32, 18),
    other(37, "IQ4_NL_4_8", 32, 18),
    other(38, "IQ4_NL_8_8", 32, 18),
    other(41, "Q1_0", 128, 18),
    other(42, "Q2_0", 64, 18),
];

const fn other(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> TensorType {
    TensorType::new(id, name, block_len, block_bytes, None)
}

impl TensorType {
    pub(super) const fn new(
        id: u32,
        name: &'static str,
        block_len: usize,
        block_bytes: usize,
        format: Option<Format>,
    ) -> Self {
        Self { id, name, block_len, block_bytes, format }
    }

    /// Every known type: the supported formats first, then the others.
    pub fn all() -> impl Iterator<Item = TensorType> {
        FORMATS.iter().map(|row| row.ty).chain(OTHERS.iter().copied())
    }

    /// The type with this GGUF id; `None` for an id that ggml has not assigned.
    pub fn from_id(id: u32) -> Option<TensorType> {
        Self::all().find(|ty| ty.id == id)
    }

    /// The id stored in GGUF tensor records.
    pub fn id(self) -> u32 {
        self.id
    }

    /// ggml's name, for example `IQ2_XXS`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Elements per block.
    pub fn block_len(self) -> usize {
        self.block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.block_bytes
    }

    /// Stored bits per element, scales included.
    pub fn bits_per_weight(self) -> f64 {
        (self.block_bytes * 8) as f64 / self.block_len as f64
    }

    /// The format to compute with; `None` where kinfer can only name and size the type.
    pub fn format(self) -> Option<Format> {
        self.format
    }
}
