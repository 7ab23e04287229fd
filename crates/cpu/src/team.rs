//! The thread team: workers that stay hot through a step and park when idle.
//!
//! A stage of the forward is one [`Team::run`]: the caller is worker 0, the others spin for it (0.4 us to enter and leave, measured,
//! against 5-20 us of a fork-join library). Inside, [`Worker::barrier`] takes 0.2 us. A worker that has had nothing to do
//! for [`SPIN`] starts yielding its core, and parks after [`PARK`]: an idle engine uses no CPU, and waking a parked
//! worker (40 us) happens at most once per step.
//!
//! On a machine of several NUMA nodes the workers are spread over the nodes, in order, and stay there. Shares of a weight go to the
//! workers in order too, and each packs its own, so a share's memory is near to who reads it. (The caller stays where it is: its
//! thread belongs to the program. Measured on no such machine.)

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Spins at a barrier before a worker yields its core: some 40 us at 140 cycles a `pause`. On a busy machine the worker that it waits for
/// may need this very core.
const BARRIER_SPINS: u32 = 1000;
/// How long a worker spins between stages before it yields.
const SPIN: Duration = Duration::from_micros(100);
/// How long it then yields before it parks; longer than the sampling of a token, so that a decode never waits for a wake-up.
const PARK: Duration = Duration::from_millis(3);

/// Keeps counters of different writers on different cache lines (two lines: adjacent ones are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// A job: the address of a closure that lives on the caller's stack until every worker has left it.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(&Worker<'_>) + Sync));

struct Shared {
    threads: usize,
    /// Counts jobs; a change releases the workers.
    epoch: Padded<AtomicU32>,
    /// Workers that have left the current job.
    done: Padded<AtomicUsize>,
    /// Arrivals at the current barrier, and the number of barriers passed.
    arrived: Padded<AtomicUsize>,
    passed: Padded<AtomicU32>,
    /// Next unclaimed item of [`Worker::claim`].
    next: Padded<AtomicUsize>,
    /// Workers that are parked or about to.
    parked: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    quit: AtomicBool,
    /// A worker panicked: the others must not wait for it.
    failed: AtomicBool,
}

// SAFETY: `job` is written only by the holder of `Team::running` while no worker is in a job, before the release store of
// `epoch` that the workers acquire; everything else is atomic.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer in `job` is only followed while the closure lives.
unsafe impl Send for Shared {}

/// A fixed set of threads that compute stages together.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
    running: Mutex<()>,
}

/// One thread's view of a running stage.
pub struct Worker<'a> {
    shared: &'a Shared,
    /// Its number, `0..threads`.
    pub id: usize,
    /// How many threads take part.
    pub threads: usize,
}

impl Worker<'_> {
    /// Waits until every worker has called it as often.
    pub fn barrier(&self) {
        if self.threads == 1 {
            return;
        }
        let s = self.shared;
        let passed = s.passed.0.load(Relaxed);
        if s.arrived.0.fetch_add(1, AcqRel) + 1 == self.threads {
            s.arrived.0.store(0, Relaxed);
            s.next.0.store(0, Relaxed);
            s.passed.0.store(passed.wrapping_add(1), Release);
            return;
        }
        let mut spins = 0u32;
        while s.passed.0.load(Acquire) == passed {
            assert!(!s.failed.load(Relaxed), "another worker panicked");
            std::hint::spin_loop();
            spins += 1;
            if spins > BARRIER_SPINS {
                std::thread::yield_now();
            }
        }
    }

    /// This worker's even share of `n` units.
    pub fn share(&self, n: usize) -> Range<usize> {
        n * self.id / self.threads..n * (self.id + 1) / self.threads
    }

    /// The next of the items `0..n` that no worker has taken yet. The count starts anew at each job and each barrier.
    pub fn claim(&self, n: usize) -> Option<usize> {
        let i = self.shared.next.0.fetch_add(1, Relaxed);
        (i < n).then_some(i)
    }
}

/// Marks the team as failed when a worker unwinds.
struct OnPanic<'a>(&'a Shared);
impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Release);
        }
    }
}

