//! NEON with the dot-product instructions (FEAT_DotProd): `sdot` adds four products to each of four rows.

use super::Dot;
use super::neon::{C4, I4, Lanes, four, signed};
use std::arch::aarch64::*;
use std::arch::asm;

/// NEON and `dotprod` (ARMv8.2 of 2018 and later: Cortex-A76, Neoverse N1, Apple M1, Raspberry Pi 5).
pub type Dotprod = Lanes<SignedDot>;

/// For a quad of 16 rows and 4 columns: 4 loads of codes and 4 `sdot`; one load of activations for four quads. 8-bit codes take four
/// `eor` to become signed. Three tokens fill the registers (Q4_0: 9 stores to and 14 loads from the stack for 32 columns, of 319
/// instructions, 96 of them `sdot`).
#[derive(Clone, Copy, Debug)]
pub struct SignedDot;

/// Four times a dot-product instruction, which the standard library's unstable intrinsics would be: `acc` with `codes`
/// and the four bytes of register `x` that `QUAD` names.
macro_rules! dot4 {
    ($instruction:literal, $acc:expr, $codes:expr, $x:expr, $quad:expr) => {{
        let (acc, x) = ($acc, $x);
        match $quad {
            0 => dot4!(@ $instruction, "0", acc, $codes, x),
            1 => dot4!(@ $instruction, "1", acc, $codes, x),
            2 => dot4!(@ $instruction, "2", acc, $codes, x),
            _ => dot4!(@ $instruction, "3", acc, $codes, x),
        }
    }};
    (@ $instruction:literal, $quad:literal, $acc:ident, $codes:expr, $x:ident) => {
        four!(R => {
            let mut sum = $acc[R];
            asm!(
                concat!($instruction, " {0:v}.4s, {1:v}.16b, {2:v}.4b[", $quad, "]"),
                inout(vreg) sum,
                in(vreg) $codes[R],
                in(vreg) $x,
                options(pure, nomem, nostack, preserves_flags),
            );
            sum
        })
    };
}
pub(super) use dot4;

// SAFETY of the blocks below: the CPU has the instruction set, and sixteen activations lie at `x`, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<I4, C4> for SignedDot {
    type Acc = I4;
    const SIGNED_BYTES: bool = true;
    // 12 registers of sums, 12 of dot products.
    const TILE: usize = 3;
    const TILE_GROUPS: [usize; 2] = [2, 1];

    #[inline(always)]
    unsafe fn start(sum: I4) -> I4 {
        sum
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: I4, codes: C4, x: *const i8) -> I4 {
        let codes = four!(R => if bits == 8 { signed(codes[R]) } else { vreinterpretq_s8_u8(codes[R]) });
        dot4!("sdot", acc, codes, unsafe { vld1q_s8(x) }, QUAD)
    }
    #[inline(always)]
    unsafe fn flush(_sum: I4, acc: I4) -> I4 {
        acc
    }
    fn flush_every(_bits: u32) -> usize {
        usize::MAX
    }
}
