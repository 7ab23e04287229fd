//! Speeds beside what the machine was measured to do in the same run, on one thread.
#![allow(dead_code)] // each bench uses a part

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::peak::{self, Arithmetic};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// What an iteration does.
#[derive(Clone, Copy)]
pub enum Work {
    /// Reads so many bytes.
    Bytes(usize),
    /// Computes so many operations, two per multiply-add, on an instruction set.
    Operations(usize, Isa, Arithmetic),
}

impl Work {
    fn throughput(self) -> Throughput {
        match self {
            Work::Bytes(n) => Throughput::Bytes(n as u64),
            Work::Operations(n, ..) => Throughput::Elements(n as u64),
        }
    }

    /// For an iteration of `seconds`: `12.3 GB/s, 81 % of memory's 15.2`.
    fn speed(self, seconds: f64) -> String {
        match self {
            Work::Bytes(n) => {
                let (speed, bound) = (n as f64 / seconds / 1e9, *BANDWIDTH);
                format!("{speed:.1} GB/s, {:.0} % of memory's {bound:.1}", 100.0 * speed / bound)
            }
            Work::Operations(n, isa, arithmetic) => {
                let (speed, bound) = (n as f64 / seconds / 1e9, peak(isa, arithmetic));
                let name = arithmetic.name();
                format!("{speed:.1} GOPS, {:.0} % of {name}'s {bound:.0}", 100.0 * speed / bound)
            }
        }
    }
}

/// Runs a bench, and prints the speed of its fastest sample.
pub fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, work: Work, mut iteration: impl FnMut()) {
    group.throughput(work.throughput());
    let mut best = f64::INFINITY;
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            (0..iterations).for_each(|_| iteration());
            let elapsed = start.elapsed();
            best = best.min(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    // It stays infinite where the user's filter leaves the bench out.
    if best.is_finite() {
        println!("{:24}speed:  {}", "", work.speed(best));
    }
}

/// Bytes read per second, in 10^9: the best pass over more than any cache holds.
static BANDWIDTH: LazyLock<f64> = LazyLock::new(|| {
    let memory = vec![1u64; 64 << 20];
    let pass = || {
        let start = Instant::now();
        // Two streams of eight lanes: more of the memory's bandwidth than one or four.
        let (a, b) = memory.split_at(memory.len() / 2);
        let mut sums = [[0u64; 8]; 2];
        for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
            for (sums, chunk) in sums.iter_mut().zip([a, b]) {
                sums.iter_mut().zip(chunk).for_each(|(sum, &v)| *sum = sum.wrapping_add(v));
            }
        }
        black_box(sums);
        size_of_val(&memory[..]) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..10).map(|_| pass()).fold(0.0, f64::max)
});

/// Operations per second, in 10^9.
fn peak(isa: Isa, arithmetic: Arithmetic) -> f64 {
    static MEASURED: LazyLock<Mutex<HashMap<(Isa, &'static str), f64>>> = LazyLock::new(Mutex::default);
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    *measured.entry((isa, arithmetic.name())).or_insert_with(|| {
        let pass = || {
            let start = Instant::now();
            let operations = peak::run(isa, arithmetic, 2_000_000).expect("an available ISA");
            operations as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        (0..20).map(|_| pass()).fold(0.0, f64::max)
    })
}
