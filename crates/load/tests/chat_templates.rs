//! Prompts equal to those of transformers, for every template at hand (`tests/tools/make_template_fixtures.py`).

mod common;

use std::time::{Duration, SystemTime};

use kinfer_load::gguf::Gguf;
use kinfer_load::template::{ChatTemplate, Message, Render, TemplateError, builtin_templates};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Jinja2 escapes text that is added to text marked `|safe`, which puts `&#34;` into this model's prompts. That comes of
/// Python's Markup type, not of the template's intent, and is not reproduced.
const MARKUP: (&str, &str) = ("meetkai-functionary-medium-v3.1.jinja", "tools");

fn source(name: &str) -> String {
    if name.ends_with(".gguf") {
        let gguf = Gguf::open(common::model(name)).unwrap();
        return gguf.metadata().get::<&str>("tokenizer.chat_template").unwrap().to_owned();
    }
    std::fs::read_to_string(common::vocab(&format!("templates/{name}"))).unwrap()
}

fn agrees(prompt: &Result<String, TemplateError>, want: &Value) -> bool {
    match (prompt, want) {
        (Ok(prompt), Value::String(want)) => prompt == want,
        (Ok(prompt), Value::Object(want)) if want.contains_key("sha256") => {
            let hex: String = Sha256::digest(prompt).iter().map(|b| format!("{b:02x}")).collect();
            want["sha256"] == hex
        }
        // What a template refuses is refused. Where it trips over a Python type (looping over absent tools), rendering on
        // is no worse: such a prompt is only missing what was not given.
        (Err(TemplateError::Refused { .. }), Value::Object(want)) => want["error"] == "TemplateError",
        (_, Value::Object(want)) => want
            .get("error")
            .is_some_and(|e| e == "TypeError" || e == "UndefinedError" || e == "SecurityError"),
        _ => false,
    }
}

#[test]
fn prompts_equal_those_of_transformers() {
    let data: Value = serde_json::from_str(include_str!("data/templates.json")).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(data["now"].as_u64().unwrap());
    let (mut count, mut wrong) = (0, vec![]);
    for (name, cases) in data["templates"].as_object().unwrap() {
        let template = match name.strip_prefix("builtin/") {
            Some(builtin) => ChatTemplate::builtin(builtin, Some("<s>"), Some("</s>")),
            None => ChatTemplate::new(&source(name), Some("<s>"), Some("</s>")),
        }
        .unwrap_or_else(|e| panic!("{name}: {e}"));
        for (case, want) in cases.as_object().unwrap() {
            if (name.as_str(), case.as_str()) == MARKUP {
                continue;
            }
            let with = &data["cases"][case];
            let messages: Vec<Message> = serde_json::from_value(with["messages"].clone()).unwrap();
            let prompt = template.render(&Render {
                messages: &messages,
                add_generation_prompt: with["add_generation_prompt"].as_bool().unwrap(),
                tools: with.get("tools"),
                extra: with["extra"].as_object(),
                now: Some(now),
            });
            count += 1;
            if !agrees(&prompt, want) {
                wrong.push(format!("{name} {case}\n  got  {prompt:?}\n  want {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, 80 * 5 - 1);
}

fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    ChatTemplate::new(source, None, None)?.render(&Render { messages, ..Render::default() })
}

#[test]
fn values_print_as_python_prints_them() {
    let out = render(
        "{{ true }} {{ none }} {{ 1.0 }} {{ 1e-7 }} {{ 1e20 }} {{ [1, 'a', \"it's\", none] }} {{ {'k': false} }}{{ missing }}",
        &[],
    );
    assert_eq!(out.unwrap(), "True None 1.0 1e-07 1e+20 [1, 'a', \"it's\", None] {'k': False}");
    let out = render("{{ {'b': '<한\\n>', 'a': [1, {}]} | tojson(indent=2) }}", &[]);
    assert_eq!(out.unwrap(), "{\n  \"b\": \"<한\\n>\",\n  \"a\": [\n    1,\n    {}\n  ]\n}");
}

#[test]
fn extra_fields_and_variables_reach_the_template() {
    let message: Message =
        serde_json::from_value(json!({"role": "assistant", "content": null, "reasoning_content": "hm"}))
            .unwrap();
    let extra = json!({"enable_thinking": false});
    let template = ChatTemplate::new(
        "{{ messages[0].reasoning_content }} {{ enable_thinking }} {{ bos_token }}{{ eos_token }}",
        Some("<s>"),
        None,
    )
    .unwrap();
    let with = Render { messages: &[message], extra: extra.as_object(), ..Render::default() };
    assert_eq!(template.render(&with).unwrap(), "hm False <s>");
    let extra = json!({"messages": []});
    let with = Render { extra: extra.as_object(), ..Render::default() };
    assert!(matches!(template.render(&with), Err(TemplateError::ReservedName { .. })));
}

#[test]
fn errors_say_what_to_do() {
    let refused = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
    assert!(matches!(&refused, TemplateError::Refused { message } if message == "roles must alternate"));
    let parse = render("{% if %}", &[]).unwrap_err().to_string();
    assert!(parse.contains("--chat-template") && parse.contains("--raw"), "{parse}");
    let failed = render("line\n{{ messages[0].role.nothing() }}", &[Message::new("user", "x")]).unwrap_err();
    assert!(failed.to_string().contains(":2"), "{failed}");
    let unknown = ChatTemplate::builtin("nope", None, None).unwrap_err().to_string();
    // The smaller real model has no template.
    let path = common::model("gemma-3-270m-q4_k_m.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let missing =
        ChatTemplate::from_metadata(gguf.metadata(), &common::tokenizer(&path)).unwrap_err().to_string();
    assert!(missing.contains("--chat-template") && missing.contains("--raw"), "{missing}");
    for name in builtin_templates() {
        assert!(unknown.contains(name) && missing.contains(name));
    }
}

/// A template is data from a file: it must not hang, exhaust the stack or eat the memory.
#[test]
fn hostile_templates_are_stopped() {
    let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 999999999999 }}",
        &format!("{{{{ {nested} }}}}"),
        "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
    ] {
        assert!(render(source, &[]).is_err(), "{source:.60}");
    }
}
