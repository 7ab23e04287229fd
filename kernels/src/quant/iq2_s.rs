//! IQ2_S: 256 elements in 82 bytes, 16 groups of 16, `value = (d/8 * (2 s + 1)) * ±g` with `g` from a grid of 1024 rows of eight.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..34 | `qs[32]`: per eight elements the lower 8 bits of the row of the grid |
//! | 34..66 | `signs[32]`: per eight elements a bit each |
//! | 66..74 | `qh[8]`: the upper 2 bits of the rows, four to a byte |
//! | 74..82 | `scales[8]`: `s` of 4 bits, two to a byte, the even group in the low nibble |

use super::block::{Block, half};
use super::grids::{IQ2_S, put_eight};

pub(super) const BYTES: usize = 82;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]) / 8.0, 0.0);
    for g in 0..16 {
        (out.scales[g], out.mins[g]) = (2 * (b[74 + g / 2] >> (4 * (g % 2)) & 15) as i8 + 1, 0);
    }
    for i in 0..32 {
        let high = usize::from(b[66 + i / 4] >> (2 * (i % 4)) & 3);
        put_eight(&mut out.codes, i, IQ2_S[usize::from(b[2 + i]) | high << 8], b[34 + i]);
    }
}
