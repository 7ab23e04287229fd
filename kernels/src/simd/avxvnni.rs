//! AVX2 with the byte dot product of AVX-VNNI: `vpdpbusd` on 256-bit registers.

use super::Dot;
use super::avx2::{Halves, I2};
use std::arch::x86_64::*;

/// AVX2 and AVX-VNNI (Intel Alder Lake 2021 and its successors without AVX-512, AMD Zen 5).
pub type AvxVnni = Halves<QuadSums>;

/// 32-bit sums of four products, one instruction per register; nothing to widen.
#[derive(Clone, Copy, Debug)]
pub struct QuadSums;

// SAFETY of the blocks below: the CPU has the instruction set, and the activations lie at `x`, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<I2, I2> for QuadSums {
    type Acc = I2;
    const SIGNED_BYTES: bool = false;
    // 6 of 16 registers of sums, 6 of dot products.
    const TILE: usize = 3;
    const TILE_GROUPS: [usize; 2] = [2, 1];

    #[inline(always)]
    unsafe fn start(sum: I2) -> I2 {
        sum
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(_bits: u32, acc: I2, codes: I2, x: *const i8) -> I2 {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().add(QUAD).read_unaligned());
            I2(_mm256_dpbusd_avx_epi32(acc.0, codes.0, x), _mm256_dpbusd_avx_epi32(acc.1, codes.1, x))
        }
    }
    #[inline(always)]
    unsafe fn flush(_sum: I2, acc: I2) -> I2 {
        acc
    }
    fn flush_every(_bits: u32) -> usize {
        usize::MAX
    }
}
