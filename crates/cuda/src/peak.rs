//! The most that a GPU reads and computes, measured: bounds to hold a model's speed against.

use crate::driver::{Argument, Gpu, Grid};
use crate::memory::Buffer;
use crate::ops::arguments;
use kinfer_core::Result;
use std::time::{Duration, Instant};

/// A GPU's bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Bytes read from its memory per second, in 10^9.
    pub gb_per_s: f64,
    /// Operations per second of products of bytes, as for generated rows, in 10^9.
    pub int8_gops: f64,
    /// The same in bf16 on tensor cores, as for prompts; `None`: it has none that take bf16.
    pub bf16_gops: Option<f64>,
}

/// A pass is made longer until it takes this: launching then counts little.
const ENOUGH: Duration = Duration::from_millis(4);
/// Passes, of which the best counts.
const PASSES: usize = 5;
/// Threads of a block, and blocks for each multiprocessor.
const THREADS: usize = 256;
const BLOCKS: usize = 8;
/// Bytes that are read at most: many times a cache.
const MEMORY: u64 = 2 << 30;

/// Measures GPU `ordinal`, in well under a second.
///
/// # Errors
/// As [`crate::Cuda::new`].
pub fn peak(ordinal: usize) -> Result<Peak> {
    let gpu = Gpu::open(ordinal, None)?;
    let blocks = BLOCKS * gpu.multiprocessors;
    let grid = Grid::new(blocks, 1, THREADS);
    let out: Buffer = gpu.alloc(4, "a result")?;
    let to = out.pointer();

    let bytes = (MEMORY.min(gpu.memory()?.0 / 2) as usize).next_power_of_two() / 2;
    let memory = gpu.alloc(bytes, "a measurement")?;
    memory.clear()?;
    let (from, function) = (memory.pointer(), gpu.function("peak", "peak_read")?);
    let gb_per_s = best(&gpu, 1 << 20, bytes, |bytes| {
        let n = bytes as u64 / 16;
        // SAFETY: the memory has so many bytes.
        unsafe { gpu.launch(gpu.stream, &function, grid, arguments![from, n, to]) }
    })?;

    let compute = |name: &str, operations: usize| {
        let function = gpu.function("peak", name)?;
        let rounds = best(&gpu, 16, 1 << 24, |rounds| {
            let rounds = rounds as i32;
            // SAFETY: the kernel touches nothing but the result.
            unsafe { gpu.launch(gpu.stream, &function, grid, arguments![rounds, to]) }
        })?;
        Ok(rounds * (blocks * operations) as f64)
    };
    let int8_gops = compute("peak_int8", THREADS * 64)?;
    let bf16_gops = match gpu.has_bf16() {
        true => Some(compute("peak_bf16", THREADS / 32 * 8 * 4096)?),
        false => None,
    };
    Ok(Peak { gb_per_s, int8_gops, bf16_gops })
}

/// Work per nanosecond at best, of `least` to `most` of it a pass.
fn best(gpu: &Gpu, least: usize, most: usize, launch: impl Fn(usize) -> Result<()>) -> Result<f64> {
    let pass = |work| {
        let start = Instant::now();
        launch(work)?;
        gpu.synchronize()?;
        Ok::<_, kinfer_core::Error>(start.elapsed())
    };
    let mut work = least.min(most);
    // The first one loads the kernel.
    pass(work)?;
    while work < most && pass(work)? < ENOUGH {
        work = (2 * work).min(most);
    }
    let mut shortest = Duration::MAX;
    for _ in 0..PASSES {
        shortest = shortest.min(pass(work)?);
    }
    Ok(work as f64 / shortest.as_secs_f64() / 1e9)
}
