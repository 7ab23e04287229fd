//! IQ1_M: 256 elements in 56 bytes, 16 groups of 16, `value = (d/8 * (2 s + 1)) * (8 g ± 1)` with IQ1_S's grid.
//!
//! | bytes | field |
//! |---|---|
//! | 0..32 | `qs[32]`: per eight elements the lower 8 bits of the row of the grid |
//! | 32..48 | `qh[16]`: per eight elements a nibble: the row's upper 3 bits, and the sign of the 1 |
//! | 48..56 | `scales[4]`: u16: four times 3 bits of `s`, and 4 bits of `d`, an f16, the lowest first |

use super::block::{Block, half};
use super::grids::{IQ1_S, put_shifted};

pub(super) const BYTES: usize = 56;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    let d = [b[49] >> 4 | b[51] & 0xf0, b[53] >> 4 | b[55] & 0xf0];
    (out.d, out.dmin) = (half(&d) / 8.0, 0.0);
    for g in 0..16 {
        let scales = u16::from_le_bytes([b[48 + g / 4 * 2], b[49 + g / 4 * 2]]);
        (out.scales[g], out.mins[g]) = (2 * (scales >> (3 * (g % 4)) & 7) as i8 + 1, 0);
    }
    for i in 0..32 {
        let high = b[32 + i / 2] >> (4 * (i % 2));
        let row = usize::from(b[i]) | usize::from(high & 7) << 8;
        put_shifted(&mut out.codes, i, IQ1_S[row], high & 8 != 0);
    }
}

/// Writes `d`.
pub(super) fn put_scale(b: &mut [u8], d: half::f16) {
    for i in 0..4 {
        let high = &mut b[49 + 2 * i];
        *high = *high & 15 | ((d.to_bits() >> (4 * i)) as u8) << 4;
    }
}
