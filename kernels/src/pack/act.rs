//! Activations as 8-bit integers, with one scale per 16.
//!
//! Short blocks keep an outlier channel's scale from its neighbours. Against Q4_0 weights with outlier channels of 30 times the size, one
//! scale per 32 costs 1.1 % error, per 256 3.0 %, and per row 9.2 %.

use super::layout::BLOCK;
use crate::simd::Simd;

/// What a kernel needs of 32 quantised activations besides the integers themselves. Arrays: one value per half.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ActBlock {
    /// The scales: `x = d * q`.
    pub d: [f32; 2],
    /// `d * sum(q)`: what a weight's minimum is multiplied with.
    pub s: [f32; 2],
    /// The sum of both, for weights whose minimum covers the block.
    pub s32: f32,
    /// `-sum(q)`: cancels the offset of codes that are stored without sign.
    pub neg: [i32; 2],
    /// Fills the struct to 32 bytes, so that one never straddles two cache lines.
    pub pad: u32,
}

/// Columns that a quantised row of `cols` activations occupies: whole units of the one-level layouts (64). The
/// two-level formats have whole units (256) by themselves, or end within one, at a multiple of 64 (NVFP4).
pub const fn padded_cols(cols: usize) -> usize {
    cols.next_multiple_of(64)
}

/// Quantises one row. `q` has at least as many elements, `meta` one [`ActBlock`] per 32 of them; columns past the row's end
/// become zeros.
///
/// The scale is `max|x| / 127`. A block whose largest magnitude is below 1e-30 becomes zero: denormal scales slow
/// the kernels 2.5-fold and are far below any activation's rounding error. An infinite magnitude makes the block's scale NaN;
/// NaN inputs give unspecified integers.
///
/// # Safety
/// The CPU has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn quantize_row<S: Simd>(x: &[f32], q: &mut [i8], meta: &mut [ActBlock]) {
    debug_assert!(q.len() >= x.len() && q.len() == meta.len() * BLOCK);
    let mut tail = [0f32; BLOCK];
    for (b, (q, meta)) in q.chunks_exact_mut(BLOCK).zip(meta).enumerate() {
        let rest = x.get(b * BLOCK..).unwrap_or(&[]);
        let src = if rest.len() >= BLOCK {
            rest.as_ptr()
        } else {
            tail[..rest.len()].copy_from_slice(rest);
            tail[rest.len()..].fill(0.0);
            tail.as_ptr()
        };
        // SAFETY: `src` has 32 floats, `q` 32 bytes; the caller vouches for the instruction set.
        unsafe {
            let (low, high) = q.split_at_mut(16);
            let (d0, n0) = half::<S>(src, low);
            let (d1, n1) = half::<S>(src.add(16), high);
            let s = [d0 * n0 as f32, d1 * n1 as f32];
            *meta = ActBlock { d: [d0, d1], s, s32: s[0] + s[1], neg: [-n0, -n1], pad: 0 };
        }
    }
}

/// Quantises sixteen activations; their scale, and the sum of the integers.
///
/// # Safety
/// The CPU has the instruction set of `S`; `x` has sixteen floats, `q` sixteen elements.
#[inline(always)]
unsafe fn half<S: Simd>(x: *const f32, q: &mut [i8]) -> (f32, i32) {
    // SAFETY: by this function's contract.
    unsafe {
        let v = S::load(x);
        let amax = S::hmax(S::abs(v));
        if !(1e-30..=f32::MAX).contains(&amax) {
            q.fill(0);
            return (if amax < 1e-30 { 0.0 } else { f32::NAN }, 0);
        }
        S::store_i8(q.as_mut_ptr(), S::to_i(S::mul(v, S::splat(127.0 / amax))));
        (amax / 127.0, q.iter().map(|&v| i32::from(v)).sum::<i32>())
    }
}
