//! The most that an instruction set computes: multiply-adds on registers, or on tiles as they come from L1, as a bound to hold kernels
//! against.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512Vnni, AvxVnni};
#[cfg(target_arch = "aarch64")]
use crate::simd::{Dotprod, I8mm, Neon};
use crate::simd::{LANES, Scalar, Simd};
use std::hint::black_box;

/// What is multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Single precision.
    F32,
    /// Bytes into integer sums, as products with quantised weights are.
    Int8,
    /// bf16, as prompts on [`Isa::Amx`] are, and those of 16-bit float weights on [`Isa::Avx512Bf16`].
    Bf16,
}

impl Arithmetic {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Int8 => "int8",
            Arithmetic::Bf16 => "bf16",
        }
    }
}

/// Computes `rounds` rounds of independent multiply-adds on this thread, which the caller times, and gives their
/// number of operations: two per multiply-add. `None` when this machine lacks `isa`, or `isa` the arithmetic.
pub fn run(isa: Isa, arithmetic: Arithmetic, rounds: usize) -> Option<u64> {
    if !isa.available() {
        return None;
    }
    let (f32, int8, tokens) = match isa {
        Isa::Scalar => scalar::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avxvnni::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512vnni::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => dotprod::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => i8mm::KERNELS,
        _ => return None,
    };
    let (kernel, columns) = match arithmetic {
        Arithmetic::F32 => (f32, 1),
        Arithmetic::Int8 => (int8, 4 * QUADS),
        Arithmetic::Bf16 => return crate::bf16::peak(isa, rounds),
    };
    // SAFETY: the instruction set is available.
    unsafe { kernel(rounds) };
    Some((2 * LANES * columns * GROUPS * tokens * rounds) as u64)
}

/// Groups of sixteen rows, each multiplied with every token: a tile, as in the matrix products.
const GROUPS: usize = 2;

/// Quads of columns in a round of integer products.
const QUADS: usize = 4;

type Kernel = unsafe fn(usize);

#[inline(always)]
unsafe fn f32_rounds<S: Simd, const TOKENS: usize>(rounds: usize) {
    let x = black_box([1e-3f32; TOKENS]);
    // SAFETY: the caller vouches for the instruction set; `out` has room for sixteen floats.
    unsafe {
        let w = [S::splat(black_box(1e-3)), S::splat(black_box(2e-3))];
        let mut sums = [[S::zero(); GROUPS]; TOKENS];
        for _ in 0..rounds {
            for (sums, &x) in sums.iter_mut().zip(&x) {
                for (sum, &w) in sums.iter_mut().zip(&w) {
                    *sum = S::fma(w, S::splat(x), *sum);
                }
            }
        }
        let mut out = [0f32; LANES];
        for sum in sums.into_iter().flatten() {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
}

#[inline(always)]
unsafe fn int8_rounds<S: Simd, const TOKENS: usize>(rounds: usize) {
    // Other activations in each of four rounds, too: products of the same ones would be computed once, before the loop.
    let x = black_box([[[1i8; 4 * QUADS]; TOKENS]; 4]);
    let codes = black_box([[3u8; 64]; GROUPS]);
    // SAFETY: the caller vouches for the instruction set; codes are 64 bytes, activations 16.
    unsafe {
        let codes = [S::load_codes(codes[0].as_ptr()), S::load_codes(codes[1].as_ptr())];
        let zero = S::splat_i(0);
        let mut sums = [[S::acc_start(zero); GROUPS]; TOKENS];
        for round in 0..rounds {
            for (sums, x) in sums.iter_mut().zip(&x[round % 4]) {
                for (sum, &codes) in sums.iter_mut().zip(&codes) {
                    *sum = S::dot::<0>(4, *sum, codes, x.as_ptr());
                    *sum = S::dot::<1>(4, *sum, codes, x.as_ptr());
                    *sum = S::dot::<2>(4, *sum, codes, x.as_ptr());
                    *sum = S::dot::<3>(4, *sum, codes, x.as_ptr());
                }
            }
        }
        let mut out = [0f32; LANES];
        for sum in sums.into_iter().flatten() {
            S::store(out.as_mut_ptr(), S::to_f(S::acc_flush(zero, sum)));
            black_box(&out);
        }
    }
}

macro_rules! instantiate {
    ($module:ident, $simd:ty, $tokens:literal $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            pub(super) const KERNELS: (Kernel, Kernel, usize) = (f32, int8, $tokens);

            $(#[target_feature(enable = $feature)])?
            unsafe fn f32(rounds: usize) {
                // SAFETY: passed on.
                unsafe { f32_rounds::<$simd, $tokens>(rounds) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn int8(rounds: usize) {
                // SAFETY: passed on.
                unsafe { int8_rounds::<$simd, $tokens>(rounds) }
            }
        }
    };
}

// Tokens: two units with a latency of 4 to 5 cycles want 8 to 10 sums, and AVX2 has 16 registers, two for each sum. Four units want 16
// sums; NEON has 32 registers, four for each sum, or eight without a dot product.
instantiate!(scalar, Scalar, 2);
#[cfg(target_arch = "x86_64")]
instantiate!(avx2, Avx2, 2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(avxvnni, AvxVnni, 2, "avxvnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
instantiate!(avx512vnni, Avx512Vnni, 6, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
instantiate!(neon, Neon, 1, "neon");
#[cfg(target_arch = "aarch64")]
instantiate!(dotprod, Dotprod, 2, "neon,dotprod");
#[cfg(target_arch = "aarch64")]
instantiate!(i8mm, I8mm, 2, "neon,dotprod,i8mm");

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn counts_operations_and_takes_time_for_them() {
        for isa in Isa::ALL {
            for arithmetic in [Arithmetic::F32, Arithmetic::Int8, Arithmetic::Bf16] {
                let one = run(isa, arithmetic, 1);
                let bf16 = matches!(isa, Isa::Avx512Bf16 | Isa::Amx);
                let has = isa.available() && (arithmetic != Arithmetic::Bf16 || bf16);
                assert_eq!(one.is_some(), has);
                let Some(one) = one else { continue };
                let rounds = 1_000_000;
                let start = Instant::now();
                assert_eq!(run(isa, arithmetic, rounds), Some(one * rounds as u64));
                // Two instructions of 64 bytes by 4 columns in each of 6e9 cycles per second, or a tile product in sixteen: nothing
                // is faster yet.
                let tiles = (isa, arithmetic) == (Isa::Amx, Arithmetic::Bf16);
                let limit = if tiles { 1024.0 * 6e9 } else { 2.0 * 2.0 * 64.0 * 6e9 };
                let rate = (one * rounds as u64) as f64 / start.elapsed().as_secs_f64();
                assert!(rate < limit, "{isa} {}: {rate:.3e} operations per second", arithmetic.name());
            }
        }
    }
}
