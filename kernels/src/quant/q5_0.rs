//! Q5_0: 32 elements in 22 bytes, `value = d * (q - 16)`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..6 | `qh`: u32, bit `i` is bit 4 of element `i` |
//! | 6..22 | `qs[16]`: low nibble of `qs[j]` is bits 0..4 of element `j`, high nibble those of element `j + 16` |

use super::block::{Block, half, signed, to_half};

pub(super) const BYTES: usize = 22;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), None);
    let qh = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for j in 0..16 {
        let high = |i: usize| ((qh >> i & 1) << 4) as u8;
        out.codes[j] = signed(b[6 + j] & 15 | high(j), 16);
        out.codes[j + 16] = signed(b[6 + j] >> 4 | high(j + 16), 16);
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    let code = |i: usize| (block.codes[i] + 16) as u8;
    let high = (0..32).fold(0u32, |bits, i| bits | u32::from(code(i) >> 4) << i);
    b[2..6].copy_from_slice(&high.to_le_bytes());
    for j in 0..16 {
        b[6 + j] = code(j) & 15 | code(j + 16) << 4;
    }
}
