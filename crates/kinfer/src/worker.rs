//! The thread that computes. It sleeps on a channel while there is nothing to do.

use crate::{Error, Result};
use kinfer_gen::{Event, Request, ScoreRequest, TokenLogprobs};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

enum Command {
    Generate(Box<Request>, Sender<kinfer_gen::Result<Event>>),
    Score(ScoreRequest, Sender<kinfer_gen::Result<Vec<TokenLogprobs>>>),
}

/// The thread of one engine. Dropping it stops the thread and waits for its end, at most a micro-batch away.
pub struct Worker {
    /// Taken when dropped: the thread ends when nobody can send any more.
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    pub fn start(engine: kinfer_gen::Engine) -> Result<Self> {
        let (commands, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("kinfer-engine".into())
            .spawn(move || work(engine, &inbox))
            .map_err(Error::Thread)?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// Queues a generation. Its events come through the channel, which closes early if the thread has ended.
    pub fn generate(&self, request: Request) -> Receiver<kinfer_gen::Result<Event>> {
        let (events, receiver) = channel();
        self.send(Command::Generate(Box::new(request), events));
        receiver
    }

    /// Queues a scoring; otherwise as [`Worker::generate`].
    pub fn score(&self, request: ScoreRequest) -> Receiver<kinfer_gen::Result<Vec<TokenLogprobs>>> {
        let (reply, receiver) = channel();
        self.send(Command::Score(request, reply));
        receiver
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // If the thread has ended, the command is dropped with its channel, and the receiver sees that.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has been noticed by whoever waited for it.
            let _ = thread.join();
        }
    }
}

fn work(mut engine: kinfer_gen::Engine, inbox: &Receiver<Command>) {
    loop {
        let command = match engine.is_idle() {
            true => inbox.recv().map_err(|_| TryRecvError::Disconnected),
            false => inbox.try_recv(),
        };
        match command {
            Ok(Command::Generate(request, events)) => engine.submit(*request, events),
            Ok(Command::Score(request, reply)) => engine.submit_score(request, reply),
            Err(TryRecvError::Empty) => engine.step(),
            Err(TryRecvError::Disconnected) => return,
        }
    }
}
