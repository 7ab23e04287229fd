//! Q3_K: 256 elements in 110 bytes, 16 groups of 16, `value = (d * (scale - 32)) * q` with `q` in -4..=3.
//!
//! | bytes | field |
//! |---|---|
//! | 0..32 | `hmask[32]`: bit `4h + j` of byte `l` belongs to element `128h + 32j + l`; a clear bit subtracts 4 from it |
//! | 32..96 | `qs[64]`: as in Q2_K: in half `h`, bits `2j..2j+2` of byte `l` are element `128h + 32j + l` |
//! | 96..108 | `scales[12]`: 16 six-bit scales. Bits 0..4 of group `g`: byte `g % 8`, low nibble for `g < 8`, else high. Bits 4..6: byte `8 + g % 4`, bits `2(g / 4)..` |
//! | 108..110 | `d`: f16 |

use super::block::{Block, half, signed, to_half};

pub(super) const BYTES: usize = 110;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[108], b[109]]);
    out.dmin = 0.0;
    for g in 0..16 {
        let low = b[96 + g % 8] >> (4 * (g / 8)) & 15;
        let high = b[104 + g % 4] >> (2 * (g / 4)) & 3;
        out.scales[g] = signed(low | high << 4, 32);
        out.mins[g] = 0;
    }
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                let low = b[32 + 32 * h + l] >> (2 * j) & 3;
                let high = b[l] >> (4 * h + j) & 1;
                out.codes[128 * h + 32 * j + l] = signed(low | high << 2, 4);
            }
        }
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..108].fill(0);
    b[108..110].copy_from_slice(&to_half(block.d));
    for g in 0..16 {
        let scale = (block.scales[g] + 32) as u8;
        b[96 + g % 8] |= (scale & 15) << (4 * (g / 8));
        b[104 + g % 4] |= scale >> 4 << (2 * (g / 4));
    }
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                let code = (block.codes[128 * h + 32 * j + l] + 4) as u8;
                b[32 + 32 * h + l] |= (code & 3) << (2 * j);
                b[l] |= code >> 2 << (4 * h + j);
            }
        }
    }
}
