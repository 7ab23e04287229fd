//! Q4_K: 256 elements in 144 bytes, 8 groups of 32, `value = (d * scale) * q - dmin * min`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..4 | `dmin`: f16 |
//! | 4..16 | `scales[12]`: 8 six-bit scales and 8 six-bit minimums, see [`scales_and_mins`] |
//! | 16..144 | `qs[128]`: four chunks of 32 bytes; in chunk `c`, the low nibble of byte `l` is element `64c + l`, the high nibble element `64c + 32 + l` |

use super::block::{Block, half, to_half};

pub(super) const BYTES: usize = 144;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[0], b[1]]);
    out.dmin = half(&[b[2], b[3]]);
    scales_and_mins(&b[4..16], out);
    for c in 0..4 {
        for l in 0..32 {
            let q = b[16 + 32 * c + l];
            out.codes[64 * c + l] = (q & 15) as i8;
            out.codes[64 * c + 32 + l] = (q >> 4) as i8;
        }
    }
}

/// The 12 bytes that Q4_K and Q5_K share, for groups `g` in 0..4:
/// - byte `g`: scale `g` in bits 0..6, bits 4..6 of scale `g + 4` in bits 6..8
/// - byte `4 + g`: minimum `g` in bits 0..6, bits 4..6 of minimum `g + 4` in bits 6..8
/// - byte `8 + g`: bits 0..4 of scale `g + 4` in the low nibble, of minimum `g + 4` in the high nibble
pub(super) fn scales_and_mins(s: &[u8], out: &mut Block) {
    for g in 0..4 {
        out.scales[g] = (s[g] & 63) as i8;
        out.mins[g] = s[4 + g] & 63;
        out.scales[4 + g] = (s[8 + g] & 15 | s[g] >> 6 << 4) as i8;
        out.mins[4 + g] = s[8 + g] >> 4 | s[4 + g] >> 6 << 4;
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..4].copy_from_slice(&to_half(block.dmin));
    store_scales_and_mins(block, &mut b[4..16]);
    for c in 0..4 {
        for l in 0..32 {
            b[16 + 32 * c + l] = block.codes[64 * c + l] as u8 | (block.codes[64 * c + 32 + l] as u8) << 4;
        }
    }
}

/// The inverse of [`scales_and_mins`].
pub(super) fn store_scales_and_mins(block: &Block, s: &mut [u8]) {
    for g in 0..4 {
        let (scale, min) = (block.scales[4 + g] as u8, block.mins[4 + g]);
        s[g] = block.scales[g] as u8 | scale >> 4 << 6;
        s[4 + g] = block.mins[g] | min >> 4 << 6;
        s[8 + g] = scale & 15 | min << 4;
    }
}
