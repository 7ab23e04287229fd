//! AVX2 with FMA and F16C: two registers per sixteen lanes. The levels with registers of this width have all but the integer dot
//! product in common.

use super::{Dot, Simd};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Sixteen lanes in two registers, with `D` for integer dot products.
#[derive(Clone, Copy, Debug)]
pub struct Halves<D>(PhantomData<D>);

/// AVX2, FMA and F16C.
pub type Avx2 = Halves<PairSums>;

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy, Debug)]
pub struct F2(__m256, __m256);
/// Lanes 0..8 and 8..16; as codes: rows 0..8 and 8..16.
#[derive(Clone, Copy, Debug)]
pub struct I2(pub(super) __m256i, pub(super) __m256i);

/// The last three levels of the reduction tree.
#[inline(always)]
pub(super) unsafe fn sum8(a: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let b = _mm_add_ps(b, _mm_movehl_ps(b, b));
        _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps::<1>(b, b)))
    }
}

/// The last three levels of the maximum's tree.
#[inline(always)]
pub(super) unsafe fn hmax8(a: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let b = _mm_max_ps(b, _mm_movehl_ps(b, b));
        _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps::<1>(b, b)))
    }
}

/// Sixteen signed bytes as floats.
#[inline(always)]
unsafe fn from_i8(v: __m128i) -> F2 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        F2(
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v))),
        )
    }
}

macro_rules! two {
    ($f:ident, $a:expr, $b:expr) => {
        unsafe { F2($f($a.0, $b.0), $f($a.1, $b.1)) }
    };
}

