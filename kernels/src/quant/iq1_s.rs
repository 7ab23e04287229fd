//! IQ1_S: 256 elements in 50 bytes, 8 groups of 32, `value = (d/8 * (2 s + 1)) * (8 g ± 1)` with `g` in -1..=1 from a grid of 2048
//! rows of eight.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..34 | `qs[32]`: per eight elements the lower 8 bits of the row of the grid |
//! | 34..50 | `qh[8]`: u16 per group: four times the rows' upper 3 bits, 3 bits of `s`, and the sign of the 1 |

use super::block::{Block, half};
use super::grids::{IQ1_S, put_shifted};

pub(super) const BYTES: usize = 50;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[0], b[1]]) / 8.0, 0.0);
    for (g, qh) in b[34..].as_chunks::<2>().0.iter().enumerate() {
        let qh = u16::from_le_bytes(*qh);
        (out.scales[g], out.mins[g]) = (2 * (qh >> 12 & 7) as i8 + 1, 0);
        for l in 0..4 {
            let row = usize::from(b[2 + 4 * g + l]) | usize::from(qh >> (3 * l) & 7) << 8;
            put_shifted(&mut out.codes, 4 * g + l, IQ1_S[row], qh >> 15 != 0);
        }
    }
}
