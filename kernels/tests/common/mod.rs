//! What the kernel tests share.
#![allow(dead_code)] // each test binary uses its part

use kinfer_kernels::isa::Isa;
use kinfer_kernels::ops::Ops;

/// Every instance that this machine can run, the definition first.
pub fn all_ops() -> Vec<&'static Ops> {
    let all: Vec<_> = Isa::ALL.into_iter().filter_map(Ops::new).collect();
    assert_eq!(all[0].isa(), Isa::Scalar);
    all
}

/// Pseudo-random numbers (xorshift64*, Vigna 2016).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }
    /// Uniform in -1..1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
    /// About standard normal: the sum of 12 uniforms has variance 4.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
    }
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Error energy relative to the signal's.
pub fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let err: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let sig: f64 = want.iter().map(|w| w * w).sum();
    if err == 0.0 { 0.0 } else { err / sig }
}

/// The same bits, or both NaN: which NaN an operation gives is not defined.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()))
}

/// Values at which arithmetic turns odd.
pub const SPECIAL: [f32; 14] = [
    0.0,
    -0.0,
    f32::MIN_POSITIVE,
    1e-45,
    -3e-42,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e19,
    -88.5,
    88.5,
    65520.0,
];
