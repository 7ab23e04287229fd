//! How a download reports and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::HubError;

/// What happens while a model is being fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Something a person would want to know: a retry, a wait for another process, a source that
    /// failed and the one tried next.
    Note(&'a str),
    /// A file begins; `done` bytes of it are on disk already.
    Start {
        /// The file's name.
        file: &'a str,
        /// Bytes already there.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// More of a file is there. Comes often; whoever draws decides how often to draw.
    Advance {
        /// The file's name.
        file: &'a str,
        /// Bytes there now; less than before when a download had to start over.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A file is complete and its hash was right.
    Finish {
        /// The file's name.
        file: &'a str,
    },
}

/// Receives [`Event`]s on the calling thread. Any `FnMut(Event<'_>)` is one.
pub trait Progress {
    /// One event.
    fn event(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Reports to nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event<'_>) {}
}

/// Stops work that holds a clone of it.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses a flag that exists already, such as one that a signal handler sets.
    pub fn from_shared(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks the work to stop; it returns [`HubError::Cancelled`] soon after.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelFlag::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), HubError> {
        if self.is_cancelled() { Err(HubError::Cancelled) } else { Ok(()) }
    }

    /// Sleeps, unless and until cancelled.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), HubError> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}

/// How often something that cannot be waited on is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(50);
