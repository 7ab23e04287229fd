//! NVFP4: 64 elements in 36 bytes, `value = d / 2 * LEVELS[q]` with a scale `d` for every 16 (levels are doubled, so that they are
//! integers, and the scale is halved for it). What NVIDIA's checkpoints have besides, a scale for a whole matrix, is a tensor
//! of its own, `{name}.scale`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `d[4]`: E4M3 floats, the sign bit without meaning, 0x7f a zero |
//! | 4..36 | `qs[4][8]`: low nibble of `qs[g][j]` is element `16 g + j`, high nibble is element `16 g + j + 8` |

use super::block::Block;
use super::mxfp4::LEVELS;

pub(super) const BYTES: usize = 36;

pub(super) fn unpack(b: &[u8; BYTES], out: &mut Block) {
    (out.d, out.dmin) = (0.5, 0.0);
    let (scales, codes) = b.split_at(4);
    for (g, (&scale, codes)) in scales.iter().zip(codes.as_chunks::<8>().0).enumerate() {
        // 0x7f is what E4M3 has for NaN; with the sign bit set it is read as the number that follows 448.
        out.scales[g] = if scale == 0x7f { 0 } else { (scale & 0x7f) as i8 };
        out.mins[g] = 0;
        for (j, byte) in codes.iter().enumerate() {
            out.codes[16 * g + j] = LEVELS[usize::from(byte & 15)];
            out.codes[16 * g + j + 8] = LEVELS[usize::from(byte >> 4)];
        }
    }
}
