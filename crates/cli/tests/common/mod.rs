//! Running the command `kinfer` in a world of its own.
#![allow(dead_code)] // each test file uses a part of it

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Path of a real model; fails the test with the fixing command where it is missing.
fn model(name: &str) -> String {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-models");
    let folder = std::env::var_os("KINFER_TEST_MODELS").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing; run: tests/fetch-models target/test-models", path.display());
    path.into_os_string().into_string().unwrap()
}

/// SmolLM2 135M.
pub fn smollm2() -> String {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M.
pub fn gemma3() -> String {
    model("gemma-3-270m-q4_k_m.gguf")
}

/// A home of its own, with nothing in it.
pub struct World {
    pub home: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// The command, without the caller's settings.
    pub fn kinfer(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinfer"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["KINFER_", "HF_", "HUGGINGFACE_", "XDG_"].iter().any(|p| name.starts_with(p)) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.home.path()).env_remove("NO_COLOR").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.kinfer().args(args))
    }

    /// A file with this content; its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    }
}

/// What came out.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    /// The same, with something on standard input.
    pub fn with_stdin(command: &mut Command, input: &str) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It failed with this code and said this, and stdout stayed empty.
    #[track_caller]
    pub fn fails(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(says), "no {says:?} in {self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
