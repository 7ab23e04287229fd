//! How fast memory can be read: what bounds the speed of decoding, which reads all weights for every token.

use crate::system;
use kinfer::machine;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A measured read bandwidth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    /// Threads that read side by side.
    pub threads: usize,
    /// Bytes per second, all threads together, in 10^9.
    pub gb_per_s: f64,
}

/// Bytes to read by default: much larger than the last-level cache of desktop processors.
const DEFAULT_BYTES: u64 = 256 << 20;

/// Bytes that a thread takes at a time.
const PIECE: usize = 4 << 20;

/// Bytes to read on this machine: four times its last-level cache, so that the cache serves little of it. `None` where
/// memory is too short for that.
pub fn bytes() -> Option<usize> {
    let cache = system::last_level_cache().unwrap_or(0);
    let bytes = (4 * cache).clamp(DEFAULT_BYTES, 4 * DEFAULT_BYTES);
    let short = machine::available_memory().is_some_and(|free| free / 2 < bytes);
    usize::try_from(bytes).ok().filter(|_| !short)
}

/// Reads `bytes` of memory with each of these numbers of threads for about `time` in all, and gives the best pass of
/// each: other programs can only make a pass slower.
pub fn measure(bytes: usize, threads: &[usize], time: Duration) -> Vec<Bandwidth> {
    let max_threads = threads.iter().copied().max().unwrap_or(1);
    let share = (bytes / 8 / max_threads).max(1);
    // Fresh memory is slow to touch, so all threads fill it.
    let parts: Vec<Vec<u64>> = thread::scope(|s| {
        let threads: Vec<_> = (0..max_threads).map(|_| s.spawn(move || vec![1_u64; share])).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    let pieces: Vec<&[u64]> = parts.iter().flat_map(|part| part.chunks(PIECE / 8)).collect();
    let each = time / threads.len().max(1) as u32;
    let best = |&threads: &usize| Bandwidth { threads, gb_per_s: best_pass(&pieces, threads, each) };
    threads.iter().map(best).collect()
}

/// The best of the passes over all of `pieces` that begin within `time`, in GB/s.
fn best_pass(pieces: &[&[u64]], threads: usize, time: Duration) -> f64 {
    let bytes = pieces.iter().map(|p| size_of_val(*p)).sum::<usize>() as f64;
    let end = Instant::now() + time;
    let mut best = 0_f64;
    while best == 0.0 || Instant::now() < end {
        let barrier = Barrier::new(threads);
        let next = AtomicUsize::new(0);
        let read = || {
            barrier.wait();
            let start = Instant::now();
            let mut total = 0_u64;
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                total = total.wrapping_add(sum(piece));
            }
            black_box(total);
            (start, Instant::now())
        };
        // The readers look at the clock themselves: where they have all processors, a thread that only waits for them wakes up
        // when they are done.
        let times: Vec<_> = thread::scope(|s| {
            let readers: Vec<_> = (0..threads).map(|_| s.spawn(read)).collect();
            readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
        });
        let start = times.iter().map(|&(start, _)| start).min();
        let end = times.iter().map(|&(_, end)| end).max();
        if let (Some(start), Some(end)) = (start, end) {
            best = best.max(bytes / (end - start).as_secs_f64() / 1e9);
        }
    }
    best
}

/// The wrapping sum of all values, by two streams of reads: one core reaches more of the memory's bandwidth when it waits for
/// several places at once. With one thread of Zen 5 one stream reads 33 GB/s, two 40, and four 37.
fn sum(values: &[u64]) -> u64 {
    const LANES: usize = 8;
    let half = values.len() / 2 / LANES * LANES;
    let (streams, rest) = values.split_at(2 * half);
    let (a, b) = streams.split_at(half);
    let mut sums = [[0_u64; LANES]; 2];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for (sums, chunk) in sums.iter_mut().zip([a, b]) {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }
    sums.iter().flatten().chain(rest).fold(0, |all, &v| all.wrapping_add(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_value_once() {
        for len in [0, 1, 7, 32, 33, 1000, 4096] {
            let values: Vec<u64> = (0..len).collect();
            assert_eq!(sum(&values), values.iter().sum::<u64>(), "{len} values");
        }
    }

    #[test]
    fn measures_each_number_of_threads() {
        let got = measure(16 << 20, &[1, 3], Duration::from_millis(50));
        assert_eq!(got.iter().map(|b| b.threads).collect::<Vec<_>>(), [1, 3]);
        assert!(got.iter().all(|b| b.gb_per_s.is_finite() && b.gb_per_s > 0.0), "{got:?}");
    }

    /// A core reads less than 1000 GB/s from its caches. All processors read here: a clock in another thread once started after
    /// the work, and gave 20000 GB/s.
    #[test]
    fn all_processors_read_no_faster_than_they_can() {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let got = measure(16 << 20, &[threads], Duration::from_millis(200));
        assert!(got[0].gb_per_s < 1000.0 * threads as f64, "{got:?}");
    }
}
