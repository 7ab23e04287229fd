//! Operations without neighbours: sums, conversions, and the largest element.

use super::lanes::{load_n, store_n, tanh};
use crate::simd::{LANES, Simd, exp};
use half::{bf16, f16};

#[inline(always)]
pub unsafe fn add<S: Simd>(x: &mut [f32], y: &[f32]) {
    debug_assert_eq!(x.len(), y.len());
    let n = x.len().min(y.len());
    let (x, y) = (x.as_mut_ptr(), y.as_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`.
        unsafe {
            let v = S::add(load_n::<S>(x.add(i), n - i), load_n::<S>(y.add(i), n - i));
            store_n::<S>(x.add(i), v, n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn scale<S: Simd>(x: &mut [f32], factor: f32) {
    let (n, x) = (x.len(), x.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`.
        unsafe {
            store_n::<S>(x.add(i), S::mul(load_n::<S>(x.add(i), n - i), S::splat(factor)), n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn sigmoid_mul<S: Simd>(gate: &[f32], x: &mut [f32]) {
    debug_assert_eq!(x.len(), gate.len());
    let n = x.len().min(gate.len());
    let (x, gate) = (x.as_mut_ptr(), gate.as_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`.
        unsafe {
            let minus = S::sub(S::zero(), load_n::<S>(gate.add(i), n - i));
            let v = S::div(load_n::<S>(x.add(i), n - i), S::add(S::splat(1.0), exp::<S>(minus)));
            store_n::<S>(x.add(i), v, n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn softcap<S: Simd>(x: &mut [f32], cap: f32) {
    let (n, x) = (x.len(), x.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`.
        unsafe {
            let c = S::splat(cap);
            let t = tanh::<S>(S::div(load_n::<S>(x.add(i), n - i), c));
            store_n::<S>(x.add(i), S::mul(t, c), n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn to_f16<S: Simd>(x: &[f32], out: &mut [f16]) {
    debug_assert_eq!(x.len(), out.len());
    let n = x.len().min(out.len());
    let (x, out) = (x.as_ptr(), out.as_mut_ptr().cast::<u16>());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`; `f16` is a transparent `u16`.
        unsafe {
            let v = load_n::<S>(x.add(i), n - i);
            if n - i >= LANES {
                S::store_f16(out.add(i), v);
            } else {
                let mut b = [0u16; LANES];
                S::store_f16(b.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(b.as_ptr(), out.add(i), n - i);
            }
        }
        i += LANES;
    }
}

/// Loads `n` 16-bit elements, at most 16; zeros follow.
#[inline(always)]
unsafe fn load_u16(p: *const u16, n: usize) -> [u16; LANES] {
    let mut b = [0; LANES];
    // SAFETY: `n` elements at `p` are valid by the caller, `b` holds 16.
    unsafe { std::ptr::copy_nonoverlapping(p, b.as_mut_ptr(), n.min(LANES)) };
    b
}

#[inline(always)]
pub unsafe fn from_f16<S: Simd>(x: &[f16], out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    let n = x.len().min(out.len());
    let (x, out) = (x.as_ptr().cast::<u16>(), out.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`; `f16` is a transparent `u16`.
        unsafe {
            let v = if n - i >= LANES {
                S::load_f16(x.add(i))
            } else {
                S::load_f16(load_u16(x.add(i), n - i).as_ptr())
            };
            store_n::<S>(out.add(i), v, n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn from_bf16<S: Simd>(x: &[bf16], out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    let n = x.len().min(out.len());
    let (x, out) = (x.as_ptr().cast::<u16>(), out.as_mut_ptr());
    let mut i = 0;
    while i < n {
        // SAFETY: every access lies below `n`; `bf16` is a transparent `u16`.
        unsafe {
            let v = if n - i >= LANES {
                S::load_bf16(x.add(i))
            } else {
                S::load_bf16(load_u16(x.add(i), n - i).as_ptr())
            };
            store_n::<S>(out.add(i), v, n - i);
        }
        i += LANES;
    }
}

#[inline(always)]
pub unsafe fn argmax<S: Simd>(x: &[f32]) -> Option<usize> {
    // Only the first chunk that holds the largest element is searched for its place.
    const CHUNK: usize = 32 * LANES;
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (c, chunk) in x.chunks(CHUNK).enumerate() {
        let whole = chunk.len() / LANES * LANES;
        // SAFETY: every access lies below `whole`.
        let mut top = unsafe {
            let mut acc = [S::splat(f32::NEG_INFINITY); 2];
            for i in (0..whole).step_by(LANES) {
                let a = &mut acc[i / LANES % 2];
                *a = S::max(S::load(chunk.as_ptr().add(i)), *a);
            }
            S::hmax(S::max(acc[0], acc[1]))
        };
        for &v in &chunk[whole..] {
            if v > top {
                top = v;
            }
        }
        if top > best {
            (best, at) = (top, c * CHUNK);
        }
    }
    x.get(at..)?.iter().position(|&v| v == best).map(|i| at + i)
}
