//! What bounds a test on this machine: the bandwidth of its memory and the arithmetic of its processor.

use crate::bandwidth;
use crate::ctx::Ctx;
use crate::progress;
use kinfer::peak::{self, Arithmetic};
use kinfer::{GpuPeak, Isa};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// The bounds for one number of threads, or of a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Threads that were measured with; `None`: a GPU.
    pub threads: Option<usize>,
    /// Bytes read from memory per second, in 10^9; `None` where memory is too short to measure.
    pub gb_per_s: Option<f64>,
    /// Single-precision operations per second, in 10^9; 0 where nothing is computed so.
    pub f32_gops: f64,
    /// Integer operations on bytes per second, in 10^9.
    pub int8_gops: f64,
    /// The same in bf16; 0 where the instruction set has none.
    pub bf16_gops: f64,
}

impl From<GpuPeak> for Bounds {
    fn from(GpuPeak { gb_per_s, int8_gops, bf16_gops }: GpuPeak) -> Self {
        let bf16_gops = bf16_gops.unwrap_or(0.0);
        Bounds { threads: None, gb_per_s: Some(gb_per_s), f32_gops: 0.0, int8_gops, bf16_gops }
    }
}

impl Bounds {
    /// Whose they are, for people.
    pub fn of(&self) -> String {
        match self.threads {
            None => "the GPU".into(),
            Some(1) => "1 thread".into(),
            Some(n) => format!("{n} threads"),
        }
    }

    /// Operations per second, in 10^9.
    pub fn gops(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::F32 => self.f32_gops,
            Arithmetic::Int8 => self.int8_gops,
            Arithmetic::Bf16 => self.bf16_gops,
        }
    }
}

/// Time for each number of threads, for memory and each arithmetic.
const TIME: Duration = Duration::from_millis(400);

/// Measures with each number of threads.
pub fn measure(ctx: &Ctx, isa: Isa, threads: &[usize]) -> Vec<Bounds> {
    let _line = progress::transient(ctx, "measuring the machine's bounds …");
    let memory =
        bandwidth::bytes().map(|bytes| bandwidth::measure(bytes, threads, TIME * threads.len() as u32));
    let bounds = |(i, &threads): (usize, &usize)| Bounds {
        threads: Some(threads),
        gb_per_s: memory.as_ref().and_then(|m| m.get(i)).map(|b| b.gb_per_s),
        f32_gops: compute(isa, Arithmetic::F32, threads),
        int8_gops: compute(isa, Arithmetic::Int8, threads),
        bf16_gops: compute(isa, Arithmetic::Bf16, threads),
    };
    threads.iter().enumerate().map(bounds).collect()
}

/// Rounds of a pass: about 10 ms where two instructions end in each cycle.
const ROUNDS: usize = 4_000_000;

/// The best of several passes of `threads` threads side by side, in 10^9 operations per second: other programs can only
/// make a pass slower.
fn compute(isa: Isa, arithmetic: Arithmetic, threads: usize) -> f64 {
    let end = Instant::now() + TIME / 2;
    // Plain Rust is up to 100 times slower, and a pass should still end.
    let rounds = if isa == Isa::Scalar { ROUNDS / 100 } else { ROUNDS };
    let mut best = 0f64;
    while best == 0.0 || Instant::now() < end {
        let barrier = Barrier::new(threads);
        let pass = || {
            barrier.wait();
            let start = Instant::now();
            let operations = peak::run(isa, arithmetic, rounds).unwrap_or(0);
            operations as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        let all: f64 = thread::scope(|s| {
            let running: Vec<_> = (0..threads).map(|_| s.spawn(pass)).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        });
        best = best.max(all);
        if all == 0.0 {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_compute_more_than_plain_rust() {
        let rate = |isa| compute(isa, Arithmetic::F32, 1);
        assert!(rate(Isa::Scalar) > 0.0);
        if Isa::best() != Isa::Scalar && !cfg!(debug_assertions) {
            assert!(rate(Isa::best()) > 2.0 * rate(Isa::Scalar));
        }
    }
}
