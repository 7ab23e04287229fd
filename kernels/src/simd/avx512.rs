//! AVX-512 with VNNI: one register per sixteen lanes.

use super::Simd;
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni;

// SAFETY of the blocks below: the CPU has the instruction set and each pointer is valid for the elements read or
// written, both by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512Vnni {
    type F = __m512;
    type I = __m512i;
    type Codes = __m512i;
    type Acc = __m512i;
    const SIGNED_BYTES: bool = false;
    const TILE: usize = 4;
    const TILE_GROUPS: [usize; 2] = [2, 2];
    const TOKENS_IN_TURN: bool = true;
    // Here tiles unpack on ports that dot products leave free: 32 rows of weights from memory take 0.8 of the time that way.
    const MANY: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        // Not `_mm512_cvtph_ps`: it suppresses exceptions, and that form of the instruction takes no memory operand.
        unsafe { _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_slli_epi16::<7>(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i4(p: *const u8) -> [__m512; 2] {
        // A permutation looks at the lower four bits of an index: the table needs no mask, and no conversion follows.
        unsafe {
            let table =
                _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            [_mm512_permutexvar_ps(v, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(v), table)]
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe {
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::sum8(a)
        }
    }
    #[inline(always)]
    unsafe fn hmax(a: __m512) -> f32 {
        unsafe {
            let a = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::hmax8(a)
        }
    }
    #[inline(always)]
    unsafe fn keep_first(a: __m512, n: usize, other: f32) -> __m512 {
        let mask = if n >= 16 { 0xffff } else { (1u16 << n) - 1 };
        unsafe { _mm512_mask_blend_ps(mask, _mm512_set1_ps(other), a) }
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn to_f(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn to_i(a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn add_i(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn shl_i<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: __m512i) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a)) }
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, a: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn bits<const SHIFT: u32, const MASK: u8>(a: __m512i) -> __m512i {
        // Shifting 16-bit lanes drags bits of the neighbour byte in; the mask removes them.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(a), _mm512_set1_epi8(MASK as i8)) }
    }
    #[inline(always)]
    unsafe fn plane<const MASK: u8, const UP: u32>(a: __m512i, shift: u32) -> __m512i {
        unsafe {
            let m = _mm512_set1_epi8((MASK << UP) as i8);
            let s = if shift >= UP {
                _mm512_srl_epi16(a, _mm_cvtsi32_si128((shift - UP) as i32))
            } else {
                _mm512_sll_epi16(a, _mm_cvtsi32_si128((UP - shift) as i32))
            };
            _mm512_and_si512(s, m)
        }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: __m512i) -> __m512i {
        unsafe {
            let t = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(t, a)
        }
    }
    #[inline(always)]
    unsafe fn or_codes(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn acc_start(sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    unsafe fn dot<const QUAD: usize>(_bits: u32, acc: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        // vpdpbusd wraps, never saturates: 4 * 255 * 127 per step and 32 columns reach 1.04e6 at most.
        unsafe {
            _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(x.cast::<i32>().add(QUAD).read_unaligned()))
        }
    }
    #[inline(always)]
    unsafe fn acc_flush(_sum: __m512i, acc: __m512i) -> __m512i {
        acc
    }
    fn flush_every(_bits: u32) -> usize {
        usize::MAX
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
