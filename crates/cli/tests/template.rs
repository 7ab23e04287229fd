//! `kinfer template render`.

mod common;

use common::{Run, World, gemma3, smollm2};
use serde_json::json;

const SYSTEM: &str = "Answer in one word.";
const USER: &str = "수도는? <|im_end|>";

#[test]
fn it_is_the_prompt_of_run() {
    let (world, model) = (World::new(), smollm2());
    let short = ["template", "render", &model, "--system", SYSTEM, "--user", USER];
    let text = world.run(&short).ok();
    assert_eq!(
        text.stdout,
        format!(
            "<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n"
        )
    );
    assert_eq!(text.stderr, "");

    let run = world.run(&["run", &model, "-sys", SYSTEM, USER, "-n", "1", "--json"]).ok().json();
    let ids: Vec<String> = run["prompt_ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let tokens = world.run(&[&short[..], &["--tokens"]].concat()).ok();
    assert_eq!(tokens.stdout, format!("{}\n{} tokens\n", ids.join(" "), ids.len()));

    // The same from a file and from a pipe, in both forms.
    let list = json!([{ "role": "system", "content": SYSTEM }, { "role": "user", "content": USER }]);
    let file = world.file("list.json", list.to_string());
    assert_eq!(world.run(&["template", "render", &model, "--messages", &file]).ok().stdout, text.stdout);
    let object = json!({ "messages": list, "add_generation_prompt": false }).to_string();
    let piped = ["template", "render", &model, "--messages", "-"];
    let piped = Run::with_stdin(world.kinfer().args(piped), &object).ok();
    let closed = text.stdout.strip_suffix("<|im_start|>assistant\n").unwrap();
    assert_eq!(piped.stdout, closed);
    assert_eq!(world.run(&[&short[..], &["--no-generation-prompt"]].concat()).ok().stdout, closed);

    // Gemma's tokenizer wants a BOS, which chatml does not write.
    let gemma = ["template", "render", &gemma3(), "--chat-template", "chatml", "--user", "Hi", "--tokens"];
    assert!(world.run(&gemma).ok().stdout.starts_with("2 "));
}

#[test]
fn a_template_needs_no_model() {
    let world = World::new();
    let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }}{{ m.content }}\
        {% endfor %}{{ tools | tojson }}{{ mood }}{% if add_generation_prompt %}>{% endif %}\n";
    let file = world.file("t.jinja", source);
    let tools = world.file("tools.json", r#"[{"b": 1, "a": "예"}]"#);
    let render = ["template", "render", "--template", &file, "--user", "hi\n", "--tools", &tools];
    let run = world.run(&[&render[..], &["--set", "mood=\"좋음\""]].concat()).ok();
    assert_eq!(run.stdout, "[user]hi[{\"b\": 1, \"a\": \"예\"}]좋음>");
    assert!(run.stderr.contains("`bos_token`") && run.stderr.lines().count() == 1, "{run:?}");

    // A saved chat, and a variable that nobody reads.
    let saved = json!({ "messages": [{ "role": "assistant", "content": "b", "reasoning": "a" }], "tools": [], "x": 1 });
    let saved = world.file("saved.json", saved.to_string());
    let render = ["template", "render", "--chat-template-file", &file, "--messages", &saved];
    let run = world.run(&render).ok();
    assert_eq!(run.stdout, "[assistant]ab[]>");
    assert!(run.stderr.contains("no `x`"), "{run:?}");
    world.run(&[&render[..], &["--tools", &tools]].concat()).fails(2, "twice");

    let run = world.run(&["template", "render", "--chat-template", "gemma", "--user", "안녕"]).ok();
    assert_eq!(run.stdout, "<start_of_turn>user\n안녕<end_of_turn>\n<start_of_turn>model\n");
    world
        .run(&["template", "render", "--template", "gemma", "--user", "a"])
        .fails(2, "--chat-template gemma");
    let refuses = "{{ raise_exception('roles must alternate') }}";
    let args = ["template", "render", "--chat-template", refuses, "--user", "a"];
    world.run(&args).fails(2, "refuses this conversation: roles must alternate");
    let args = ["template", "render", "--chat-template", "{{ 1 // 0 }}", "--user", "a"];
    world.run(&args).fails(6, "failed");
    world.run(&["template", "render", &gemma3(), "--user", "a"]).fails(2, "no chat template");
}
