//! Packed groups turned for GPUs, where a lane of a warp has a row: what belongs to a row lies together, so that it is read with few
//! wide loads, and the rows' pieces follow each other. `kernels/cuda/packed.cuh` reads this.

use super::layout::{Layout, ROWS};

/// Turns packed groups (see [`super::Packing::pack_group`]) for GPUs: `out`, of equal length, gets them.
pub fn turn(layout: Layout, groups: &[u8], out: &mut [u8]) {
    let units = groups.chunks_exact(layout.unit_bytes()).zip(out.chunks_exact_mut(layout.unit_bytes()));
    for (unit, out) in units {
        let (scales, codes) = unit.split_at(layout.scale_bytes());
        let (out_scales, out_codes) = out.split_at_mut(layout.scale_bytes());
        if layout.two_level {
            // The block's scales stay; those of its groups, a byte for each row, turn.
            out_scales[..64].copy_from_slice(&scales[..64]);
            let plane = 256 / layout.group * ROWS;
            for (plane, out) in scales[64..].chunks_exact(plane).zip(out_scales[64..].chunks_exact_mut(plane))
            {
                transpose::<1>(plane, out);
            }
        } else {
            out_scales.copy_from_slice(scales);
        }
        let blocks =
            codes.chunks_exact(layout.block_bytes()).zip(out_codes.chunks_exact_mut(layout.block_bytes()));
        for (mut block, mut out) in blocks {
            // Planes of as many vectors as one load takes words: four, two, one.
            for words in [4, 4, 2, 1] {
                let bytes = 4 * ROWS * words;
                if block.len() < bytes {
                    continue;
                }
                let (plane, rest) = block.split_at(bytes);
                let (turned, out_rest) = out.split_at_mut(bytes);
                transpose::<4>(plane, turned);
                (block, out) = (rest, out_rest);
            }
        }
    }
}

/// `[n][16 rows]` to `[16 rows][n]`, of elements of `BYTES` bytes.
fn transpose<const BYTES: usize>(from: &[u8], to: &mut [u8]) {
    let n = from.len() / ROWS / BYTES;
    for (i, element) in from.as_chunks::<BYTES>().0.iter().enumerate() {
        let at = (i % ROWS * n + i / ROWS) * BYTES;
        to[at..at + BYTES].copy_from_slice(element);
    }
}
