//! Activations of feed-forwards, with a gate (`out = act(gate) * up`) and without (`x = act(x)`).

use super::lanes::{load_n, store_n};
use crate::simd::{LANES, Simd, exp};

/// `x / (1 + e^-x)`.
#[inline(always)]
unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::zero(), x)))) }
}

/// `x / 2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
#[inline(always)]
unsafe fn gelu_tanh<S: Simd>(x: S::F) -> S::F {
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u), which cancels nowhere. The factors are -2 sqrt(2/pi) and 0.044715 times it.
    const A: f32 = -1.595_769;
    const B: f32 = -0.071_354_816;
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let u = S::mul(x, S::fma(S::mul(x, x), S::splat(B), S::splat(A)));
        S::div(x, S::add(S::splat(1.0), exp::<S>(u)))
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`, which is `max(x, 0) - |x| Q(|x|)` with the normal distribution's tail `Q`.
///
/// The tail is e^(-x^2/2) times a polynomial in 1 / (1 + 0.2316419 x), to 7.5e-8 (Abramowitz & Stegun, 26.2.17).
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    const C: [f32; 5] = [0.530_702_7, -0.726_576, 0.710_706_9, -0.142_248_37, 0.127_414_8];
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        // Beyond 14 the tail is below every float; infinity times it would be NaN. The bound comes first so that NaN stays.
        let a = S::min(S::splat(14.0), S::abs(x));
        let t = S::div(S::splat(1.0), S::fma(a, S::splat(0.231_641_9), S::splat(1.0)));
        let mut p = S::splat(C[0]);
        for c in &C[1..] {
            p = S::fma(p, t, S::splat(*c));
        }
        let e = exp::<S>(S::mul(S::mul(a, a), S::splat(-0.5)));
        let tail = S::mul(S::mul(S::mul(p, t), e), a);
        S::sub(S::max(S::zero(), x), tail)
    }
}

/// `min(x, 7) / (1 + e^(-1.702 min(x, 7)))`.
#[inline(always)]
unsafe fn swiglu_oai<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let x = S::min(S::splat(7.0), x); // in this order, so that NaN stays
        S::div(x, S::add(S::splat(1.0), exp::<S>(S::mul(x, S::splat(-1.702)))))
    }
}

/// What is multiplied with the gate: `up` itself, or `clamp(up, -7, 7) + 1`.
#[inline(always)]
unsafe fn same<S: Simd>(up: S::F) -> S::F {
    up
}

#[inline(always)]
unsafe fn clamped_plus_one<S: Simd>(up: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { S::add(S::max(S::splat(-7.0), S::min(S::splat(7.0), up)), S::splat(1.0)) }
}

/// For each activation the two operations that apply it to slices.
macro_rules! activations {
    ($($act:ident, $up:ident: $gated:ident, $alone:ident;)*) => { $(
        #[inline(always)]
        pub unsafe fn $gated<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
            debug_assert!(gate.len() == out.len() && up.len() == out.len());
            let n = gate.len().min(up.len()).min(out.len());
            let mut i = 0;
            while i < n {
                // SAFETY: every access lies below `n`.
                unsafe {
                    let y = $act::<S>(load_n::<S>(gate.as_ptr().add(i), n - i));
                    let u = $up::<S>(load_n::<S>(up.as_ptr().add(i), n - i));
                    store_n::<S>(out.as_mut_ptr().add(i), S::mul(y, u), n - i);
                }
                i += LANES;
            }
        }

        #[inline(always)]
        pub unsafe fn $alone<S: Simd>(x: &mut [f32]) {
            let (n, x) = (x.len(), x.as_mut_ptr());
            let mut i = 0;
            while i < n {
                // SAFETY: every access lies below `n`.
                unsafe { store_n::<S>(x.add(i), $act::<S>(load_n::<S>(x.add(i), n - i)), n - i) };
                i += LANES;
            }
        }
    )* };
}

activations! {
    silu, same: silu_mul, silu_all;
    gelu_tanh, same: gelu_tanh_mul, gelu_tanh_all;
    gelu, same: gelu_mul, gelu_all;
    swiglu_oai, clamped_plus_one: swiglu_oai_mul, swiglu_oai_all;
}
