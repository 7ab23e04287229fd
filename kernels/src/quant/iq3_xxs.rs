//! IQ3_XXS: 256 elements in 98 bytes, 8 groups of 32, `value = (d/4 * (2 s + 1)) * ±g` with `g` from a grid of 256 rows of four.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..66 | `qs[64]`: per four elements the row of the grid |
//! | 66..98 | per group a u32: four times 7 bits of signs, each for eight elements, and `s` in its upper 4 bits |

use super::block::{Block, half};
use super::grids::{IQ3_XXS, IQ3_XXS_LEVELS, even_signs, put_four};

pub(super) const BYTES: usize = 98;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]) / 4.0, 0.0);
    for (g, tail) in b[66..].as_chunks::<4>().0.iter().enumerate() {
        let tail = u32::from_le_bytes(*tail);
        (out.scales[g], out.mins[g]) = (2 * (tail >> 28) as i8 + 1, 0);
        for l in 0..8 {
            let signs = even_signs((tail >> (7 * (l / 2))) as u8 & 127) >> (4 * (l % 2));
            let i = 8 * g + l;
            put_four(&mut out.codes, i, IQ3_XXS[usize::from(b[2 + i])], IQ3_XXS_LEVELS, signs);
        }
    }
}
