//! TQ2_0: 256 elements in 66 bytes, `value = d * (q - 1)`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..64 | `qs[64]`: in half `h`, bits `2j..2j+2` of byte `l` are `q` of element `128h + 32j + l` |
//! | 64..66 | `d`: f16 |

use super::block::{Block, half, signed};

pub(super) const BYTES: usize = 66;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (half(&[b[64], b[65]]), 0.0);
    out.scales[..8].fill(1);
    out.mins[..8].fill(0);
    for i in 0..256 {
        let (h, j, l) = (i / 128, i / 32 % 4, i % 32);
        out.codes[i] = signed(b[32 * h + l] >> (2 * j) & 3, 1);
    }
}