// SAFETY of the blocks below: the CPU has the instruction set and each pointer is valid for the elements read or
// written, both by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot<I2, I2>> Simd for Halves<D> {
    type F = F2;
    type I = I2;
    type Codes = I2;
    type Acc = D::Acc;
    const SIGNED_BYTES: bool = D::SIGNED_BYTES;
    const TILE: usize = D::TILE;
    const TILE_GROUPS: [usize; 2] = D::TILE_GROUPS;

    #[inline(always)]
    unsafe fn zero() -> F2 {
        unsafe { F2(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F2 {
        unsafe { F2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F2 {
        unsafe { F2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F2) {
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F2 {
        unsafe {
            F2(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F2) {
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F2 {
        unsafe {
            let up = |v: __m128i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)));
            F2(up(_mm_loadu_si128(p.cast())), up(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F2 {
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            F2(
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v))),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F2 {
        unsafe {
            let up = |v: __m128i| _mm256_cvtph_ps(_mm_slli_epi16::<7>(_mm_cvtepu8_epi16(v)));
            let v = _mm_loadu_si128(p.cast());
            F2(up(v), up(_mm_srli_si128::<8>(v)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F2 {
        unsafe { from_i8(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i4(p: *const u8) -> [F2; 2] {
        unsafe {
            let (v, mask, eight) = (_mm_loadu_si128(p.cast()), _mm_set1_epi8(15), _mm_set1_epi8(8));
            let low = _mm_sub_epi8(_mm_and_si128(v, mask), eight);
            let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(v), mask), eight);
            [from_i8(low), from_i8(high)]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F2, b: F2) -> F2 {
        two!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F2, b: F2) -> F2 {
        two!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F2, b: F2) -> F2 {
        two!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F2, b: F2) -> F2 {
        two!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn max(a: F2, b: F2) -> F2 {
        two!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F2, b: F2) -> F2 {
        two!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: F2, b: F2, c: F2) -> F2 {
        unsafe { F2(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn fnma(a: F2, b: F2, c: F2) -> F2 {
        unsafe { F2(_mm256_fnmadd_ps(a.0, b.0, c.0), _mm256_fnmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn abs(a: F2) -> F2 {
        unsafe {
            let m = _mm256_set1_ps(-0.0);
            F2(_mm256_andnot_ps(m, a.0), _mm256_andnot_ps(m, a.1))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: F2) -> f32 {
        unsafe { sum8(_mm256_add_ps(a.0, a.1)) }
    }
    #[inline(always)]
    unsafe fn hmax(a: F2) -> f32 {
        unsafe { hmax8(_mm256_max_ps(a.0, a.1)) }
    }
    #[inline(always)]
    unsafe fn keep_first(a: F2, n: usize, other: f32) -> F2 {
        unsafe {
            let n = n.min(16) as i32;
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = |k: i32, v: __m256| {
                let m = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(k), lane));
                _mm256_blendv_ps(_mm256_set1_ps(other), v, m)
            };
            F2(keep(n, a.0), keep(n - 8, a.1))
        }
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> I2 {
        unsafe { I2(_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn to_f(a: I2) -> F2 {
        unsafe { F2(_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }
    #[inline(always)]
    unsafe fn to_i(a: F2) -> I2 {
        unsafe { I2(_mm256_cvtps_epi32(a.0), _mm256_cvtps_epi32(a.1)) }
    }
    #[inline(always)]
    unsafe fn add_i(a: I2, b: I2) -> I2 {
        unsafe { I2(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn shl_i<const N: u32>(a: I2) -> I2 {
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            I2(_mm256_sll_epi32(a.0, n), _mm256_sll_epi32(a.1, n))
        }
    }
    #[inline(always)]
    unsafe fn as_f(a: I2) -> F2 {
        unsafe { F2(_mm256_castsi256_ps(a.0), _mm256_castsi256_ps(a.1)) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: I2) {
        unsafe {
            // The packs interleave 128-bit halves; the permutation puts the 16 bytes in lane order.
            let w = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a.0, a.1));
            let b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256::<1>(w));
            _mm_storeu_si128(p.cast(), b);
        }
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> I2 {
        unsafe { I2(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, a: I2) {
        unsafe {
            _mm256_storeu_si256(p.cast(), a.0);
            _mm256_storeu_si256(p.add(32).cast(), a.1);
        }
    }
    #[inline(always)]
    unsafe fn bits<const SHIFT: u32, const MASK: u8>(a: I2) -> I2 {
        unsafe {
            let (m, n) = (_mm256_set1_epi8(MASK as i8), _mm_cvtsi32_si128(SHIFT as i32));
            I2(_mm256_and_si256(_mm256_srl_epi16(a.0, n), m), _mm256_and_si256(_mm256_srl_epi16(a.1, n), m))
        }
    }
    #[inline(always)]
    unsafe fn plane<const MASK: u8, const UP: u32>(a: I2, shift: u32) -> I2 {
        unsafe {
            let m = _mm256_set1_epi8((MASK << UP) as i8);
            let s = if shift >= UP {
                let n = _mm_cvtsi32_si128((shift - UP) as i32);
                I2(_mm256_srl_epi16(a.0, n), _mm256_srl_epi16(a.1, n))
            } else {
                let n = _mm_cvtsi32_si128((UP - shift) as i32);
                I2(_mm256_sll_epi16(a.0, n), _mm256_sll_epi16(a.1, n))
            };
            I2(_mm256_and_si256(s.0, m), _mm256_and_si256(s.1, m))
        }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: I2) -> I2 {
        unsafe {
            let t = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            I2(_mm256_shuffle_epi8(t, a.0), _mm256_shuffle_epi8(t, a.1))
        }
    }
    #[inline(always)]
    unsafe fn or_codes(a: I2, b: I2) -> I2 {
        unsafe { I2(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn acc_start(sum: I2) -> D::Acc {
        unsafe { D::start(sum) }
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: D::Acc, codes: I2, x: *const i8) -> D::Acc {
        unsafe { D::dot::<QUAD>(bits, acc, codes, x) }
    }
    #[inline(always)]
    unsafe fn acc_flush(sum: I2, acc: D::Acc) -> I2 {
        unsafe { D::flush(sum, acc) }
    }
    fn flush_every(bits: u32) -> usize {
        D::flush_every(bits)
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// 16-bit sums of adjacent products: `vpmaddubsw` and one add per dot, widened at the flush.
#[derive(Clone, Copy, Debug)]
pub struct PairSums;

// SAFETY of the blocks below: as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<I2, I2> for PairSums {
    type Acc = I2;
    const SIGNED_BYTES: bool = true;
    const TILE: usize = 3;
    const TILE_GROUPS: [usize; 2] = [2, 1];

    #[inline(always)]
    unsafe fn start(_sum: I2) -> I2 {
        unsafe { I2(_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(bits: u32, acc: I2, codes: I2, x: *const i8) -> I2 {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().add(QUAD).read_unaligned());
            if bits == 8 {
                // Unsigned 8-bit codes would saturate (255 * 127 * 2); as |code - 128| <= 128 they don't.
                let bias = _mm256_set1_epi8(-128);
                let f = |acc: __m256i, c: __m256i| {
                    let c = _mm256_xor_si256(c, bias);
                    _mm256_add_epi16(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c)))
                };
                I2(f(acc.0, codes.0), f(acc.1, codes.1))
            } else {
                let f = |acc: __m256i, c: __m256i| _mm256_add_epi16(acc, _mm256_maddubs_epi16(c, x));
                I2(f(acc.0, codes.0), f(acc.1, codes.1))
            }
        }
    }
    #[inline(always)]
    unsafe fn flush(sum: I2, acc: I2) -> I2 {
        unsafe {
            let one = _mm256_set1_epi16(1);
            I2(
                _mm256_add_epi32(sum.0, _mm256_madd_epi16(acc.0, one)),
                _mm256_add_epi32(sum.1, _mm256_madd_epi16(acc.1, one)),
            )
        }
    }
    fn flush_every(bits: u32) -> usize {
        super::pair_sum_dots(bits)
    }
}
