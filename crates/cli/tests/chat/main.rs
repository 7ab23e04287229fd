//! The chat, on a pseudo-terminal whose screen the tests read.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod tty;

use common::{World, gemma3, smollm2};
use tty::Tty;

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const LEFT: &str = "\x1b[D";
const UP: &str = "\x1b[A";
const BACKSPACE: &str = "\x7f";
const TAB: &str = "\t";

fn chat(world: &World, args: &[&str]) -> Tty {
    chat_with(world, &smollm2(), args)
}

fn chat_with(world: &World, model: &str, args: &[&str]) -> Tty {
    let mut command = world.kinfer();
    command.args(["run", model, "--temp", "0"]).args(args);
    let tty = Tty::spawn(&command);
    tty.sees("/help shows");
    tty.prompt();
    tty
}

#[test]
fn korean_is_edited_by_syllable() {
    let world = World::new();
    let mut tty = chat(&world, &["-n", "4"]);
    tty.types("봄은 어떤 계절");
    tty.last_line(">>> 봄은 어떤 계절");
    // 4 columns of prompt, 6 syllables of 2 columns, 2 spaces.
    assert_eq!(tty.column(), 18);
    for _ in 0..6 {
        tty.types(LEFT);
    }
    tty.types(BACKSPACE);
    tty.last_line(">>> 봄 어떤 계절");
    assert_eq!(tty.column(), 6);
    tty.types("을");
    tty.last_line(">>> 봄을 어떤 계절");
    assert_eq!(tty.column(), 8);
    tty.enter();
    tty.prompt();
    tty.says("/show messages");
    tty.sees("[you]\n봄을 어떤 계절\n[model]");
    tty.prompt();
    tty.types(UP);
    tty.types(UP);
    tty.last_line(">>> 봄을 어떤 계절");
    tty.types(CTRL_C);
    tty.prompt();
    tty.types(CTRL_D);
    assert_eq!(tty.code(), 0);

    let path = world.home.path().join(".local/state/kinfer/history");
    assert!(std::fs::read_to_string(&path).unwrap().contains("봄을 어떤 계절"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "others cannot read what was said");
}

#[test]
fn a_conversation_and_its_commands() {
    let world = World::new();
    let mut tty = chat(&world, &["-n", "40", "--no-history"]);
    tty.says("/regen");
    tty.sees("there is no reply yet");
    tty.prompt();
    tty.says("What is the capital of Japan?");
    tty.sees("Tokyo");
    tty.prompt();
    tty.says("/stats");
    tty.sees("prefill: ");
    tty.sees("decode: ");
    tty.prompt();

    let file = world.home.path().join("talk.json").to_string_lossy().into_owned();
    tty.says(&format!("/save {file}"));
    tty.sees("2 messages in");
    tty.prompt();
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved[0]["role"], "user");
    assert!(saved[1]["content"].as_str().unwrap().contains("Tokyo"));

    tty.says("/clear");
    tty.sees("forgotten");
    tty.prompt();
    tty.says("/show");
    tty.sees("messages 0");
    tty.prompt();
    tty.says(&format!("/load {file}"));
    tty.sees("2 messages from");
    tty.prompt();
    tty.says("/undo");
    tty.sees("taken back: What is the capital of Japan?");
    tty.prompt();
    tty.says("/undo");
    tty.sees("there is nothing to take back");
    tty.prompt();

    tty.says("/set temp 0.25");
    tty.sees("temperature        0.25");
    tty.prompt();
    tty.says("/set top-p 7");
    tty.sees("top_p is 7; it must be");
    tty.prompt();
    tty.says("/set nonsense 7");
    tty.sees("there is no nonsense");
    tty.prompt();
    tty.says("/nonsense");
    tty.sees("there is no /nonsense");
    tty.prompt();
    tty.types("/st");
    tty.types(TAB);
    tty.last_line(">>> /stats");
    tty.types(CTRL_C);
    tty.prompt();
    tty.says("/bye");
    assert_eq!(tty.code(), 0);
    assert!(!world.home.path().join(".local").exists(), "--no-history keeps none");
}

#[test]
fn several_lines_between_fences() {
    let world = World::new();
    let mut tty = chat(&world, &["-n", "4"]);
    tty.types("\"\"\"첫째 줄");
    tty.enter();
    tty.types("둘째 줄\"\"\"");
    tty.last_line("둘째 줄\"\"\"");
    tty.enter();
    tty.prompt();
    tty.says("/show messages");
    tty.sees("[you]\n첫째 줄\n둘째 줄\n[model]");
}

