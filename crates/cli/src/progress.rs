//! Progress bars: on stderr, on terminals only.

use crate::ctx::Ctx;
use crate::term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kinfer::hub::{self, human_size};
use std::io::IsTerminal;

/// Whether bars are drawn at all.
pub fn visible(ctx: &Ctx) -> bool {
    !ctx.quiet && std::io::stderr().is_terminal()
}

/// A bar of bytes with speed and time left. Hidden where bars are not drawn.
pub fn bytes(ctx: &Ctx, what: &str, total: u64) -> ProgressBar {
    let target = if visible(ctx) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let form = "{msg} {bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A bar of steps with time left. Hidden where bars are not drawn.
pub fn steps(ctx: &Ctx, what: &str, total: u64) -> ProgressBar {
    let bar = bytes(ctx, what, total);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:24} {pos}/{len}  {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Shows downloads: a bar per file, notes between them. Without a terminal, a line per file.
pub struct Downloads<'a> {
    ctx: &'a Ctx,
    bar: Option<ProgressBar>,
}

impl<'a> Downloads<'a> {
    pub fn new(ctx: &'a Ctx) -> Self {
        Self { ctx, bar: None }
    }
}

impl hub::Progress for Downloads<'_> {
    fn event(&mut self, event: hub::Event<'_>) {
        match event {
            hub::Event::Note(text) => match &self.bar {
                Some(bar) => bar.suspend(|| self.ctx.note(text)),
                None => self.ctx.note(text),
            },
            hub::Event::Start { file, done, total } => {
                if !visible(self.ctx) {
                    let rest = if done > 0 {
                        format!(", {} there already", human_size(done))
                    } else {
                        String::new()
                    };
                    self.ctx.note(&format!("fetching {file} ({}{rest})", human_size(total)));
                }
                // What was there before this run does not count for the speed.
                let bar = bytes(self.ctx, file, total);
                bar.set_position(done);
                bar.reset_eta();
                self.bar = Some(bar);
            }
            hub::Event::Advance { done, total, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_length(total);
                    bar.set_position(done);
                }
            }
            hub::Event::Finish { .. } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish();
                }
            }
        }
    }
}

impl Drop for Downloads<'_> {
    fn drop(&mut self) {
        // An error's text must not be drawn into the bar.
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }
}

/// Shows the loading of weights. Gone when done: it takes a moment only, mostly.
pub fn loading(ctx: &Ctx) -> Option<kinfer::Progress> {
    if !visible(ctx) {
        return None;
    }
    let bar = bytes(ctx, "loading", 0);
    let watched = BarGuard(bar);
    Some(Box::new(move |done, total| {
        watched.0.set_length(total);
        watched.0.set_position(done);
        if done >= total {
            watched.0.finish_and_clear();
        }
    }))
}

struct BarGuard(ProgressBar);

impl Drop for BarGuard {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A line that is erased when the work is done, for work without a length.
pub fn transient(ctx: &Ctx, text: &str) -> Transient {
    let shown = visible(ctx) && ctx.err.is_on();
    if shown {
        term::error(&ctx.err.dim(text));
    }
    Transient { shown }
}

/// Erases its line when dropped.
pub struct Transient {
    shown: bool,
}

impl Drop for Transient {
    fn drop(&mut self) {
        if self.shown {
            term::error("\r\x1b[K");
        }
    }
}
