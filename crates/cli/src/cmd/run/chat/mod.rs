//! A conversation on a terminal.

mod commands;
mod editor;

use super::stream::{self, Answer, Show};
use super::{Ready, RunArgs};
use crate::ctx::Ctx;
use crate::keyboard::Muted;
use crate::nfc::NfcArgs;
use editor::{Input, LineEditor};
use kinfer::{CancelToken, Done, Event, Finish, LengthLimit, Session};

/// A conversation and what the commands need to know of it.
struct Chat<'a> {
    ctx: &'a Ctx,
    session: Session,
    /// Each text is continued by itself; nothing is remembered but the last one.
    raw: bool,
    nfc: NfcArgs,
    said: Option<String>,
    last: Option<Done>,
}

/// Chats until Ctrl+D or `/bye`.
pub fn run(ctx: &Ctx, ready: Ready, args: &RunArgs, system: Option<String>) -> anyhow::Result<()> {
    let mut session = ready.engine.session();
    session.params = ready.params;
    session.thinking = ready.thinking;
    if let Some(system) = system {
        session.system(system);
    }
    let mut editor = LineEditor::new(ctx, !args.no_history)?;
    let _working = ctx.interrupt.chat();
    let mut chat = Chat { ctx, session, raw: args.prompt.raw, nfc: args.prompt.nfc, said: None, last: None };
    chat.greet();
    let mut interrupts = 0;
    loop {
        let input = editor.read()?;
        ctx.interrupt.reset();
        match input {
            Input::End => return Ok(()),
            Input::Interrupt => {
                interrupts += 1;
                if interrupts == 2 {
                    chat.say("Ctrl+D or /bye leaves.");
                }
                continue;
            }
            Input::Text(text) if text.trim().is_empty() => {}
            Input::Text(text) => match commands::parse(&text) {
                Some(Ok(commands::Command::Bye)) => return Ok(()),
                Some(Ok(command)) => chat.command(command)?,
                Some(Err(message)) => ctx.fail(&message),
                None => {
                    let text = chat.read(text)?;
                    chat.send(text)?;
                }
            },
        }
        interrupts = 0;
    }
}

impl Chat<'_> {
    fn greet(&self) {
        let model = self.session.engine().model();
        let name = model.path().file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        self.say(&format!("{name} on {}\n/help shows what you can do, Ctrl+D leaves.", model.device()));
        if self.raw {
            self.say("Each text is continued as it is, by itself.");
        }
    }

    /// Something of kinfer's, not of the model's.
    fn say(&self, text: &str) {
        for line in text.lines() {
            self.ctx.note(&self.ctx.err.dim(line));
        }
    }

    /// What was typed, composed where that is asked for.
    fn read(&self, text: String) -> anyhow::Result<String> {
        let text = self.nfc.apply(text);
        self.nfc.tell(self.ctx, self.session.engine().model().tokenizer(), &text)?;
        Ok(text)
    }

    fn send(&mut self, text: String) -> anyhow::Result<()> {
        let ctx = self.ctx;
        let done = if self.raw {
            let params = self.session.params.clone();
            let generation = self.session.engine().complete(&text, params);
            self.said = Some(text);
            show(ctx, generation.map(|g| (g.cancel_token(), g)))?
        } else {
            show(ctx, self.session.send(text).map(|r| (r.cancel_token(), r)))?
        };
        self.ended(done);
        Ok(())
    }

    fn regenerate(&mut self) -> anyhow::Result<()> {
        let ctx = self.ctx;
        if let Some(text) = self.said.clone() {
            return self.send(text);
        }
        let done = match self.session.regenerate().transpose() {
            Some(reply) => show(ctx, reply.map(|r| (r.cancel_token(), r)))?,
            None => {
                ctx.fail("there is no reply yet");
                None
            }
        };
        self.ended(done);
        Ok(())
    }

    /// After a reply: what a person should know of its end.
    fn ended(&mut self, done: Option<Done>) {
        let Some(done) = done else { return };
        match &done.finish {
            Finish::Cancelled => self.say("(stopped)"),
            Finish::Length(LengthLimit::MaxTokens) => {
                self.say("(--predict reached; /set predict N changes it)");
            }
            Finish::Length(LengthLimit::Context) => {
                self.ctx.warn("the context is full, so the reply ends here; /clear begins anew");
            }
            Finish::Stop(_) => {}
        }
        let (used, context) = (tokens(&done), self.session.engine().limits().context);
        // With less than an eighth left, the next reply may not fit.
        let full = matches!(done.finish, Finish::Length(LengthLimit::Context));
        if !full && !self.raw && used > context - context / 8 {
            self.ctx.warn(&format!(
                "{used} of the context's {context} tokens are used; /clear begins anew, --ctx-size makes it longer"
            ));
        }
        self.ctx.detail(&stream::speeds(&done, self.session.engine().model().bytes_per_token()));
        self.last = Some(done);
    }
}

/// Tokens of the conversation after a reply.
fn tokens(done: &Done) -> usize {
    done.usage.prompt_tokens + done.usage.completion_tokens
}

/// Shows a reply as it comes. Its failure is told, and does not end the chat; that of stdout does.
fn show<R>(ctx: &Ctx, reply: kinfer::Result<(CancelToken, R)>) -> anyhow::Result<Option<Done>>
where
    R: Iterator<Item = kinfer::Result<Event>>,
{
    let (cancel, reply) = match reply {
        Ok(reply) => reply,
        Err(e) => {
            ctx.fail(&e.to_string());
            return Ok(None);
        }
    };
    let _working = ctx.interrupt.generation(cancel);
    let _muted = Muted::new();
    let mut answer = Answer::new(ctx, Show::Streams);
    for event in reply {
        match event {
            Ok(event) => answer.event(event)?,
            Err(e) => {
                answer.close()?;
                ctx.fail(&e.to_string());
                return Ok(None);
            }
        }
    }
    answer.close()?;
    Ok(answer.done)
}
