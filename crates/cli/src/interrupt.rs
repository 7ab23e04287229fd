//! Ctrl+C.

use crate::exit::INTERRUPTED;
use kinfer::CancelToken;
use kinfer::hub::CancelFlag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What Ctrl+C does: it stops the work that has registered itself, and ends the process where there is none or where
/// it was asked for a second time.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Default)]
struct State {
    /// Set by Ctrl+C; the hub looks at it.
    pressed: Arc<AtomicBool>,
    work: Mutex<Option<Work>>,
}

enum Work {
    Download,
    Generation(CancelToken),
}

impl Interrupt {
    /// Takes over Ctrl+C.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn install() -> anyhow::Result<Self> {
        let this = Self::default();
        let handler = this.clone();
        ctrlc::set_handler(move || handler.press())?;
        Ok(this)
    }

    fn press(&self) {
        let again = self.0.pressed.swap(true, Ordering::Relaxed);
        let work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
        match &*work {
            Some(Work::Generation(token)) if !again => token.cancel(),
            Some(Work::Download) if !again => {}
            _ => std::process::exit(INTERRUPTED.into()),
        }
    }

    /// Whether Ctrl+C was pressed during the present or the last work.
    pub fn pressed(&self) -> bool {
        self.0.pressed.load(Ordering::Relaxed)
    }

    /// Ctrl+C stops a download through this flag, while the guard lives.
    pub fn download(&self) -> (CancelFlag, Working<'_>) {
        let guard = self.begin(Work::Download);
        (CancelFlag::from_shared(self.0.pressed.clone()), guard)
    }

    /// Ctrl+C cancels a generation, while the guard lives.
    pub fn generation(&self, token: CancelToken) -> Working<'_> {
        self.begin(Work::Generation(token))
    }

    fn begin(&self, work: Work) -> Working<'_> {
        self.0.pressed.store(false, Ordering::Relaxed);
        self.set(Some(work));
        Working(self)
    }

    fn set(&self, work: Option<Work>) {
        *self.0.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

/// Work that Ctrl+C stops.
pub struct Working<'a>(&'a Interrupt);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
