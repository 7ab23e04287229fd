//! TQ1_0: 256 elements in 54 bytes, `value = d * q` with `q` in -1..=1, five elements to a byte as digits of base 3.
//!
//! | bytes | field |
//! |---|---|
//! | 0..32 | digit `n` of byte `m` is element `32n + m` |
//! | 32..48 | digit `n` of byte `m` is element `160 + 16n + m` |
//! | 48..52 | digit `n` of byte `m`, four of them, is element `240 + 4n + m` |
//! | 52..54 | `d`: f16 |
//!
//! A byte is the number of its digits, of 243, scaled up to 256: times `3^n`, modulo 256, it begins with digit `n`.

use super::Levels;
use super::block::{Block, half};

pub(super) const BYTES: usize = 54;

/// The values, with one for the fourth code of two bits, which TQ2_0 can spell.
pub(crate) const LEVELS: Levels = &[-1, 0, 1, 2];

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[52], b[53]]), 0.0);
    out.scales[..8].fill(1);
    out.mins[..8].fill(0);
    let mut digits = |bytes: &[u8], first: usize, count: usize| {
        for (m, &byte) in bytes.iter().enumerate() {
            let mut byte = byte;
            for n in 0..count {
                out.codes[first + n * bytes.len() + m] = ((u16::from(byte) * 3) >> 8) as i8 - 1;
                byte = byte.wrapping_mul(3);
            }
        }
    };
    digits(&b[..32], 0, 5);
    digits(&b[32..48], 160, 5);
    digits(&b[48..52], 240, 4);
}
