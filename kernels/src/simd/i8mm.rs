//! NEON with the 8-bit integer instructions (FEAT_I8MM): `usdot` multiplies codes as they are stored.
//!
//! `usmmla`, which multiplies twice as much (two rows by eight columns by two tokens), gains nothing here. Activations have a scale per
//! 16 columns, so after two of them its sums are converted and scaled like those of `usdot`, and its operands first have to be
//! interleaved from two quads: for 16 rows, 16 columns and two tokens it takes 16 products and 16 `zip` where `usdot` takes 32. Four tokens would save a quarter, but their
//! sums fill the register file.

use super::Dot;
use super::dotprod::dot4;
use super::neon::{C4, I4, Lanes, four};
use std::arch::aarch64::*;
use std::arch::asm;

/// NEON, `dotprod` and `i8mm` (ARMv8.6; 2021 and later: Neoverse V1 and N2, Cortex-A710, Apple M2).
pub type I8mm = Lanes<MixedDot>;

/// As [`SignedDot`](super::dotprod::SignedDot), with `usdot`, so that 8-bit codes need nothing more either.
#[derive(Clone, Copy, Debug)]
pub struct MixedDot;

// SAFETY of the blocks below: the CPU has the instruction set, and sixteen activations lie at `x`, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<I4, C4> for MixedDot {
    type Acc = I4;
    const SIGNED_BYTES: bool = false;
    const TILE: usize = 3;
    const TILE_GROUPS: [usize; 2] = [2, 1];

    #[inline(always)]
    unsafe fn start(sum: I4) -> I4 {
        sum
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(_bits: u32, acc: I4, codes: C4, x: *const i8) -> I4 {
        dot4!("usdot", acc, codes, unsafe { vld1q_s8(x) }, QUAD)
    }
    #[inline(always)]
    unsafe fn flush(_sum: I4, acc: I4) -> I4 {
        acc
    }
    fn flush_every(_bits: u32) -> usize {
        usize::MAX
    }
}
