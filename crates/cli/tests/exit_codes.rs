//! Each class of failure has its exit code, and says on stderr what to do.

mod common;

use common::{Run, World, smollm2};
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn wrong_usage_is_2() {
    let world = World::new();
    world.run(&["run", "--nonsense"]).fails(2, "--nonsense");
    world.run(&["run", "m.gguf", "hi", "--temp", "warm"]).fails(2, "--temp");
    world.run(&["run", "m.gguf", "hi", "-c", "0"]).fails(2, "at least 1");
    world.run(&["run", "m.gguf", "hi", "-p", "hi"]).fails(2, "twice");
    world.run(&["run", "m.gguf", "hi", "--raw", "-sys", "s"]).fails(2, "--system-prompt");
    world.run(&["run", "m.gguf", "hi", "--logprobs", "3"]).fails(2, "--json");
    world.run(&["run", "m.gguf", "hi", "--logit-bias", "x"]).fails(2, "token id");
    world.run(&["run", "m.gguf", "hi", "--chat-template", "nosuch"]).fails(2, "chatml");
    world.run(&["run", "not a model", "hi"]).fails(2, "model reference");
    world.run(&["run", "m.gguf"]).fails(2, "the prompt is empty");
    world.run(&["score", "m.gguf"]).fails(2, "--text");
}

#[test]
fn a_missing_flag_of_llama_cpp_says_what_to_do() {
    let world = World::new();
    world.run(&["run", "m.gguf", "-mg", "1"]).fails(2, "--device");
    world.run(&["run", "m.gguf", "--grammar", "g"]).fails(2, "no constrained output");
    world.run(&["run", "m.gguf", "--flash-attn"]).fails(2, "always fused");
}

#[test]
fn out_of_memory_is_3() {
    let mut model = std::fs::read(smollm2()).unwrap();
    // The file claims to have been trained for 4 G tokens; a cache for them fits nowhere.
    let key = b"llama.context_length";
    let at = model.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    model[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let world = World::new();
    let path = world.file("model.gguf", model);
    world.run(&["run", &path, "hi", "-c", "4000000000"]).fails(3, "memory");
    world.run(&["run", &smollm2(), "hi", "-c", "10000"]).fails(2, "8192");
}

#[test]
fn a_missing_device_is_4() {
    World::new().run(&["run", "m.gguf", "hi", "--device", "metal"]).fails(4, "Metal");
}

#[test]
fn a_model_not_found_is_5() {
    let world = World::new();
    world.run(&["run", "./none.gguf", "hi"]).fails(5, "none.gguf");
    world.run(&["run", "nosuchname", "hi"]).fails(5, "smollm2");
    world.run(&["run", "user/repo", "hi", "--offline"]).fails(5, "offline");
    let mut by_environment = world.kinfer();
    Run::of(by_environment.args(["run", "user/repo", "hi"]).env("KINFER_OFFLINE", "1")).fails(5, "offline");
}

#[test]
fn a_bad_model_file_is_6() {
    let world = World::new();
    let text = world.file("text.gguf", "this is no model");
    world.run(&["run", &text, "hi"]).fails(6, "text.gguf");
    let mut head = std::fs::read(smollm2()).unwrap();
    head.truncate(100_000);
    let cut = world.file("cut.gguf", head);
    world.run(&["run", &cut, "hi"]).fails(6, "cut.gguf");
}

#[test]
fn ctrl_c_is_130_and_keeps_what_was_said() {
    let world = World::new();
    let mut child = world
        .kinfer()
        .args(["run", &smollm2(), "Count from one to a thousand.", "--ignore-eos", "--temp", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    stdout.read_exact(&mut first).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(rest.ends_with('\n'), "{rest:?}");
}

#[test]
fn a_broken_pipe_ends_in_silence() {
    let world = World::new();
    let mut child = world
        .kinfer()
        .args(["run", &smollm2(), "Tell me a story.", "--ignore-eos", "-n", "2000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn help_is_0_and_on_stdout() {
    let world = World::new();
    for args in [&["--help"][..], &["run", "--help"], &["score", "--help"], &["--version"]] {
        let run = world.run(args).ok();
        assert!(run.stdout.contains("kinfer") && run.stderr.is_empty(), "{run:?}");
        assert!(!run.stdout.contains('\x1b'));
    }
}
