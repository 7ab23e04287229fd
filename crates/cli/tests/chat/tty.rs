//! A command on a pseudo-terminal, with a screen.

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A debug build on a busy machine is slow; a test that passes does not wait.
const PATIENCE: Duration = Duration::from_secs(120);

const SIZE: PtySize = PtySize { rows: 60, cols: 100, pixel_width: 0, pixel_height: 0 };

pub struct Tty {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    seen: Arc<Mutex<Seen>>,
    // Closing it would hang the terminal up.
    _master: Box<dyn MasterPty + Send>,
}

struct Seen {
    screen: vt100::Parser,
    raw: Vec<u8>,
}

impl Tty {
    pub fn spawn(command: &Command) -> Self {
        let pair = native_pty_system().openpty(SIZE).unwrap();
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => builder.env(name, value),
                None => builder.env_remove(name),
            }
        }
        builder.env("TERM", "xterm-256color");
        builder.env("LC_ALL", "C.UTF-8");
        builder.cwd(std::env::current_dir().unwrap());
        let child = pair.slave.spawn_command(builder).unwrap();
        drop(pair.slave);
        let screen =
            vt100::Parser::new(NonZero::new(SIZE.rows).unwrap(), NonZero::new(SIZE.cols).unwrap(), 0);
        let seen = Arc::new(Mutex::new(Seen { screen, raw: Vec::new() }));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let watcher = seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                let mut seen = watcher.lock().unwrap();
                seen.screen.process(&bytes[..n]);
                seen.raw.extend(&bytes[..n]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { child, keyboard, seen, _master: pair.master }
    }

    fn screen(&self) -> String {
        self.seen.lock().unwrap().screen.screen().contents()
    }

    /// The screen's last line that is not empty.
    fn line(&self) -> String {
        self.screen().trim_end().lines().last().unwrap_or_default().trim_end().to_owned()
    }

    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "no {what} on the screen:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that was written to the terminal, escape codes included.
    pub fn raw(&self) -> String {
        String::from_utf8(self.seen.lock().unwrap().raw.clone()).unwrap()
    }

    /// The column of the cursor.
    pub fn column(&self) -> u16 {
        self.seen.lock().unwrap().screen.screen().cursor_position().1
    }

    /// The row of the cursor.
    pub fn row(&self) -> u16 {
        self.seen.lock().unwrap().screen.screen().cursor_position().0
    }

    /// Waits until the cursor is below this row.
    #[track_caller]
    pub fn below(&self, row: u16) {
        self.wait("new line", || self.row() > row);
    }

    /// Waits until the screen shows it.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        self.wait(&format!("{text:?}"), || self.screen().contains(text));
    }

    /// Waits until the last line is this.
    #[track_caller]
    pub fn last_line(&self, text: &str) {
        self.wait(&format!("last line {text:?}"), || self.line() == text);
    }

    /// Waits for an empty prompt.
    #[track_caller]
    pub fn prompt(&self) {
        self.last_line(">>>");
    }

    /// Presses keys.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Presses Enter, and waits until it has its effect.
    #[track_caller]
    pub fn enter(&mut self) {
        let before = self.seen.lock().unwrap().raw.len();
        self.types("\r");
        self.wait("effect of Enter", || self.seen.lock().unwrap().raw[before..].contains(&b'\n'));
    }

    /// Types a line.
    #[track_caller]
    pub fn says(&mut self, line: &str) {
        self.types(line);
        let end: String =
            line.trim_end().chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
        self.wait(&format!("echo of {line:?}"), || {
            // A long line is wrapped.
            self.screen().replace('\n', "").trim_end().ends_with(&end)
        });
        self.enter();
    }

    /// Waits for the end and gives the exit code.
    #[track_caller]
    pub fn code(self) -> u32 {
        self.end().0
    }

    /// Waits for the end and gives the exit code, and all that was written.
    #[track_caller]
    pub fn end(mut self) -> (u32, String) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.exit_code(), self.raw());
            }
            assert!(start.elapsed() < PATIENCE, "it did not end:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
