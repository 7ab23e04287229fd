//! NEON: four registers per sixteen lanes. The instruction-set levels of 64-bit ARM have all but the integer dot product in common.

use super::{Dot, Simd};
use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

/// Lanes 0..4, 4..8, 8..12 and 12..16.
pub type F4 = [float32x4_t; 4];
/// Lanes as in [`F4`].
pub type I4 = [int32x4_t; 4];
/// Codes of rows 0..4, 4..8, 8..12 and 12..16.
pub type C4 = [uint8x16_t; 4];

/// Sixteen lanes in four registers, with `D` for integer dot products.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<D>(PhantomData<D>);

/// NEON as every 64-bit ARM has it (ARMv8.0).
pub type Neon = Lanes<MultiplyLong>;

/// Four times an expression of the register's index.
macro_rules! four {
    ($i:ident => $e:expr) => {
        unsafe {
            [
                {
                    const $i: usize = 0;
                    $e
                },
                {
                    const $i: usize = 1;
                    $e
                },
                {
                    const $i: usize = 2;
                    $e
                },
                {
                    const $i: usize = 3;
                    $e
                },
            ]
        }
    };
}
pub(super) use four;

/// 8-bit codes as signed numbers.
#[inline(always)]
pub(super) unsafe fn signed(codes: uint8x16_t) -> int8x16_t {
    // SAFETY: every CPU of this architecture has NEON.
    unsafe { vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))) }
}

/// `a >> n`, or `a << -n`.
#[inline(always)]
unsafe fn shift_right(a: uint8x16_t, n: i32) -> uint8x16_t {
    // SAFETY: as above.
    unsafe { vshlq_u8(a, vdupq_n_s8(-n as i8)) }
}

/// Products of 16 bits by `smull` and `smlal`, summed in pairs and widened at the flush. For a quad of 16 rows and 4 columns: 4 loads of
/// codes, one of activations, 8 multiplications; for a flush, after 4 quads of codes up to 5 bits, 2 of 6 and 1 of 8, 8 additions. Two
/// tokens are more than the registers hold (Q4_0: 22 stores to and 22 loads from the stack for 32 columns, of 413 instructions), but take
/// fewer instructions than twice one token (252).
#[derive(Clone, Copy, Debug)]
pub struct MultiplyLong;

// SAFETY of the blocks below: every CPU of this architecture has NEON, and each pointer is valid for the elements read
// or written by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<I4, C4> for MultiplyLong {
    /// For each register of codes, those of the first and the last two rows, column by column.
    type Acc = [[int16x8_t; 2]; 4];
    const SIGNED_BYTES: bool = true;
    // 8 registers of sums and 16 of products, besides activations, scales and codes.
    const TILE: usize = 2;
    const TILE_GROUPS: [usize; 2] = [1, 1];

    #[inline(always)]
    unsafe fn start(_sum: I4) -> Self::Acc {
        unsafe { [[vdupq_n_s16(0); 2]; 4] }
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: Self::Acc, codes: C4, x: *const i8) -> Self::Acc {
        let x = unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().add(QUAD).read_unaligned())) };
        four!(R => {
            let c = if bits == 8 { signed(codes[R]) } else { vreinterpretq_s8_u8(codes[R]) };
            let low = vmlal_s8(acc[R][0], vget_low_s8(c), vget_low_s8(x));
            [low, vmlal_high_s8(acc[R][1], c, x)]
        })
    }
    #[inline(always)]
    unsafe fn flush(sum: I4, acc: Self::Acc) -> I4 {
        four!(R => vpadalq_s16(sum[R], vpaddq_s16(acc[R][0], acc[R][1])))
    }
    fn flush_every(bits: u32) -> usize {
        super::pair_sum_dots(bits)
    }
}

