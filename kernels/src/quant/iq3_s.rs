//! IQ3_S: 256 elements in 110 bytes, 8 groups of 32, `value = (d * (2 s + 1)) * ±g` with `g` from a grid of 512 rows of four.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..66 | `qs[64]`: per four elements the lower 8 bits of the row of the grid |
//! | 66..74 | `qh[8]`: the rows' ninth bits, eight to a byte |
//! | 74..106 | `signs[32]`: per eight elements a bit each |
//! | 106..110 | `scales[4]`: `s` of 4 bits, two to a byte, the even group in the low nibble |

use super::block::{Block, half};
use super::grids::{IQ3_S, IQ3_S_LEVELS, put_four};

pub(super) const BYTES: usize = 110;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]), 0.0);
    for g in 0..8 {
        (out.scales[g], out.mins[g]) = (2 * (b[106 + g / 2] >> (4 * (g % 2)) & 15) as i8 + 1, 0);
    }
    for i in 0..64 {
        let row = usize::from(b[2 + i]) | usize::from(b[66 + i / 8] >> (i % 8) & 1) << 8;
        put_four(&mut out.codes, i, IQ3_S[row], IQ3_S_LEVELS, b[74 + i / 2] >> (4 * (i % 2)));
    }
}
