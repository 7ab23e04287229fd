//! MXFP4: 32 elements in 17 bytes, `value = 2^(e - 128) * LEVELS[q]` (OCP Microscaling Formats 1.0; levels are doubled, so that they
//! are integers, and the exponent is one less for it).
//!
//! | bytes | field |
//! |---|---|
//! | 0 | `e`: u8, the exponent |
//! | 1..17 | `qs[16]`: low nibble of `qs[j]` is element `j`, high nibble is element `j + 16` |

use super::Levels;
use super::block::{Block, store_places};

pub(super) const BYTES: usize = 17;

/// Twice the values of E2M1: a sign, two bits of exponent, one of mantissa.
pub(crate) const LEVELS: Levels = &[0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    // 2^-128 and 2^-127 are denormal.
    let bits = if b[0] < 2 { 0x0020_0000 << b[0] } else { u32::from(b[0] - 1) << 23 };
    out.set_simple(f32::from_bits(bits), None);
    for j in 0..16 {
        out.codes[j] = LEVELS[usize::from(b[1 + j] & 15)];
        out.codes[j + 16] = LEVELS[usize::from(b[1 + j] >> 4)];
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    let bits = block.d.to_bits();
    // 2^-128 and 2^-127 are denormal.
    b[0] = if bits < 0x0080_0000 { (bits >> 22) as u8 } else { (bits >> 23) as u8 + 1 };
    store_places(&block.codes, LEVELS, &mut b[1..]);
}