impl Team {
    /// A team of `threads` threads, the caller of [`Team::run`] included.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            epoch: Padded(AtomicU32::new(0)),
            done: Padded(AtomicUsize::new(0)),
            arrived: Padded(AtomicUsize::new(0)),
            passed: Padded(AtomicU32::new(0)),
            next: Padded(AtomicUsize::new(0)),
            parked: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            quit: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let mut team = Team { shared, threads: Vec::new(), handles: Vec::new(), running: Mutex::new(()) };
        let nodes = crate::machine::nodes();
        for id in 1..threads {
            let shared = team.shared.clone();
            let near = (nodes.len() > 1).then(|| nodes[id * nodes.len() / threads].clone());
            let handle = std::thread::Builder::new().name(format!("kinfer-{id}")).spawn(move || {
                near.iter().for_each(|cpus| crate::machine::stay_on(cpus));
                work(&shared, id)
            })?;
            team.threads.push(handle.thread().clone());
            team.handles.push(handle);
        }
        Ok(team)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `f` once on every thread and returns when all have left it. Calls from several threads take turns.
    pub fn run(&self, f: impl Fn(&Worker<'_>) + Sync) {
        let _turn = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let s = &*self.shared;
        assert!(!s.failed.load(Acquire), "a worker of this team panicked in an earlier stage");
        let f: &(dyn Fn(&Worker<'_>) + Sync) = &f;
        let worker = Worker { shared: s, id: 0, threads: s.threads };
        s.next.0.store(0, Relaxed);
        if s.threads == 1 {
            f(&worker);
            return;
        }
        // SAFETY: the lifetime is erased only for as long as `f` lives: this function leaves (also by unwinding, see
        // `Join`) after every worker has left the job. No worker reads `job` before the epoch changes.
        unsafe {
            *s.job.get() = Some(Job(std::mem::transmute::<
                *const (dyn Fn(&Worker<'_>) + Sync + '_),
                *const (dyn Fn(&Worker<'_>) + Sync + 'static),
            >(f)));
        }
        s.done.0.store(0, Relaxed);
        s.epoch.0.fetch_add(1, SeqCst);
        if s.parked.0.load(SeqCst) > 0 {
            self.threads.iter().for_each(Thread::unpark);
        }
        {
            let _join = Join(s);
            let _on_panic = OnPanic(s);
            f(&worker);
        }
        assert!(!s.failed.load(Acquire), "a worker of this team panicked");
    }
}

/// Waits, when dropped, until every worker has left the job.
struct Join<'a>(&'a Shared);
impl Drop for Join<'_> {
    fn drop(&mut self) {
        let mut spins = 0u32;
        while self.0.done.0.load(Acquire) + 1 < self.0.threads {
            std::hint::spin_loop();
            spins += 1;
            if spins > BARRIER_SPINS {
                std::thread::yield_now();
            }
        }
    }
}

/// Counts a worker as having left the job, however it leaves.
struct Leave<'a>(&'a Shared);
impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.done.0.fetch_add(1, Release);
    }
}

fn work(s: &Shared, id: usize) {
    let mut epoch = 0;
    loop {
        let mut idle: Option<Instant> = None;
        let mut spins = 0u32;
        loop {
            let now = s.epoch.0.load(Acquire);
            if now != epoch {
                epoch = now;
                break;
            }
            std::hint::spin_loop();
            spins += 1;
            if !spins.is_multiple_of(256) {
                continue;
            }
            let since = idle.get_or_insert_with(Instant::now).elapsed();
            if since > PARK {
                s.parked.0.fetch_add(1, SeqCst);
                // A job posted before the increment was seen by nobody else: look again before sleeping.
                if s.epoch.0.load(SeqCst) == epoch {
                    std::thread::park();
                }
                s.parked.0.fetch_sub(1, SeqCst);
            } else if since > SPIN {
                std::thread::yield_now();
            }
        }
        if s.quit.load(Acquire) {
            return;
        }
        let _leave = Leave(s);
        let _on_panic = OnPanic(s);
        // SAFETY: the epoch changed, so `job` holds a closure that lives until this worker has counted itself out.
        if let Some(Job(f)) = unsafe { *s.job.get() } {
            // SAFETY: as above.
            unsafe { (*f)(&Worker { shared: s, id, threads: s.threads }) }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Release);
        self.shared.epoch.0.fetch_add(1, SeqCst);
        self.threads.iter().for_each(Thread::unpark);
        for h in self.handles.drain(..) {
            // A worker that panicked has already failed the stage it was in.
            let _ = h.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_job_and_barriers_separate_phases() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads).unwrap();
            let (a, b) = (AtomicUsize::new(0), AtomicUsize::new(0));
            for round in 1..=200 {
                team.run(|w| {
                    a.fetch_add(1, Relaxed);
                    w.barrier();
                    assert_eq!(a.load(Relaxed), threads * round);
                    w.barrier();
                    b.fetch_add(w.share(100).len(), Relaxed);
                });
                assert_eq!(b.load(Relaxed), 100 * round);
            }
        }
    }

    #[test]
    fn items_are_claimed_once_also_after_a_barrier() {
        let team = Team::new(3).unwrap();
        let hits: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
        team.run(|w| {
            for _ in 0..2 {
                while let Some(i) = w.claim(50) {
                    hits[i].fetch_add(1, Relaxed);
                }
                w.barrier();
            }
        });
        assert!(hits.iter().all(|h| h.load(Relaxed) == 2));
    }

    #[test]
    fn a_parked_team_wakes() {
        let team = Team::new(2).unwrap();
        let n = AtomicUsize::new(0);
        for _ in 0..3 {
            let start = Instant::now();
            while team.shared.parked.0.load(SeqCst) != 1 {
                assert!(start.elapsed() < Duration::from_secs(30), "an idle worker parks");
                std::thread::sleep(PARK);
            }
            team.run(|_| {
                n.fetch_add(1, Relaxed);
            });
        }
        assert_eq!(n.load(Relaxed), 6);
    }

    #[test]
    fn a_panicking_worker_fails_the_stage_and_hangs_nobody() {
        let team = Team::new(2).unwrap();
        let run = || {
            team.run(|w| {
                assert!(w.id == 0, "planted");
                w.barrier();
            })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
