//! Q2_K: 256 elements in 84 bytes, 16 groups of 16, `value = (d * scale) * q - dmin * min`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..16 | `scales[16]`: group `g`'s scale in the low nibble, its minimum in the high nibble |
//! | 16..80 | `qs[64]`: two halves of 32 bytes; in half `h`, bits `2j..2j+2` of byte `l` are element `128h + 32j + l` |
//! | 80..82 | `d`: f16 |
//! | 82..84 | `dmin`: f16 |

use super::block::{Block, half, to_half};

pub(super) const BYTES: usize = 84;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[80], b[81]]);
    out.dmin = half(&[b[82], b[83]]);
    for (g, &s) in b[..16].iter().enumerate() {
        out.scales[g] = (s & 15) as i8;
        out.mins[g] = s >> 4;
    }
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                out.codes[128 * h + 32 * j + l] = (b[16 + 32 * h + l] >> (2 * j) & 3) as i8;
            }
        }
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[80..82].copy_from_slice(&to_half(block.d));
    b[82..84].copy_from_slice(&to_half(block.dmin));
    for ((byte, &scale), &min) in b[..16].iter_mut().zip(&block.scales).zip(&block.mins) {
        *byte = scale as u8 | min << 4;
    }
    for h in 0..2 {
        for l in 0..32 {
            let code = |j: usize| (block.codes[128 * h + 32 * j + l] as u8) << (2 * j);
            b[16 + 32 * h + l] = code(0) | code(1) | code(2) | code(3);
        }
    }
}