// SAFETY of the blocks below: as above; what `D` needs beyond NEON, the caller vouches for.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot<I4, C4>> Simd for Lanes<D> {
    type F = F4;
    type I = I4;
    type Codes = C4;
    type Acc = D::Acc;
    const SIGNED_BYTES: bool = D::SIGNED_BYTES;
    const TILE: usize = D::TILE;
    const TILE_GROUPS: [usize; 2] = D::TILE_GROUPS;

    #[inline(always)]
    unsafe fn zero() -> F4 {
        unsafe { [vdupq_n_f32(0.0); 4] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F4 {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F4 {
        four!(R => vld1q_f32(p.add(4 * R)))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F4) {
        four!(R => vst1q_f32(p.add(4 * R), v[R]));
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F4 {
        unsafe {
            let a = vreinterpretq_f16_u16(vld1q_u16(p));
            let b = vreinterpretq_f16_u16(vld1q_u16(p.add(8)));
            [
                vcvt_f32_f16(vget_low_f16(a)),
                vcvt_high_f32_f16(a),
                vcvt_f32_f16(vget_low_f16(b)),
                vcvt_high_f32_f16(b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F4) {
        unsafe {
            let a = vcvt_high_f16_f32(vcvt_f16_f32(v[0]), v[1]);
            let b = vcvt_high_f16_f32(vcvt_f16_f32(v[2]), v[3]);
            vst1q_u16(p, vreinterpretq_u16_f16(a));
            vst1q_u16(p.add(8), vreinterpretq_u16_f16(b));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F4 {
        four!(R => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * R)))))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F4 {
        unsafe {
            let v = vld1q_u8(p);
            let (a, b) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(a))),
                vcvtq_f32_u32(vmovl_high_u16(a)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(b))),
                vcvtq_f32_u32(vmovl_high_u16(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F4 {
        unsafe {
            let v = vld1q_u8(p);
            let a = vreinterpretq_f16_u16(vshll_n_u8::<7>(vget_low_u8(v)));
            let b = vreinterpretq_f16_u16(vshll_high_n_u8::<7>(v));
            [
                vcvt_f32_f16(vget_low_f16(a)),
                vcvt_high_f32_f16(a),
                vcvt_f32_f16(vget_low_f16(b)),
                vcvt_high_f32_f16(b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F4 {
        unsafe {
            let v = vld1q_s8(p);
            let (a, b) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
                vcvtq_f32_s32(vmovl_high_s16(a)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
                vcvtq_f32_s32(vmovl_high_s16(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F4, b: F4) -> F4 {
        four!(R => vaddq_f32(a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn sub(a: F4, b: F4) -> F4 {
        four!(R => vsubq_f32(a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn mul(a: F4, b: F4) -> F4 {
        four!(R => vmulq_f32(a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn div(a: F4, b: F4) -> F4 {
        four!(R => vdivq_f32(a[R], b[R]))
    }
    // Not `fmax` and `fmin`, which give NaN for NaN and order the zeros.
    #[inline(always)]
    unsafe fn max(a: F4, b: F4) -> F4 {
        four!(R => vbslq_f32(vcgtq_f32(a[R], b[R]), a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn min(a: F4, b: F4) -> F4 {
        four!(R => vbslq_f32(vcltq_f32(a[R], b[R]), a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn fma(a: F4, b: F4, c: F4) -> F4 {
        four!(R => vfmaq_f32(c[R], a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn fnma(a: F4, b: F4, c: F4) -> F4 {
        four!(R => vfmsq_f32(c[R], a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn abs(a: F4) -> F4 {
        four!(R => vabsq_f32(a[R]))
    }
    #[inline(always)]
    unsafe fn sum(a: F4) -> f32 {
        unsafe {
            let b = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
            vget_lane_f32::<0>(c) + vget_lane_f32::<1>(c)
        }
    }
    #[inline(always)]
    unsafe fn hmax(a: F4) -> f32 {
        unsafe {
            let m =
                [vbslq_f32(vcgtq_f32(a[0], a[2]), a[0], a[2]), vbslq_f32(vcgtq_f32(a[1], a[3]), a[1], a[3])];
            let b = vbslq_f32(vcgtq_f32(m[0], m[1]), m[0], m[1]);
            let (low, high) = (vget_low_f32(b), vget_high_f32(b));
            let c = vbsl_f32(vcgt_f32(low, high), low, high);
            let (x, y) = (vget_lane_f32::<0>(c), vget_lane_f32::<1>(c));
            if x > y { x } else { y }
        }
    }
    #[inline(always)]
    unsafe fn keep_first(a: F4, n: usize, other: f32) -> F4 {
        const LANE: [u32; 4] = [0, 1, 2, 3];
        let n = n.min(16) as u32;
        four!(R => {
            let keep = vcltq_u32(vld1q_u32(LANE.as_ptr()), vdupq_n_u32(n.saturating_sub(4 * R as u32)));
            vbslq_f32(keep, a[R], vdupq_n_f32(other))
        })
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I4 {
        unsafe { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    unsafe fn to_f(a: I4) -> F4 {
        four!(R => vcvtq_f32_s32(a[R]))
    }
    #[inline(always)]
    unsafe fn to_i(a: F4) -> I4 {
        four!(R => vcvtnq_s32_f32(a[R]))
    }
    #[inline(always)]
    unsafe fn add_i(a: I4, b: I4) -> I4 {
        four!(R => vaddq_s32(a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn shl_i<const N: u32>(a: I4) -> I4 {
        four!(R => vshlq_s32(a[R], vdupq_n_s32(N as i32)))
    }
    #[inline(always)]
    unsafe fn as_f(a: I4) -> F4 {
        four!(R => vreinterpretq_f32_s32(a[R]))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: I4) {
        unsafe {
            let low = vmovn_high_s32(vmovn_s32(a[0]), a[1]);
            let high = vmovn_high_s32(vmovn_s32(a[2]), a[3]);
            vst1q_s8(p, vmovn_high_s16(vmovn_s16(low), high));
        }
    }

    // Both halves of a block read the same vectors, for the low and for the high nibbles. Kept in between, they'd be 16 registers.
    #[inline(always)]
    unsafe fn reread(p: *const u8) -> *const u8 {
        let mut p = p;
        unsafe { asm!("/* {} */", inout(reg) p, options(nomem, nostack, preserves_flags)) }
        p
    }
    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> C4 {
        four!(R => vld1q_u8(p.add(16 * R)))
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, a: C4) {
        for (i, v) in a.into_iter().enumerate() {
            unsafe { vst1q_u8(p.add(16 * i), v) }
        }
    }
    #[inline(always)]
    unsafe fn bits<const SHIFT: u32, const MASK: u8>(a: C4) -> C4 {
        four!(R => {
            let a = shift_right(a[R], SHIFT as i32);
            // Nothing comes in from the neighbour byte: the topmost bits need no mask.
            if MASK == 0xff >> SHIFT { a } else { vandq_u8(a, vdupq_n_u8(MASK)) }
        })
    }
    #[inline(always)]
    unsafe fn plane<const MASK: u8, const UP: u32>(a: C4, shift: u32) -> C4 {
        four!(R => vandq_u8(shift_right(a[R], shift as i32 - UP as i32), vdupq_n_u8(MASK << UP)))
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: C4) -> C4 {
        four!(R => vqtbl1q_u8(vld1q_u8(table.as_ptr()), a[R]))
    }
    #[inline(always)]
    unsafe fn or_codes(a: C4, b: C4) -> C4 {
        four!(R => vorrq_u8(a[R], b[R]))
    }
    #[inline(always)]
    unsafe fn acc_start(sum: I4) -> D::Acc {
        unsafe { D::start(sum) }
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: D::Acc, codes: C4, x: *const i8) -> D::Acc {
        unsafe { D::dot::<QUAD>(bits, acc, codes, x) }
    }
    #[inline(always)]
    unsafe fn acc_flush(sum: I4, acc: D::Acc) -> I4 {
        unsafe { D::flush(sum, acc) }
    }
    fn flush_every(bits: u32) -> usize {
        D::flush_every(bits)
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // The intrinsic is unstable.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(nomem, nostack, preserves_flags)) }
    }
}
