//! Root-mean-square and layer norms.

use super::lanes::{load_n, store_n};
use crate::simd::{LANES, Simd};

/// Sum, or sum of squares, in four accumulators of sixteen lanes: tile `t` of sixteen goes to accumulator `t % 4`,
/// which hides the latency of the additions and fixes the order of summation.
#[inline(always)]
unsafe fn sum<S: Simd, const SQUARES: bool>(p: *const f32, n: usize) -> f32 {
    // SAFETY: every access lies below `n`.
    unsafe {
        let mut acc = [S::zero(); 4];
        let mut i = 0;
        while i + 4 * LANES <= n {
            for (j, a) in acc.iter_mut().enumerate() {
                let v = S::load(p.add(i + LANES * j));
                *a = if SQUARES { S::fma(v, v, *a) } else { S::add(v, *a) };
            }
            i += 4 * LANES;
        }
        for a in &mut acc {
            if i < n {
                let v = load_n::<S>(p.add(i), n - i);
                *a = if SQUARES { S::fma(v, v, *a) } else { S::add(v, *a) };
                i += LANES;
            }
        }
        S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])))
    }
}

/// `1 / sqrt(sum(x^2) + eps)`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn inverse_length<S: Simd>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: every access lies within the slice.
    unsafe { 1.0 / (sum::<S, true>(x.as_ptr(), x.len()) + eps).sqrt() }
}

/// `out` may be `x`.
#[inline(always)]
unsafe fn norm<S: Simd>(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, n: usize) {
    // SAFETY: every access lies below `n`.
    unsafe {
        let inv = S::splat(1.0 / (sum::<S, true>(x, n) / n as f32 + eps).sqrt());
        let mut i = 0;
        while i < n {
            let v = S::mul(load_n::<S>(x.add(i), n - i), inv);
            store_n::<S>(out.add(i), S::mul(v, load_n::<S>(weight.add(i), n - i)), n - i);
            i += LANES;
        }
    }
}

#[inline(always)]
pub unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    debug_assert!(x.len() == weight.len() && x.len() == out.len());
    let n = x.len().min(weight.len()).min(out.len());
    // SAFETY: `n` is within all three.
    unsafe { norm::<S>(x.as_ptr(), weight.as_ptr(), eps, out.as_mut_ptr(), n) }
}

#[inline(always)]
pub unsafe fn rms_norm_heads<S: Simd>(x: &mut [f32], weight: &[f32], eps: f32) {
    let n = weight.len();
    debug_assert!(n > 0 && x.len().is_multiple_of(n));
    for head in x.chunks_exact_mut(n.max(1)) {
        let p = head.as_mut_ptr();
        // SAFETY: a chunk has the weight's length.
        unsafe { norm::<S>(p, weight.as_ptr(), eps, p, n) }
    }
}

#[inline(always)]
pub unsafe fn layer_norm<S: Simd>(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    debug_assert!(x.len() == weight.len() && x.len() == out.len());
    debug_assert!(bias.is_none_or(|b| b.len() == x.len()));
    let n = x.len().min(weight.len()).min(out.len()).min(bias.map_or(usize::MAX, <[f32]>::len));
    // SAFETY: `n` is within all of them.
    unsafe { centred::<S>(x.as_ptr(), weight.as_ptr(), bias, eps, out.as_mut_ptr(), n) }
}

#[inline(always)]
pub unsafe fn layer_norm_heads<S: Simd>(
    x: &mut [f32],
    width: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
) {
    debug_assert!(width > 0 && x.len().is_multiple_of(width) && weight.len() == x.len());
    debug_assert!(bias.is_none_or(|b| b.len() == x.len()));
    let width = width.max(1);
    for (h, (head, weight)) in x.chunks_exact_mut(width).zip(weight.chunks_exact(width)).enumerate() {
        let bias = bias.and_then(|b| b.get(h * width..(h + 1) * width));
        let p = head.as_mut_ptr();
        // SAFETY: all are `width` long.
        unsafe { centred::<S>(p, weight.as_ptr(), bias, eps, p, width) }
    }
}

/// [`layer_norm`]; `out` may be `x`. A bias has `n` elements.
#[inline(always)]
unsafe fn centred<S: Simd>(
    x: *const f32,
    weight: *const f32,
    bias: Option<&[f32]>,
    eps: f32,
    out: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies below `n`.
    unsafe {
        let mean = S::splat(sum::<S, false>(x, n) / n as f32);
        let mut i = 0;
        while i < n {
            store_n::<S>(out.add(i), S::sub(load_n::<S>(x.add(i), n - i), mean), n - i);
            i += LANES;
        }
        norm::<S>(out, weight, eps, out, n);
        let Some(bias) = bias else { return };
        super::elementwise::add::<S>(std::slice::from_raw_parts_mut(out, n), &bias[..n]);
    }
}
