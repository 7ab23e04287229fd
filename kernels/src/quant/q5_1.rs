//! Q5_1: 32 elements in 24 bytes, `value = d * q + m`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..4 | `m`: f16, added (usually negative) |
//! | 4..8 | `qh`: u32, bit `i` is bit 4 of element `i` |
//! | 8..24 | `qs[16]`: low nibble of `qs[j]` is bits 0..4 of element `j`, high nibble those of element `j + 16` |

use super::block::{Block, half, to_half};

pub(super) const BYTES: usize = 24;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), Some(half(&[b[2], b[3]])));
    let qh = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    for j in 0..16 {
        let high = |i: usize| ((qh >> i & 1) << 4) as u8;
        out.codes[j] = (b[8 + j] & 15 | high(j)) as i8;
        out.codes[j + 16] = (b[8 + j] >> 4 | high(j + 16)) as i8;
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..4].copy_from_slice(&to_half(-block.dmin));
    let code = |i: usize| block.codes[i] as u8;
    let high = (0..32).fold(0u32, |bits, i| bits | u32::from(code(i) >> 4) << i);
    b[4..8].copy_from_slice(&high.to_le_bytes());
    for j in 0..16 {
        b[8 + j] = code(j) & 15 | code(j + 16) << 4;
    }
}
