//! The gated delta rule, and what comes before it: a causal convolution of each channel, and heads of length 1.

use super::lanes::{load_n, store_n};
use super::norm::inverse_length;
use crate::simd::{LANES, Simd};

/// Some channels of a convolution over positions: their weights, and what they were at the positions before.
#[derive(Debug)]
pub struct ConvTaps<'a> {
    /// The weight of tap `j` for channel `i` at `taps[j * stride + i]`; the last tap is the position's own.
    pub taps: &'a [f32],
    /// Elements from one tap to the next.
    pub stride: usize,
    /// A ring: channel `i` at one of the last positions at `past[row * past_stride + i]`.
    pub past: &'a mut [f32],
    /// Elements from one position to the next.
    pub past_stride: usize,
    /// Rows of the ring.
    pub behind: usize,
    /// Its oldest row, which becomes this position's.
    pub oldest: usize,
}

#[inline(always)]
pub unsafe fn causal_conv<S: Simd>(x: &[f32], conv: ConvTaps<'_>, out: &mut [f32]) {
    let ConvTaps { taps, stride, past, past_stride, behind, oldest } = conv;
    let n = out.len();
    let reaches = |rows: usize, stride: usize, len: usize| {
        rows.checked_mul(stride).is_some_and(|first| first <= len.saturating_sub(n))
    };
    let fits = x.len() >= n
        && oldest < behind
        && reaches(behind, stride, taps.len())
        && taps.len() >= n
        && reaches(behind - 1, past_stride, past.len())
        && past.len() >= n;
    debug_assert!(fits || n == 0, "slices do not fit {n} channels");
    if !fits {
        return;
    }
    let (x, taps, past, out) = (x.as_ptr(), taps.as_ptr(), past.as_mut_ptr(), out.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access of `x` and `out` lies below `n`; the ring and the taps reach to `n` elements of their last rows, as was
        // checked.
        unsafe {
            let left = n - i;
            let now = load_n::<S>(x.add(i), left);
            let mut sum = S::zero();
            for j in 0..behind {
                let at = oldest + j;
                let row = if at < behind { at } else { at - behind };
                let then = load_n::<S>(past.add(row * past_stride + i), left);
                sum = S::fma(load_n::<S>(taps.add(j * stride + i), left), then, sum);
            }
            sum = S::fma(load_n::<S>(taps.add(behind * stride + i), left), now, sum);
            store_n::<S>(out.add(i), sum, left);
            store_n::<S>(past.add(oldest * past_stride + i), now, left);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn to_length<S: Simd>(x: &mut [f32], length: f32, eps: f32) {
    // SAFETY: as this function's; the slice bounds every access.
    unsafe {
        let factor = length * inverse_length::<S>(x, eps);
        super::elementwise::scale::<S>(x, factor);
    }
}

/// What a position does to the state of a head.
#[derive(Clone, Copy, Debug)]
pub struct DeltaRow<'a> {
    /// `[key_dim]`.
    pub q: &'a [f32],
    /// `[key_dim]`.
    pub k: &'a [f32],
    /// `[value_dim]`.
    pub v: &'a [f32],
    /// The state is multiplied by this first.
    pub decay: f32,
    /// How much of the difference is learnt.
    pub beta: f32,
}

#[inline(always)]
pub unsafe fn delta_rule<S: Simd>(row: DeltaRow<'_>, state: &mut [f32], out: &mut [f32]) {
    let DeltaRow { q, k, v, decay, beta } = row;
    let (keys, n) = (q.len(), out.len());
    let fits = k.len() == keys && v.len() == n && keys.checked_mul(n) == Some(state.len());
    debug_assert!(fits, "a state of {} for {keys} keys and {n} values", state.len());
    if !fits {
        return;
    }
    let (q, k, v, state, out) = (q.as_ptr(), k.as_ptr(), v.as_ptr(), state.as_mut_ptr(), out.as_mut_ptr());
    let mut i = 0;
    // SAFETY: of `q` and `k` elements below `keys` are read; of `v`, `out` and each of the `keys` rows of the state those below `n`.
    unsafe {
        // Two vectors of values at a time: their part of the state, read twice, stays in L1.
        while i + 2 * LANES <= n {
            columns::<S, 2>(keys, n, q, k, v.add(i), decay, beta, state.add(i), out.add(i), LANES);
            i += 2 * LANES;
        }
        while i < n {
            columns::<S, 1>(
                keys,
                n,
                q,
                k,
                v.add(i),
                decay,
                beta,
                state.add(i),
                out.add(i),
                (n - i).min(LANES),
            );
            i += LANES;
        }
    }
}

/// The same for `N` vectors of values, of which the last has `last` elements.
///
/// # Safety
/// `q` and `k` are valid for `keys` elements, `v` and `out` for those of the vectors, `state` for as many in each of `keys` rows of
/// `stride` elements.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn columns<S: Simd, const N: usize>(
    keys: usize,
    stride: usize,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    decay: f32,
    beta: f32,
    state: *mut f32,
    out: *mut f32,
    last: usize,
) {
    let len = |j: usize| if j + 1 == N { last } else { LANES };
    // SAFETY: by this function's contract.
    unsafe {
        let decay = S::splat(decay);
        let mut known = [S::zero(); N];
        for row in 0..keys {
            let key = S::splat(*k.add(row));
            for (j, known) in known.iter_mut().enumerate() {
                let s = load_n::<S>(state.add(row * stride + j * LANES), len(j));
                *known = S::fma(key, S::mul(decay, s), *known);
            }
        }
        let mut change = [S::zero(); N];
        for (j, change) in change.iter_mut().enumerate() {
            let new = S::sub(load_n::<S>(v.add(j * LANES), len(j)), known[j]);
            *change = S::mul(S::splat(beta), new);
        }
        let mut sum = [S::zero(); N];
        for row in 0..keys {
            let (key, query) = (S::splat(*k.add(row)), S::splat(*q.add(row)));
            for (j, sum) in sum.iter_mut().enumerate() {
                let at = state.add(row * stride + j * LANES);
                let s = S::fma(key, change[j], S::mul(decay, load_n::<S>(at, len(j))));
                store_n::<S>(at, s, len(j));
                *sum = S::fma(query, s, *sum);
            }
        }
        for (j, sum) in sum.into_iter().enumerate() {
            store_n::<S>(out.add(j * LANES), sum, len(j));
        }
    }
}
