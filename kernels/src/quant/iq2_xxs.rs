//! IQ2_XXS: 256 elements in 66 bytes, 8 groups of 32, `value = (d/8 * (2 s + 1)) * ±g` with `g` from a grid of 256 rows of eight.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..66 | per group eight bytes: four rows of the grid, then a u32: four times 7 bits of signs, and `s` in its upper 4 bits |

use super::block::{Block, half};
use super::grids::{IQ2_XXS, even_signs, put_eight};

pub(super) const BYTES: usize = 66;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]) / 8.0, 0.0);
    for (g, group) in b[2..].as_chunks::<8>().0.iter().enumerate() {
        let tail = u32::from_le_bytes([group[4], group[5], group[6], group[7]]);
        (out.scales[g], out.mins[g]) = (2 * (tail >> 28) as i8 + 1, 0);
        for l in 0..4 {
            let signs = even_signs((tail >> (7 * l)) as u8 & 127);
            put_eight(&mut out.codes, 4 * g + l, IQ2_XXS[usize::from(group[l])], signs);
        }
    }
}
