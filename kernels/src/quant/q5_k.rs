//! Q5_K: 256 elements in 176 bytes, 8 groups of 32, `value = (d * scale) * q - dmin * min`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..4 | `dmin`: f16 |
//! | 4..16 | `scales[12]`: as in Q4_K |
//! | 16..48 | `qh[32]`: bit `g` of byte `l` is bit 4 of element `32g + l` |
//! | 48..176 | `qs[128]`: bits 0..4, as in Q4_K |

use super::block::{Block, half, to_half};
use super::q4_k::{scales_and_mins, store_scales_and_mins};

pub(super) const BYTES: usize = 176;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[0], b[1]]);
    out.dmin = half(&[b[2], b[3]]);
    scales_and_mins(&b[4..16], out);
    for c in 0..4 {
        for l in 0..32 {
            let q = b[48 + 32 * c + l];
            let high = b[16 + l] >> (2 * c);
            out.codes[64 * c + l] = (q & 15 | (high & 1) << 4) as i8;
            out.codes[64 * c + 32 + l] = (q >> 4 | (high >> 1 & 1) << 4) as i8;
        }
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..4].copy_from_slice(&to_half(block.dmin));
    store_scales_and_mins(block, &mut b[4..16]);
    for l in 0..32 {
        b[16 + l] = (0..8).fold(0, |bits, g| bits | (block.codes[32 * g + l] as u8 >> 4) << g);
        for c in 0..4 {
            let code = |i: usize| block.codes[64 * c + i] as u8 & 15;
            b[48 + 32 * c + l] = code(l) | code(32 + l) << 4;
        }
    }
}
