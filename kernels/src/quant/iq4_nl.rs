//! IQ4_NL: 32 elements in 18 bytes, `value = d * LEVELS[q]`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | `d`: f16 |
//! | 2..18 | `qs[16]`: low nibble of `qs[j]` is element `j`, high nibble is element `j + 16` |

use super::Levels;
use super::block::{Block, half, store_places, to_half};

pub(super) const BYTES: usize = 18;

/// Denser where weights are more frequent.
pub(crate) const LEVELS: Levels = &[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.set_simple(half(&[b[0], b[1]]), None);
    for j in 0..16 {
        out.codes[j] = LEVELS[usize::from(b[2 + j] & 15)];
        out.codes[j + 16] = LEVELS[usize::from(b[2 + j] >> 4)];
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[..2].copy_from_slice(&to_half(block.d));
    store_places(&block.codes, LEVELS, &mut b[2..]);
}
