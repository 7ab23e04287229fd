//! IQ2_XS: 256 elements in 74 bytes, 16 groups of 16, `value = (d/8 * (2 s + 1)) * ±g` with `g` from a grid of 512 rows of eight.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..66 | `qs[32]`: u16 per eight elements: 9 bits for the row of the grid, 7 bits of signs |
//! | 66..74 | `scales[8]`: `s` of 4 bits, two to a byte, the even group in the low nibble |

use super::block::{Block, half};
use super::grids::{IQ2_XS, even_signs, put_eight};

pub(super) const BYTES: usize = 74;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]) / 8.0, 0.0);
    for g in 0..16 {
        (out.scales[g], out.mins[g]) = (2 * (b[66 + g / 2] >> (4 * (g % 2)) & 15) as i8 + 1, 0);
    }
    for (i, q) in b[2..66].as_chunks::<2>().0.iter().enumerate() {
        let q = u16::from_le_bytes(*q);
        put_eight(&mut out.codes, i, IQ2_XS[usize::from(q & 511)], even_signs((q >> 9) as u8));
    }
}
