//! Flags as llama.cpp's users write them.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

/// Short flags of several letters, which clap would read as one letter and its value.
const LONG_FORM: [(&str, &str); 13] = [
    ("-sys", "--system-prompt"),
    ("-sysf", "--system-prompt-file"),
    ("-ub", "--ubatch-size"),
    ("-np", "--parallel"),
    ("-dev", "--device"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-hf", "--hf-repo"),
    ("-hfr", "--hf-repo"),
    ("-ngl", "--n-gpu-layers"),
    ("-cmoe", "--cpu-moe"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ts", "--tensor-split"),
];

const GPU: &str = "kinfer divides a model over GPUs by layers: --device cuda:N is the first of them, --tensor-split their shares";
const SPLIT: &str =
    "kinfer places whole layers (--n-gpu-layers) and their experts (--n-cpu-moe), no single tensors";
const GRAMMAR: &str = "kinfer has no constrained output yet";
const DRAFT: &str = "kinfer has no draft models yet";
const MMAP: &str =
    "kinfer maps the file, packs the weights once and drops the map, so there is nothing to choose";
const SAMPLER: &str = "kinfer's samplers are --temp, --top-k, --top-p, --min-p and the penalties";
const CHAT: &str = "a terminal without a prompt gives a chat, and --raw switches the chat template off";
const ROPE: &str = "kinfer takes RoPE scaling from the model file";
const THREADS: &str = "kinfer has one number of threads for prompt and answer, --threads";
const HUB_FILE: &str = "write the file into the model's name: user/repo/file.gguf";

/// llama.cpp's flags that kinfer does not have, and what to do instead.
const UNSUPPORTED: [(&[&str], &str); 15] = [
    (&["-sm", "--split-mode", "-mg", "--main-gpu"], GPU),
    (&["-ot", "--override-tensor"], SPLIT),
    (&["--grammar", "--grammar-file", "--json-schema", "-j", "-jf", "--json-schema-file"], GRAMMAR),
    (&["-md", "--model-draft", "-hfd", "--hf-repo-draft", "--draft-max"], DRAFT),
    (&["--mmap", "--no-mmap", "--mlock"], MMAP),
    (
        &[
            "--mirostat",
            "--typical",
            "--xtc-probability",
            "--dry-multiplier",
            "--samplers",
            "--dynatemp-range",
        ],
        SAMPLER,
    ),
    (&["-cnv", "--conversation", "-no-cnv", "--no-conversation", "-st", "--single-turn"], CHAT),
    (&["--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx"], ROPE),
    (&["-tb", "--threads-batch"], THREADS),
    (&["-hff", "--hf-file"], HUB_FILE),
    (&["-fa", "--flash-attn"], "attention is always fused in kinfer"),
    (&["--jinja", "--no-jinja"], "kinfer always renders chat templates with Jinja"),
    (&["--lora", "--lora-scaled", "--control-vector"], "kinfer has no adapters yet"),
    (
        &["--warmup", "--no-warmup"],
        "kinfer answers at once, without a warm-up run; only `kinfer bench` has one",
    ),
    (&["--numa"], "kinfer has no NUMA placement yet; numactl in front of it works"),
];

fn unsupported(flag: &str) -> Option<String> {
    let flag = flag.split('=').next().unwrap_or(flag);
    UNSUPPORTED.iter().find(|(flags, _)| flags.contains(&flag)).map(|(_, why)| format!("{flag}: {why}"))
}

/// Rewrites the short flags of several letters; an error for those that kinfer does not have.
pub fn normalise(words: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let mut literal = false;
    words
        .map(|word| {
            literal |= word == "--";
            let Some(text) = word.to_str().filter(|_| !literal) else { return Ok(word) };
            if text.starts_with("--") || !text.starts_with('-') || text.len() < 3 {
                return Ok(word);
            }
            if let Some(why) = unsupported(text) {
                return Err(why);
            }
            let (flag, value) = text.split_once('=').map_or((text, None), |(f, v)| (f, Some(v)));
            let long = LONG_FORM.iter().find(|(short, _)| *short == flag).map(|(_, long)| *long);
            Ok(match (long, value) {
                (Some(long), Some(value)) => format!("{long}={value}").into(),
                (Some(long), None) => long.into(),
                (None, _) => word,
            })
        })
        .collect()
}

/// Says what to do instead, where an unknown flag is one of llama.cpp's.
pub fn explain(error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some(why) = unsupported(flag)
    {
        return clap::Error::raw(ErrorKind::UnknownArgument, format!("{why}\n"));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(words: &[&str]) -> Result<Vec<String>, String> {
        let words = normalise(words.iter().map(OsString::from))?;
        Ok(words.into_iter().map(|w| w.into_string().unwrap()).collect())
    }

    #[test]
    fn maps_short_flags_of_several_letters() {
        let got =
            norm(&["kinfer", "run", "-sys", "be brief", "-ub=64", "-s", "7", "-n3", "--", "-ub"]).unwrap();
        assert_eq!(
            got,
            [
                "kinfer",
                "run",
                "--system-prompt",
                "be brief",
                "--ubatch-size=64",
                "-s",
                "7",
                "-n3",
                "--",
                "-ub"
            ]
        );
    }

    #[test]
    fn names_what_replaces_a_missing_flag() {
        assert!(norm(&["kinfer", "run", "-mg", "1"]).unwrap_err().contains("--device"));
        let error =
            crate::command().try_get_matches_from(["kinfer", "run", "--flash-attn", "m"]).unwrap_err();
        assert!(explain(error).to_string().contains("always fused"));
        let error = crate::command().try_get_matches_from(["kinfer", "run", "--nonsense"]).unwrap_err();
        assert!(explain(error).to_string().contains("unexpected argument"));
    }
}
