//! Q8_0: 32 elements in 34 bytes, `value = d * q`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..34 | `qs[32]`: i8, element `j` |

use super::block::{Block, half, to_half};

pub(super) const BYTES: usize = 34;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), None);
    for j in 0..32 {
        out.codes[j] = b[2 + j] as i8;
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..].iter_mut().zip(&block.codes).for_each(|(b, &code)| *b = code as u8);
}
