//! Ctrl+C.

use crate::exit::INTERRUPTED;
use crate::keyboard;
use kinfer::CancelToken;
use kinfer::hub::CancelFlag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What Ctrl+C does: it stops the work that has registered itself, and ends the process where there is none or where
/// the work does not stop.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Default)]
struct State {
    /// Ctrl+C was pressed; the hub looks at it.
    pressed: Arc<AtomicBool>,
    work: Mutex<Work>,
}

#[derive(Default)]
enum Work {
    /// Nothing that can be stopped by itself.
    #[default]
    Process,
    /// A download, which looks at `pressed`.
    Download,
    /// A chat between two replies: an early or late Ctrl+C must not end it.
    Chat,
    /// A reply, and how many more times Ctrl+C only cancels it.
    Generation { token: CancelToken, patience: u8 },
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

    // Runs on a thread of its own, not inside the signal.
    fn press(&self) {
        let again = self.0.pressed.swap(true, Ordering::Relaxed);
        match &mut *self.work() {
            Work::Generation { token, patience } if *patience > 0 => {
                *patience -= 1;
                token.cancel();
            }
            Work::Download if !again => {}
            Work::Chat => {}
            _ => keyboard::exit(INTERRUPTED),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.0.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ctrl+C stops a download through this flag, while the guard lives.
    pub fn download(&self) -> (CancelFlag, Working<'_>) {
        (CancelFlag::from_shared(self.0.pressed.clone()), self.begin(Work::Download))
    }

    /// Ctrl+C is left without effect outside replies, while the guard lives.
    pub fn chat(&self) -> Working<'_> {
        self.begin(Work::Chat)
    }

    /// Forgets a Ctrl+C that came before.
    pub fn reset(&self) {
        self.0.pressed.store(false, Ordering::Relaxed);
    }

    /// Ctrl+C cancels a generation, while the guard lives: also one that came since [`Interrupt::reset`].
    pub fn generation(&self, token: CancelToken) -> Working<'_> {
        let working = self.begin(Work::Generation { token: token.clone(), patience: 2 });
        if self.0.pressed.load(Ordering::Relaxed) {
            token.cancel();
        }
        working
    }

    fn begin(&self, work: Work) -> Working<'_> {
        let before = std::mem::replace(&mut *self.work(), work);
        Working { interrupt: self, before }
    }
}

/// Work that Ctrl+C stops. Dropping it brings back what Ctrl+C did before.
pub struct Working<'a> {
    interrupt: &'a Interrupt,
    before: Work,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        *self.interrupt.work() = std::mem::take(&mut self.before);
    }
}