#[test]
fn ctrl_c_stops_a_reply_and_keeps_the_conversation() {
    let world = World::new();
    let mut tty = chat(&world, &["--ignore-eos"]);
    tty.says("Count from 1 to 100, with commas.");
    tty.sees(", 3");
    // What is typed meanwhile does not mix with the reply.
    tty.types("나중에");
    tty.types(CTRL_C);
    tty.sees("(stopped)");
    tty.prompt();
    assert!(!tty.raw().contains("나중에"));
    tty.says("/show");
    tty.sees("messages 2");
    tty.prompt();
    // Twice on an empty line: a hint, no exit.
    for _ in 0..2 {
        let row = tty.row();
        tty.types(CTRL_C);
        tty.below(row);
        tty.prompt();
    }
    tty.sees("Ctrl+D or /bye leaves.");
    tty.prompt();
    tty.types(CTRL_D);
    assert_eq!(tty.code(), 0);
}

#[test]
fn ctrl_c_while_a_model_loads_ends_it() {
    let world = World::new();
    for prompt in [&[][..], &["Hi"]] {
        let mut command = world.kinfer();
        // Single precision on one thread is slow to load.
        command.args(["run", &smollm2(), "--numerics", "f32", "-t", "1"]).args(prompt);
        let mut tty = Tty::spawn(&command);
        tty.sees("loading");
        tty.types(CTRL_C);
        let (code, raw) = tty.end();
        assert_eq!(code, 130, "{prompt:?}: {raw:?}");
        assert!(!raw.contains("/help shows"), "{prompt:?}: {raw:?}");
    }
}

#[test]
fn a_full_context_is_told_and_does_not_end_the_chat() {
    let world = World::new();
    let mut tty = chat(&world, &["-c", "64", "--ignore-eos"]);
    tty.says(&"word ".repeat(80));
    tty.sees("the context holds 64");
    tty.prompt();
    tty.says("Hi");
    tty.sees("the context is full");
    tty.prompt();
    tty.types(CTRL_D);
    assert_eq!(tty.code(), 0);
}

#[test]
fn a_chat_without_colours_has_none() {
    let world = World::new();
    let model = smollm2();
    let mut command = world.kinfer();
    command.args(["run", &model, "-n", "4", "--temp", "0"]).env("NO_COLOR", "1");
    let mut tty = Tty::spawn(&command);
    tty.prompt();
    tty.says("Hi");
    tty.prompt();
    assert!(!tty.raw().contains("\x1b[1m") && !tty.raw().contains("\x1b[2m"), "{:?}", tty.raw());
}

#[test]
fn a_model_without_a_chat_template_continues_texts() {
    let world = World::new();
    let mut command = world.kinfer();
    command.args(["run", &gemma3()]);
    let tty = Tty::spawn(&command);
    tty.sees("--raw");
    assert_eq!(tty.code(), 2);

    let mut tty = chat_with(&world, &gemma3(), &["--raw", "-n", "12"]);
    tty.says("What is the capital of Japan?");
    tty.sees("Tokyo");
    tty.prompt();
    tty.says("/regen");
    tty.prompt();
    tty.says("/undo");
    tty.sees("there is no conversation");
    tty.prompt();
    tty.types(CTRL_D);
    assert_eq!(tty.code(), 0);
}

#[test]
fn decomposed_letters_are_told_of_or_composed() {
    let world = World::new();
    let apart = "\u{1112}\u{1161}\u{11ab}";
    let file = world.home.path().join("talk.json").to_string_lossy().into_owned();
    for (when, want) in [("auto", apart), ("on", "한")] {
        let mut tty = chat(&world, &["-n", "1", "--no-history", "--nfc", when]);
        tty.says(apart);
        if when == "auto" {
            tty.sees("file names: 1 of 1;");
        }
        tty.prompt();
        tty.says(&format!("/system {apart}"));
        tty.sees("system message set");
        tty.prompt();
        tty.says(&format!("/save {file}"));
        tty.sees("3 messages in");
        let saved: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!((&saved[0]["content"], &saved[1]["content"]), (&want.into(), &want.into()), "{when}");
    }
}
