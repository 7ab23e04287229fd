//! Q6_K: 256 elements in 210 bytes, 16 groups of 16, `value = (d * scale) * (q - 32)`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..128 | `ql[128]`: two halves of 64 bytes; in half `h`, byte `32k + l` holds bits 0..4 of element `128h + 32k + l` in its low nibble and of element `128h + 64 + 32k + l` in its high nibble |
//! | 128..192 | `qh[64]`: two halves of 32 bytes; in half `h`, bits `2j..2j+2` of byte `l` are bits 4..6 of element `128h + 32j + l` |
//! | 192..208 | `scales[16]`: i8 |
//! | 208..210 | `d`: f16 |

use super::block::{Block, half, signed, to_half};

pub(super) const BYTES: usize = 210;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    out.d = half(&[b[208], b[209]]);
    out.dmin = 0.0;
    for g in 0..16 {
        out.scales[g] = b[192 + g] as i8;
        out.mins[g] = 0;
    }
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                let low = b[64 * h + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
                let high = b[128 + 32 * h + l] >> (2 * j) & 3;
                out.codes[128 * h + 32 * j + l] = signed(low | high << 4, 32);
            }
        }
    }
}

/// The inverse of [`unpack`].
pub(super) fn store(block: &Block, b: &mut [u8]) {
    b[208..210].copy_from_slice(&to_half(block.d));
    b[..192].fill(0);
    for g in 0..16 {
        b[192 + g] = block.scales[g] as u8;
    }
    for h in 0..2 {
        for j in 0..4 {
            for l in 0..32 {
                let code = (block.codes[128 * h + 32 * j + l] + 32) as u8;
                b[64 * h + 32 * (j % 2) + l] |= (code & 15) << (4 * (j / 2));
                b[128 + 32 * h + l] |= code >> 4 << (2 * j);
            }
        }
    }
}
