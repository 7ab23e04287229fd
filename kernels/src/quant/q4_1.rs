//! Q4_1: 32 elements in 20 bytes, `value = d * q + m`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..4 | `m`: f16, added (usually negative) |
//! | 4..20 | `qs[16]`: low nibble of `qs[j]` is element `j`, high nibble is element `j + 16` |

use super::block::{Block, half, to_half};

pub(super) const BYTES: usize = 20;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), Some(half(&[b[2], b[3]])));
    for j in 0..16 {
        out.codes[j] = (b[4 + j] & 15) as i8;
        out.codes[j + 16] = (b[4 + j] >> 4) as i8;
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..4].copy_from_slice(&to_half(-block.dmin));
    for j in 0..16 {
        b[4 + j] = block.codes[j] as u8 | (block.codes[j + 16] as u8) << 4;
    }
}
