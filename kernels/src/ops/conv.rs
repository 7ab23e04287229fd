//! Gated short convolutions.

use super::lanes::{load_n, store_n};
use crate::simd::{LANES, Simd};

/// What a position of a gated short convolution is made of; `n` channels.
#[derive(Clone, Copy, Debug)]
pub struct ConvRow<'a> {
    /// The gate of the input, `[n]`.
    pub b: &'a [f32],
    /// The gate of the output, `[n]`.
    pub c: &'a [f32],
    /// The input, `[n]`.
    pub x: &'a [f32],
    /// The weight of tap `j` for channel `i` at `taps[j * stride + i]`; the last tap is the position's own.
    pub taps: &'a [f32],
    /// Elements from one tap to the next.
    pub stride: usize,
}

#[inline(always)]
pub unsafe fn short_conv<S: Simd>(row: ConvRow<'_>, past: &mut [f32], oldest: usize, out: &mut [f32]) {
    let ConvRow { b, c, x, taps, stride } = row;
    let n = out.len();
    // Rows of the ring.
    let behind = past.len().checked_div(n).unwrap_or(0);
    let fits = b.len().min(c.len()).min(x.len()) >= n
        && behind > 0
        && past.len() == behind * n
        && oldest < behind
        && stride >= n
        && stride.checked_mul(behind).is_some_and(|first| first <= taps.len().saturating_sub(n));
    debug_assert!(fits || n == 0, "slices do not fit {n} channels: {row:?}");
    if !fits {
        return;
    }
    let (b, c, x) = (b.as_ptr(), c.as_ptr(), x.as_ptr());
    let (taps, past, out) = (taps.as_ptr(), past.as_mut_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access of `b`, `c`, `x` and `out` lies below `n`; the ring has `behind` rows of `n`; `taps` reaches to `n`
        // elements of row `behind`, as was checked.
        unsafe {
            let left = n - i;
            let now = S::mul(load_n::<S>(b.add(i), left), load_n::<S>(x.add(i), left));
            let mut sum = S::zero();
            for j in 0..behind {
                let at = oldest + j;
                let row = if at < behind { at } else { at - behind };
                let then = load_n::<S>(past.add(row * n + i), left);
                sum = S::fma(load_n::<S>(taps.add(j * stride + i), left), then, sum);
            }
            sum = S::fma(load_n::<S>(taps.add(behind * stride + i), left), now, sum);
            store_n::<S>(out.add(i), S::mul(load_n::<S>(c.add(i), left), sum), left);
            store_n::<S>(past.add(oldest * n + i), now, left);
        }
        i += LANES;
    }
}
