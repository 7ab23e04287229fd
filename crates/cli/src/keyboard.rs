//! What is typed while a reply comes.

/// Keeps what is typed from being shown in the middle of a reply, while it lives; the next prompt gets it. Does nothing
/// on systems other than Unix.
pub struct Muted(());

#[cfg(unix)]
mod terminal {
    use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
    use std::io::{IsTerminal, stdin};
    use std::sync::{Mutex, PoisonError};

    /// The settings to go back to. Global since Ctrl+C can end the process from another thread.
    static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

    pub fn mute() {
        if !stdin().is_terminal() {
            return;
        }
        // A terminal that refuses stays as it is: nothing but looks depends on it.
        if let Ok(before) = tcgetattr(stdin()) {
            let mut muted = before.clone();
            muted.local_flags.remove(LocalFlags::ECHO);
            if tcsetattr(stdin(), SetArg::TCSANOW, &muted).is_ok() {
                *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            }
        }
    }

    pub fn restore() {
        if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
        }
    }
}

impl Muted {
    pub fn new() -> Self {
        #[cfg(unix)]
        terminal::mute();
        Self(())
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        #[cfg(unix)]
        terminal::restore();
    }
}

/// Ends the process, with the terminal as it was found.
pub fn exit(code: u8) -> ! {
    #[cfg(unix)]
    terminal::restore();
    std::process::exit(code.into())
}
