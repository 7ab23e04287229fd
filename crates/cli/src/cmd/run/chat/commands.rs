//! The chat's commands.

use super::{Chat, stream, tokens};
use crate::cmd::run::{ThinkArg, sampling};
use clap::ValueEnum;
use kinfer::{Role, SamplingOverrides, Thinking};
use serde_json::Value;

/// The commands' names, for completion.
pub const NAMES: [&str; 11] =
    ["/help", "/clear", "/regen", "/undo", "/system", "/set", "/show", "/save", "/load", "/stats", "/bye"];

const HELP: &str = "\
/regen            answer the last message again
/undo             take back the last message and its reply
/clear            forget the conversation, keep the system message
/system [TEXT]    set the system message; without TEXT, remove it
/set              show the parameters; /set temp 0.7, /set seed random, /set predict 200,
                  /set think off, /set stop TEXT (alone: none)
/show             show the model and the conversation's size; /show messages: all of it
/save FILE        write the conversation to a file
/load FILE        go on with a conversation from a file
/stats            tokens and speed of the last reply
/bye              leave, as Ctrl+D

\"\"\" begins and ends a message of several lines.
Ctrl+C stops a reply and keeps what was said.
Arrow up brings back what you typed, Ctrl+R searches it.";

/// A command with its argument.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Clear,
    Regen,
    Undo,
    System(String),
    Set(String),
    Show(String),
    Save(String),
    Load(String),
    Stats,
    Bye,
}

/// Reads a command; `None`: it is a message. A first word with a second slash is a path, not a command.
pub fn parse(text: &str) -> Option<Result<Command, String>> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let word = name.strip_prefix('/')?;
    if word.contains('/') {
        return None;
    }
    let rest = rest.trim();
    let bare = |command| match rest.is_empty() {
        true => Ok(command),
        false => Err(format!("{name} takes nothing after it")),
    };
    let file = |command: fn(String) -> Command| match rest.is_empty() {
        true => Err(format!("{name} needs a file name")),
        false => Ok(command(rest.to_owned())),
    };
    Some(match word {
        "help" | "?" => bare(Command::Help),
        "clear" => bare(Command::Clear),
        "regen" => bare(Command::Regen),
        "undo" => bare(Command::Undo),
        "stats" => bare(Command::Stats),
        "bye" | "exit" | "quit" => bare(Command::Bye),
        "system" => Ok(Command::System(rest.to_owned())),
        "set" => Ok(Command::Set(rest.to_owned())),
        "show" => Ok(Command::Show(rest.to_owned())),
        "save" => file(Command::Save),
        "load" => file(Command::Load),
        _ => Err(format!("there is no {name}; /help shows the commands")),
    })
}

