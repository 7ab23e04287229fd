//! Loads and stores of a vector's tail, and the functions that more than one operation needs.

use crate::simd::{LANES, Simd};

/// Loads `n` floats, at most 16; zeros follow.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn load_n<S: Simd>(p: *const f32, n: usize) -> S::F {
    // SAFETY: `n` elements at `p` are valid by the caller, `b` holds 16.
    unsafe {
        if n >= LANES {
            return S::load(p);
        }
        let mut b = [0.0; LANES];
        std::ptr::copy_nonoverlapping(p, b.as_mut_ptr(), n);
        S::load(b.as_ptr())
    }
}

/// Stores the first `n` lanes, at most 16.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn store_n<S: Simd>(p: *mut f32, v: S::F, n: usize) {
    // SAFETY: `n` elements at `p` are valid by the caller, `b` holds 16.
    unsafe {
        if n >= LANES {
            return S::store(p, v);
        }
        let mut b = [0.0; LANES];
        S::store(b.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(b.as_ptr(), p, n);
    }
}

/// `tanh x = t / (t + 2)` with `t = e^2x - 1`. As `t` is computed without cancellation, so is the result
/// (relative error below 4e-7, also near 0).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // ln 2 is split so that x - n ln2 is exact to 2^-33.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        // tanh 10 rounds to 1. The bound comes first so that NaN stays NaN.
        let x = S::max(S::splat(-10.0), S::min(S::splat(10.0), x));
        let x = S::add(x, x);
        let n = S::to_i(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let nf = S::to_f(n);
        let r = S::fnma(nf, S::splat(LN2_LO), S::fnma(nf, S::splat(LN2_HI), x));
        // (e^r - 1) / r by its Taylor series, |r| <= ln(2)/2.
        let mut p = S::splat(1.0 / 5040.0);
        p = S::fma(p, r, S::splat(1.0 / 720.0));
        p = S::fma(p, r, S::splat(1.0 / 120.0));
        p = S::fma(p, r, S::splat(1.0 / 24.0));
        p = S::fma(p, r, S::splat(1.0 / 6.0));
        p = S::fma(p, r, S::splat(0.5));
        p = S::fma(p, r, S::splat(1.0));
        let two_n = S::as_f(S::shl_i::<23>(S::add_i(n, S::splat_i(127))));
        let t = S::fma(two_n, S::mul(p, r), S::sub(two_n, S::splat(1.0)));
        S::div(t, S::add(t, S::splat(2.0)))
    }
}
