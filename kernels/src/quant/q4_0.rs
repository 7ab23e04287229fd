//! Q4_0: 32 elements in 18 bytes, `value = d * (q - 8)`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..18 | `qs[16]`: low nibble of `qs[j]` is element `j`, high nibble is element `j + 16` |

use super::block::{Block, half, signed, to_half};

pub(super) const BYTES: usize = 18;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), None);
    for j in 0..16 {
        out.codes[j] = signed(b[2 + j] & 15, 8);
        out.codes[j + 16] = signed(b[2 + j] >> 4, 8);
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    for j in 0..16 {
        b[2 + j] = (block.codes[j] + 8) as u8 | ((block.codes[j + 16] + 8) as u8) << 4;
    }
}
