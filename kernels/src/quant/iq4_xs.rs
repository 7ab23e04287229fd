//! IQ4_XS: 256 elements in 136 bytes, 8 groups of 32, `value = (d * (scale - 32)) * LEVELS[q]` with IQ4_NL's levels.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..4 | `scales_h`: bits `2g..2g+2` are bits 4..6 of the scale of group `g` |
//! | 4..8 | `scales_l[4]`: bits 0..4 of the scales, two to a byte, the even group in the low nibble |
//! | 8..136 | `qs[128]`: in group `g`, low nibble of `qs[16g + j]` is element `32g + j`, high nibble is element `32g + j + 16` |

use super::block::{Block, half, signed, store_places, to_half};
use super::iq4_nl::LEVELS;

pub(super) const BYTES: usize = 136;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[0], b[1]]);
    out.dmin = 0.0;
    let high = u16::from_le_bytes([b[2], b[3]]);
    for g in 0..8 {
        let low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
        out.scales[g] = signed(low | ((high >> (2 * g) & 3) as u8) << 4, 32);
        out.mins[g] = 0;
        for j in 0..16 {
            let q = b[8 + 16 * g + j];
            out.codes[32 * g + j] = LEVELS[usize::from(q & 15)];
            out.codes[32 * g + j + 16] = LEVELS[usize::from(q >> 4)];
        }
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    b[2..8].fill(0);
    for g in 0..8 {
        let scale = (block.scales[g] + 32) as u8;
        b[2 + g / 4] |= scale >> 4 << (2 * (g % 4));
        b[4 + g / 2] |= (scale & 15) << (4 * (g % 2));
        store_places(&block.codes[32 * g..], LEVELS, &mut b[8 + 16 * g..]);
    }
}
