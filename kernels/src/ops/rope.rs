//! Rotary position embedding (Su et al. 2021), half-split convention.

use super::lanes::{load_n, store_n};
use crate::simd::{LANES, Simd};

/// Cosines and sines of a position's angles, `[dim / 2]` each, times `magnitude`.
///
/// The angle is the single-precision product of position and frequency, as in the reference implementations that
/// models are trained with: at large positions a more exact product would be another angle. Cosine and sine are then
/// taken in double precision, so that they are the rounded true values on every machine.
pub fn rope_table(position: usize, inv_freq: &[f32], magnitude: f32, cos: &mut [f32], sin: &mut [f32]) {
    debug_assert!(inv_freq.len() == cos.len() && inv_freq.len() == sin.len());
    for ((f, c), s) in inv_freq.iter().zip(cos).zip(sin) {
        let (sine, cosine) = f64::from(position as f32 * f).sin_cos();
        (*c, *s) = (cosine as f32 * magnitude, sine as f32 * magnitude);
    }
}

#[inline(always)]
pub unsafe fn rope<S: Simd>(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    debug_assert!(
        cos.len() == sin.len() && 2 * cos.len() <= head_dim && x.len().is_multiple_of(head_dim.max(1))
    );
    let half = cos.len().min(sin.len()).min(head_dim / 2);
    for head in x.chunks_exact_mut(head_dim.max(1)) {
        let (lo, hi) = (head.as_mut_ptr(), head[half..].as_mut_ptr());
        let mut i = 0;
        while i < half {
            // SAFETY: `lo`, `hi`, `cos` and `sin` have `half` elements each.
            unsafe {
                let n = half - i;
                let (a, b) = (load_n::<S>(lo.add(i), n), load_n::<S>(hi.add(i), n));
                let (c, s) = (load_n::<S>(cos.as_ptr().add(i), n), load_n::<S>(sin.as_ptr().add(i), n));
                store_n::<S>(lo.add(i), S::fnma(b, s, S::mul(a, c)), n);
                store_n::<S>(hi.add(i), S::fma(a, s, S::mul(b, c)), n);
            }
            i += LANES;
        }
    }
}
