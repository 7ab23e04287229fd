//! Activations as 8-bit integers, in blocks of 32 with one scale each.
//!
//! Blocks of 32 also before K-quant weights: outlier channels cost 1.1 % error so, 3.0 % in blocks of 256 and 9.2 % with one
//! scale per row (measured on synthetic outliers x30 against Q4_0 weights).

use super::layout::BLOCK;
use crate::simd::Simd;

/// What a kernel needs of 32 quantised activations besides the integers themselves.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ActBlock {
    /// The scale: `x = d * q`.
    pub d: f32,
    /// `d * sum(q)` of the block: what a weight's minimum is multiplied with.
    pub s: f32,
    /// The same for each half of the block.
    pub s16: [f32; 2],
    /// `-sum(q)`: cancels the offset of codes that are stored without sign.
    pub neg: i32,
    /// The same for each half of the block.
    pub neg16: [i32; 2],
    /// Fills the struct to 32 bytes, so that one never straddles two cache lines.
    pub pad: u32,
}

/// Columns that a quantised row of `cols` activations occupies: whole units of the one-level layouts (64). The
/// two-level formats have whole units (256) by themselves.
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
            let (a, b) = (S::load(src), S::load(src.add(16)));
            let amax = S::hmax(S::max(S::abs(a), S::abs(b)));
            if !(1e-30..=f32::MAX).contains(&amax) {
                q.fill(0);
                *meta = ActBlock { d: if amax < 1e-30 { 0.0 } else { f32::NAN }, ..Default::default() };
                continue;
            }
            let (d, inv) = (amax / 127.0, S::splat(127.0 / amax));
            S::store_i8(q.as_mut_ptr(), S::to_i(S::mul(a, inv)));
            S::store_i8(q.as_mut_ptr().add(16), S::to_i(S::mul(b, inv)));
            let sum = |q: &[i8]| q.iter().map(|&v| i32::from(v)).sum::<i32>();
            let (lo, hi) = (sum(&q[..16]), sum(&q[16..]));
            *meta = ActBlock {
                d,
                s: d * (lo + hi) as f32,
                s16: [d * lo as f32, d * hi as f32],
                neg: -(lo + hi),
                neg16: [-lo, -hi],
                pad: 0,
            };
        }
    }
}
