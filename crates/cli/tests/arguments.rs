//! Arguments that are wrong whatever the model are told before anything is fetched, loaded or written.

mod common;

use common::{Run, World};
use std::net::TcpListener;

/// A hub that nobody may call, and a home that must stay empty.
struct Untouched {
    world: World,
    hub: TcpListener,
    files: tempfile::TempDir,
}

impl Untouched {
    fn new() -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        hub.set_nonblocking(true).unwrap();
        Self { world: World::new(), hub, files: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    /// The command gives code 2, says this, and has done nothing else.
    #[track_caller]
    fn refuses(&self, args: &[&str], says: &str) {
        self.refuses_with(&[], args, says);
    }

    #[track_caller]
    fn refuses_with(&self, environment: &[(&str, &str)], args: &[&str], says: &str) {
        let endpoint = format!("http://{}", self.hub.local_addr().unwrap());
        let mut command = self.world.kinfer();
        command.args(args).env("HF_ENDPOINT", endpoint).envs(environment.iter().copied());
        Run::of(&mut command).fails(2, says);
        assert!(self.hub.accept().is_err(), "{args:?} called the hub");
        let written: Vec<_> = std::fs::read_dir(self.world.home.path()).unwrap().collect();
        assert!(written.is_empty(), "{args:?} wrote {written:?}");
    }
}

#[test]
fn run() {
    let at = Untouched::new();
    let (latin1, plain) = (at.file("latin1.txt", b"caf\xe9"), at.file("plain.txt", "no tag"));
    let (broken, empty) = (at.file("broken.jinja", "{% for m in messages %}"), at.file("empty.txt", ""));
    for (flags, says) in [
        (&["--temp", "-1"][..], "temperature is -1"),
        (&["--temp", "nan"], "temperature is NaN"),
        (&["--top-p", "0"], "top_p is 0"),
        (&["--min-p", "1.5"], "min_p is 1.5"),
        (&["--repeat-penalty", "0"], "repeat_penalty is 0"),
        (&["--presence-penalty", "inf"], "presence_penalty is inf"),
        (&["--frequency-penalty", "inf"], "frequency_penalty is inf"),
        (&["--repeat-last-n", "-2"], "--repeat-last-n"),
        (&["--top-k", "-1"], "--top-k"),
        (&["--seed", "x"], "--seed"),
        (&["--logit-bias", "7"], "token id"),
        (&["--logit-bias", "7+inf"], "logit_bias is inf"),
        (&["-r", ""], "stop is"),
        (&["-n", "0"], "--predict is 0"),
        (&["-n", "-2"], "--predict"),
        (&["-c", "0"], "--ctx-size"),
        (&["-c", "4294967296"], "--ctx-size"),
        (&["-b", "0"], "--batch-size"),
        (&["-ub", "0"], "--ubatch-size"),
        (&["-t", "0"], "--threads"),
        (&["-ctk", "q5_0"], "f16, f32, bf16, q8_0, q4_0"),
        (&["-ctv", "q8-0"], "--cache-type-v"),
        (&["--logprobs", "3"], "--json"),
        (&["--raw", "-sys", "s"], "--system-prompt exclude"),
        (&["--raw", "-sysf", &plain], "--system-prompt-file exclude"),
        (&["--raw", "--think", "on"], "--think"),
        (&["-v", "-q"], "--verbose and --quiet"),
        (&["--isa", "abacus"], "abacus"),
        (&["--pre", "nosuch"], "--pre `nosuch`"),
        (&["--chat-template", "nosuch"], "chatml"),
        (&["--chat-template", "{{ x"], "does not parse"),
        (&["--chat-template-file", "/none.jinja"], "/none.jinja cannot be read"),
        (&["--chat-template-file", &broken], "does not parse"),
        (&["--chat-template-file", &plain], "no Jinja"),
        (&["-sysf", "/none.txt"], "/none.txt cannot be read"),
    ] {
        at.refuses(&[&["run", "gemma3:270m", "hi"], flags].concat(), says);
    }
    let model = ["run", "user/repo"];
    for (flags, says) in [
        (&["-f", "/none.txt"][..], "/none.txt cannot be read"),
        (&["-f", "/"], "/ cannot be read"),
        (&["-f", &latin1], "not UTF-8 (byte 3)"),
        (&["-f", &empty], "the prompt is empty"),
        (&["--raw", "-f", &empty], "the prompt is empty"),
        (&["-p", "hi", "-f", "-", "-sysf", "-"], "standard input is asked for twice"),
        (&["-p", "hi", "-f", "-", "--chat-template-file", "-"], "standard input is asked for twice"),
        (&["hi", "-p", "hi"], "twice"),
        (&["hi", "-m", "user/other"], "second prompt"),
    ] {
        at.refuses(&[&model, flags].concat(), says);
    }
    at.refuses(&["run", "not a model", "hi"], "not a model reference");
}

#[test]
fn the_other_commands() {
    let at = Untouched::new();
    let (ids, one) = (at.file("ids.json", "[1, x]"), at.file("one.json", "[1]"));
    let comma = at.file("comma.json", "[\n  {\"role\": \"user\"},\n]");
    let role = at.file("role.json", "{\"messages\": [\n  {\"content\": \"a\"}\n]}");
    for (args, says) in [
        (&["template", "render", "user/repo"][..], "--user TEXT, or --messages FILE"),
        (&["template", "render", "user/repo", "--messages", "/none.json"], "/none.json cannot be read"),
        (&["template", "render", "user/repo", "--messages", &comma], "comma.json: trailing comma at line 3"),
        (&["template", "render", "user/repo", "--messages", &role], "missing field `role` at line 2"),
        (&["template", "render", "user/repo", "--messages", &role, "--user", "a"], "cannot be used with"),
        (&["template", "render", "user/repo", "--user", "a", "--tools", &comma], "tools"),
        (&["template", "render", "user/repo", "--user", "a", "--tools", &role], "expected a list"),
        (&["template", "render", "user/repo", "--user", "a", "--set", "x"], "KEY=JSON"),
        (&["template", "render", "user/repo", "--user", "a", "--set", "x=y z"], "--set 'x=\"y z\"'"),
        (&["template", "render", "user/repo", "--user", "a", "--chat-template", "none"], "chatml"),
        (&["template", "render", "--chat-template", "chatml", "--user", "a", "--tokens"], "needs a model"),
        (&["template", "render", "no model", "--user", "a"], "not a model reference"),
        (&["score", "user/repo"], "--text"),
        (&["score", "user/repo", "--text", "/none.txt"], "/none.txt cannot be read"),
        (&["score", "user/repo", "--text", &ids, "--ids", &ids], "cannot be used with"),
        (&["score", "user/repo", "--ids", &ids], "`x` is not a token id"),
        (&["score", "user/repo", "--ids", &one], "nothing to score"),
        (&["score", "user/repo", "--ids", &one, "--top", "2"], "--json"),
        (&["score", "user/repo", "--ids", &one, "--nfc", "on"], "--nfc on"),
        (&["score", "user/repo", "--text", &ids, "--nfc", "maybe"], "--nfc"),
        (&["score", "user/repo", "--text", &ids, "-c", "1"], "--ctx-size"),
        (&["score", "user/repo", "--text", &ids, "--isa", "abacus"], "abacus"),
        (&["score", "user/repo", "--text", &ids, "-ctk", "f8"], "--cache-type-k"),
        (&["tokenize", "user/repo", "-f", "/none.txt"], "/none.txt cannot be read"),
        (&["tokenize", "user/repo", "no model", "text"], "not a model reference"),
        (&["tokenize", "user/repo", "text", "--ids", "--json"], "--ids and --json"),
        (&["show", "no model"], "not a model reference"),
        (&["show", "user/repo", "-c", "0"], "--ctx-size"),
        (&["show", "user/repo", "-ctv", "f8"], "--cache-type-v"),
        (&["show", "user/repo", "--template", "--json"], "--template and --json"),
        (&["show", "user/repo", "--template", "--tensors"], "--template and --tensors"),
        (&["bench", "user/repo", "no model"], "not a model reference"),
        (&["bench", "user/repo", "-p", "0", "-n", "0"], "nothing to measure"),
        (&["bench", "user/repo", "-p", "18446744073709551615"], "--n-prompt"),
        (&["bench", "user/repo", "-d", "x"], "--n-depth"),
        (&["bench", "user/repo", "-np", "0"], "--parallel"),
        (&["bench", "user/repo", "-r", "0"], "--repetitions"),
        (&["bench", "user/repo", "-t", "0"], "--threads"),
        (&["bench", "user/repo", "-ub", "0"], "--ubatch-size"),
        (&["bench", "user/repo", "-ctk", "f8"], "--cache-type-k"),
        (&["bench", "user/repo", "--isa", "abacus"], "abacus"),
        (&["pull", "user/repo", "no model"], "not a model reference"),
    ] {
        at.refuses(args, says);
    }
}

#[test]
fn by_the_environment() {
    let at = Untouched::new();
    let hi = ["run", "user/repo", "hi"];
    at.refuses_with(&[("KINFER_TEMP", "-1")], &hi, "temperature is -1");
    at.refuses_with(&[("KINFER_CHAT_TEMPLATE_FILE", "/none")], &hi, "/none cannot be read");
    at.refuses_with(&[("KINFER_RAW", "1")], &["run", "user/repo", "hi", "-sys", "s"], "exclude");
    // A flag that the environment switches off is not given: neither does it conflict, nor does it serve.
    at.refuses_with(
        &[("KINFER_RAW", "0"), ("KINFER_TEMP", "-1")],
        &["run", "m.gguf", "hi", "-sys", "s"],
        "temp",
    );
    at.refuses_with(&[("KINFER_QUIET", "0"), ("KINFER_TEMP", "-1")], &["run", "m.gguf", "hi", "-v"], "temp");
    at.refuses_with(&[("KINFER_CACHE_TYPE_V", "f8")], &hi, "--cache-type-v");
    at.refuses_with(&[("KINFER_ISA", "abacus")], &hi, "--isa: unknown ISA `abacus`");
    at.refuses_with(&[("KINFER_GPU_ISA", "sm1")], &hi, "--gpu-isa: unknown instruction set `sm1`");
    // One that is set to nothing is not set.
    at.refuses_with(&[("KINFER_ISA", ""), ("KINFER_GPU_ISA", ""), ("KINFER_TEMP", "-1")], &hi, "temp");
    at.refuses_with(&[("KINFER_ISA", "")], &["bench", "user/repo", "--gpu-isa", "sm1"], "sm1");
    at.refuses_with(&[("KINFER_JSON", "0")], &["run", "user/repo", "hi", "--logprobs", "2"], "--json");
}