impl Chat<'_> {
    /// Does it. Failures are told; an error is one that ends the chat.
    pub fn command(&mut self, command: Command) -> anyhow::Result<()> {
        use Command as C;
        if self.raw && matches!(command, C::Clear | C::Undo | C::System(_) | C::Save(_) | C::Load(_)) {
            self.ctx.fail("with --raw there is no conversation: each text is continued by itself");
            return Ok(());
        }
        match command {
            Command::Help => self.say(HELP),
            Command::Clear => {
                self.session.clear();
                self.last = None;
                self.say("forgotten");
            }
            Command::Regen => self.regenerate()?,
            Command::Undo => match self.session.undo() {
                Some(message) => self.say(&format!("taken back: {}", shorten(&message.content))),
                None => self.ctx.fail("there is nothing to take back"),
            },
            Command::System(text) => {
                let text = self.read(text)?;
                self.say(if text.is_empty() { "no system message" } else { "system message set" });
                self.session.system(text);
            }
            Command::Set(text) => match self.set(&text) {
                Ok(()) => {}
                Err(message) => self.ctx.fail(&message),
            },
            Command::Show(what) => self.show(&what),
            Command::Save(path) => match self.session.save(&path) {
                Ok(()) => self.say(&format!("{} messages in {path}", self.session.messages().len())),
                Err(e) => self.ctx.fail(&e.to_string()),
            },
            Command::Load(path) => match self.session.load(&path) {
                Ok(()) => {
                    self.last = None;
                    self.say(&format!("{} messages from {path}", self.session.messages().len()));
                }
                Err(e) => self.ctx.fail(&e.to_string()),
            },
            Command::Stats => self.stats(),
            Command::Bye => {}
        }
        Ok(())
    }

    fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (name, value) = (name.replace('-', "_"), value.trim());
        let params = &mut self.session.params;
        let name = match (name.as_str(), value) {
            ("", _) => {
                self.say(&self.parameters());
                return Ok(());
            }
            ("stop", "") => {
                params.stop.clear();
                "stop"
            }
            ("stop", value) => {
                params.stop = vec![value.to_owned()];
                "stop"
            }
            (name, "") => return Err(format!("/set {name} needs a value")),
            ("think", value) => {
                self.session.thinking = ThinkArg::from_str(value, true)
                    .map_err(|_| format!("think is on, off or auto, not `{value}`"))?
                    .into();
                "think"
            }
            ("predict" | "n", value) => {
                let wrong = || format!("predict is a number of tokens, or -1 for no limit, not `{value}`");
                params.max_tokens = match value.parse::<i64>().map_err(|_| wrong())? {
                    -1 => None,
                    n => Some(usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(wrong)?),
                };
                "predict"
            }
            ("seed", "random") => {
                params.sampling.seed = None;
                "seed"
            }
            (name, value) => self.set_sampling(if name == "temp" { "temperature" } else { name }, value)?,
        };
        let shown = self.parameters();
        let line = shown.lines().find(|line| line.split_whitespace().next() == Some(name));
        self.say(line.unwrap_or_default());
        Ok(())
    }

    /// Sets a field of [`kinfer::Sampling`] by its name, which is given back.
    fn set_sampling(&mut self, name: &str, value: &str) -> Result<&'static str, String> {
        let fields = SamplingOverrides::default().fields();
        let Some((field, _)) = fields.iter().find(|(field, _)| *field == name) else {
            let known: Vec<_> = fields.iter().map(|(field, _)| *field).collect();
            return Err(format!("there is no {name}; known: {}, predict, think, stop", known.join(", ")));
        };
        let number: Value =
            serde_json::from_str(value).map_err(|_| format!("{field} is a number, not `{value}`"))?;
        let change: SamplingOverrides = serde_json::from_value(Value::from_iter([(*field, number)]))
            .map_err(|e| format!("{field}: {e}"))?;
        let changed = self.session.params.sampling.clone().with(&change);
        changed.check().map_err(|e| e.to_string())?;
        self.session.params.sampling = changed;
        Ok(field)
    }

    fn parameters(&self) -> String {
        let params = &self.session.params;
        let mut lines: Vec<_> = SamplingOverrides::default()
            .fields()
            .iter()
            .map(|(field, _)| format!("{field:<18} {}", sampling::shown(&params.sampling, field)))
            .collect();
        let predict = params.max_tokens.map_or("-1".to_owned(), |n| n.to_string());
        lines.push(format!("{:<18} {predict}", "predict"));
        let think = match self.session.thinking {
            Thinking::Auto => "auto",
            Thinking::On => "on",
            Thinking::Off => "off",
        };
        lines.push(format!("{:<18} {think}", "think"));
        let stop: Vec<_> = params.stop.iter().map(|s| format!("{s:?}")).collect();
        let stop = if stop.is_empty() { "none".to_owned() } else { stop.join(" ") };
        lines.push(format!("{:<18} {stop}", "stop"));
        lines.join("\n")
    }

    fn show(&self, what: &str) {
        let model = self.session.engine().model();
        let messages = self.session.messages();
        match what {
            "" => {
                let used = self.last.as_ref().map_or(0, tokens);
                let context = self.session.engine().limits().context;
                self.say(&format!(
                    "model    {}\ndevice   {}\ncontext  {used} of {context} tokens at the last reply\nmessages {}",
                    model.path().display(),
                    model.device(),
                    messages.len()
                ));
            }
            "messages" if messages.is_empty() => self.say("nothing was said yet"),
            "messages" => {
                for message in messages {
                    let who = match message.role {
                        Role::System => "system",
                        Role::User => "you",
                        Role::Assistant => "model",
                    };
                    self.say(&format!("[{who}]\n{}", message.content));
                }
            }
            other => self.ctx.fail(&format!("/show {other}: it is /show or /show messages")),
        }
    }

    fn stats(&self) {
        match &self.last {
            Some(done) => {
                let bytes = self.session.engine().model().bytes_per_token();
                self.say(&format!(
                    "{}\nfinish: {} ({})",
                    stream::speeds(done, bytes),
                    done.finish.as_str(),
                    stream::detail(&done.finish)
                ));
            }
            None => self.ctx.fail("there is no reply yet"),
        }
    }
}

/// The beginning of a text, on one line.
fn shorten(text: &str) -> String {
    const CHARS: usize = 60;
    let line: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(CHARS).collect();
    if text.chars().nth(CHARS).is_some() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_commands_from_messages() {
        assert_eq!(parse("안녕 /help"), None);
        assert_eq!(parse("/etc/passwd holds what?"), None);
        assert_eq!(parse("/help"), Some(Ok(Command::Help)));
        assert_eq!(parse("/system  짧게 대답해 줘 "), Some(Ok(Command::System("짧게 대답해 줘".into()))));
        assert_eq!(parse("/set"), Some(Ok(Command::Set(String::new()))));
        assert!(parse("/helo").unwrap().is_err());
        assert!(parse("/save").unwrap().is_err());
        assert!(parse("/clear all").unwrap().is_err());
    }

    #[test]
    fn every_name_is_a_command() {
        for name in NAMES {
            let text = if matches!(name, "/save" | "/load") { format!("{name} f") } else { name.to_owned() };
            assert!(parse(&text).unwrap().is_ok(), "{name}");
        }
    }
}
