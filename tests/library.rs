//! The library on a mock model: engine thread, sessions, errors. The mock's logits depend on every token of the history,
//! read through the block table; see `crates/gen/tests/common`.

#[path = "../crates/gen/tests/common/mod.rs"]
mod common;

use common::{Behaviour, EOG, Mock, PIECES, VOCAB};
use kinfer::gguf::{Gguf, Value, write::Writer};
use kinfer::{
    Device, Engine, EngineBuilder, Error, ErrorKind, Event, Finish, GpuLayers, LengthLimit, LoadOptions,
    Message, Model, Offload, Params, Role, Sampling, Thinking,
};
use kinfer_core::{DeviceMemory, KvType, ModelSpec, NormKind, NormSpec, Runner, RunnerLimits};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A model of the mock runner.
struct MockModel {
    spec: ModelSpec,
    behaviour: Behaviour,
    /// Bytes that a block takes, for plans.
    block_bytes: u64,
}

impl kinfer_core::Model for MockModel {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn device(&self) -> String {
        "mock".into()
    }
    fn bytes_per_token(&self) -> u64 {
        10
    }
    fn weight_bytes(&self) -> u64 {
        100
    }
    fn memory(&self, limits: &RunnerLimits) -> Vec<DeviceMemory> {
        let kv = self.block_bytes * limits.blocks as u64;
        vec![DeviceMemory { device: self.device(), weights: 100, kv, scratch: 7, available: None }]
    }
    fn runner(self: Arc<Self>, l: RunnerLimits) -> kinfer_core::Result<Box<dyn Runner>> {
        Ok(Box::new(Mock::new(l.rows, l.outputs, l.blocks, self.behaviour.clone())))
    }
}

fn spec() -> ModelSpec {
    ModelSpec {
        arch: "mock".into(),
        vocab: VOCAB,
        dim: 1,
        context: 2048,
        embed_scale: 1.0,
        norm: NormSpec { kind: NormKind::Rms, eps: 1e-5 },
        logit_softcap: None,
        ropes: Vec::new(),
        long: None,
        layers: Vec::new(),
        pooling: None,
    }
}

/// Puts each message on a line, as `U text`, and opens the answer with `A `. Refuses two messages of one role in a row.
const TEMPLATE: &str = "{% for m in messages %}{% if not loop.first and loop.previtem.role == m.role %}\
    {{ raise_exception('roles must alternate') }}{% endif %}\
    {{ m.role[0] | upper }}{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %} {{ m.content }}\n\
    {% endfor %}A {% if enable_thinking %}<think>{% endif %}";

/// The metadata of the mock: a vocabulary of bytes and a few pieces, and a template.
fn gguf(keys: &[(&str, Value)]) -> Gguf {
    let tokens: Vec<String> = (0..256)
        .map(|b| format!("<0x{b:02X}>"))
        .chain(["</s>".into()])
        .chain(PIECES.map(|p| p.replace(' ', "▁")))
        .collect();
    let kind = |i: usize| match i {
        0..=255 => 6,
        256 => 3,
        259 | 260 => 4,
        _ => 1,
    };
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let kinds: Vec<i32> = (0..VOCAB).map(kind).collect();
    let scores = vec![0f32; VOCAB];
    let mut writer = Writer::default();
    writer
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", tokens.as_slice())
        .set("tokenizer.ggml.token_type", kinds.as_slice())
        .set("tokenizer.ggml.scores", scores.as_slice())
        .set("tokenizer.ggml.eos_token_id", EOG)
        .set("tokenizer.ggml.add_bos_token", false)
        .set("tokenizer.ggml.add_space_prefix", false)
        .set("tokenizer.chat_template", TEMPLATE);
    for (key, value) in keys {
        writer.set(*key, value.clone());
    }
    let mut file = Vec::new();
    writer.write(&mut file, [[0u8; 0]; 0]).unwrap();
    Gguf::from_bytes(file).unwrap()
}

fn model_with(behaviour: Behaviour, keys: &[(&str, Value)]) -> Arc<Model> {
    let inner = Arc::new(MockModel { spec: spec(), behaviour, block_bytes: 1000 });
    Model::with_weights(gguf(keys), inner, &LoadOptions::default()).unwrap()
}

fn builder(behaviour: Behaviour) -> EngineBuilder {
    Engine::builder().model(model_with(behaviour, &[])).context(512).parallel(4)
}

fn engine() -> Engine {
    builder(Behaviour::default()).build().unwrap()
}

fn seeded(n: usize) -> Params {
    Params {
        sampling: Sampling { seed: Some(7), ..Sampling::default() },
        max_tokens: Some(n),
        ..Params::default()
    }
}

fn ids(events: impl Iterator<Item = kinfer::Result<Event>>) -> Vec<u32> {
    events
        .filter_map(|e| match e.unwrap() {
            Event::Token { id, .. } => Some(id),
            _ => None,
        })
        .collect()
}

/// A model that says `text` whatever the prompt, then ends; `before` comes in front of each step.
fn saying(text: &'static str, prompt: usize) -> Behaviour {
    let mut script = vec![0; prompt - 1];
    script.extend(text.bytes().map(u32::from));
    script.push(EOG);
    Behaviour { script, ..Behaviour::default() }
}

#[test]
fn the_types_may_cross_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Model>();
    shared::<Engine>();
    shared::<kinfer::CancelToken>();
    sent::<kinfer::Generation>();
    sent::<kinfer::Session>();
    sent::<Error>();
}

#[test]
fn generations_run_side_by_side_from_several_threads() {
    let engine = engine();
    let alone: Vec<Vec<u32>> =
        (0..6).map(|i| ids(self::engine().complete(&format!("prompt {i}"), seeded(40)).unwrap())).collect();
    let threads: Vec<_> = (0..6)
        .map(|i| {
            let engine = engine.clone();
            std::thread::spawn(move || ids(engine.complete(&format!("prompt {i}"), seeded(40)).unwrap()))
        })
        .collect();
    for (thread, expected) in threads.into_iter().zip(alone) {
        assert_eq!(thread.join().unwrap(), expected);
        assert_eq!(expected.len(), 40);
    }
}

#[test]
fn a_generation_outlives_its_engine_handle_and_ends_after_done() {
    let mut generation = engine().complete("x", seeded(5)).unwrap();
    let events: Vec<_> = generation.by_ref().map(Result::unwrap).collect();
    assert!(matches!(events.first(), Some(Event::Started { prompt_tokens: 1, cached_tokens: 0, seed: 7 })));
    match events.last() {
        Some(Event::Done(done)) => {
            assert_eq!(done.finish, Finish::Length(LengthLimit::MaxTokens));
            assert_eq!(done.usage.completion_tokens, 5);
        }
        other => panic!("{other:?}"),
    }
    assert!(generation.next().is_none());
}

#[test]
fn dropping_the_last_handle_stops_the_thread() {
    let held = Arc::new(());
    let in_thread = held.clone();
    let before = move |_: &kinfer_core::Batch| drop(in_thread.clone());
    let engine =
        builder(Behaviour { before: Some(Arc::new(before)), ..Behaviour::default() }).build().unwrap();
    let generation = engine.complete("x", seeded(400)).unwrap();
    let other = engine.clone();
    drop(engine);
    drop(generation);
    assert_eq!(ids(other.complete("y", seeded(3)).unwrap()).len(), 3);
    drop(other);
    // The runner, which held the other reference, is gone with the thread.
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn an_idle_engine_does_nothing() {
    let behaviour = Behaviour::default();
    let steps = behaviour.steps.clone();
    let engine = builder(behaviour).build().unwrap();
    ids(engine.complete("x", seeded(3)).unwrap());
    let before = steps.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!((before, steps.load(Ordering::Relaxed)), (3, 3));
}

#[test]
fn cancelling_from_another_thread() {
    let before = |_: &kinfer_core::Batch| std::thread::sleep(Duration::from_millis(1));
    let engine =
        builder(Behaviour { before: Some(Arc::new(before)), ..Behaviour::default() }).build().unwrap();
    let generation = engine.complete("x", seeded(500)).unwrap();
    let token = generation.cancel_token();
    let mut count = 0;
    let mut finish = None;
    for event in generation {
        match event.unwrap() {
            Event::Token { .. } => {
                count += 1;
                if count == 5 {
                    let token = token.clone();
                    std::thread::spawn(move || token.cancel());
                }
            }
            Event::Done(done) => finish = Some(done.finish),
            _ => {}
        }
    }
    assert_eq!(finish, Some(Finish::Cancelled));
    assert!(count < 500);
}

#[test]
fn a_model_that_panics_gives_an_error_and_no_hang() {
    let before = |_: &kinfer_core::Batch| panic!("a bug in a backend");
    let engine =
        builder(Behaviour { before: Some(Arc::new(before)), ..Behaviour::default() }).build().unwrap();
    for _ in 0..2 {
        let last = engine.complete("x", seeded(5)).unwrap().last().unwrap();
        let error = last.unwrap_err();
        assert!(matches!(error, Error::Generate(_)) && error.kind() == ErrorKind::Runtime, "{error}");
    }
    assert!(engine.score(&[1, 2], 1).is_err());
}

#[test]
fn scores_are_log_probabilities_of_the_text() {
    let engine = engine();
    let text: Vec<u32> = engine.model().encode("Hello world, hello").unwrap();
    let scores = engine.score(&text, 2).unwrap();
    assert_eq!(scores.len(), text.len());
    assert!(scores.last().unwrap().logprob.is_none() && scores[0].logprob.is_some());
    let too_long = engine.score(&vec![1; 513], 1).unwrap_err();
    assert!(too_long.kind() == ErrorKind::Usage && too_long.to_string().contains("513"), "{too_long}");
}

#[test]
fn a_session_remembers_and_reuses_the_cache() {
    // "U hi\nA " is 7 tokens.
    let engine = builder(saying("I am well, thank you for asking.", 7)).build().unwrap();
    let mut chat = engine.session();
    chat.params.sampling = Sampling::greedy();
    let first = chat.send("hi").unwrap().text().unwrap();
    assert_eq!(first, "I am well, thank you for asking.");
    let mut reply = chat.send("and you?").unwrap();
    assert_eq!(
        engine.model().decode(reply.prompt_ids()).unwrap(),
        format!("U hi\nA {first}\nU and you?\nA ")
    );
    assert!(reply.any(|e| matches!(e, Ok(Event::Started { cached_tokens: 32, .. }))));
    drop(reply);
    let roles: Vec<Role> = chat.messages().iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::Assistant]);
}

#[test]
fn a_reply_that_is_cut_short_keeps_the_conversation() {
    let engine = builder(saying("one two three", 6)).build().unwrap();
    let mut chat = engine.session();
    chat.params.sampling = Sampling::greedy();
    let mut reply = chat.send("a").unwrap();
    let token = reply.cancel_token();
    let mut said = String::new();
    for event in reply.by_ref() {
        if let Event::Text { text, .. } = event.unwrap() {
            said.push_str(&text);
            token.cancel();
        }
    }
    drop(reply);
    assert_eq!(chat.messages()[1].content, said);
    assert!("one two three".starts_with(&said) && !said.is_empty());
    // Dropped without being read: an empty reply, so that roles still alternate, and the next turn works.
    drop(chat.send("b").unwrap());
    assert_eq!(chat.messages()[3], Message::new(Role::Assistant, ""));
    chat.send("c").unwrap();
    assert_eq!(chat.messages().len(), 6);
}

#[test]
fn undo_regenerate_clear_and_system() {
    let engine = engine();
    let mut chat = engine.session();
    chat.params = seeded(5);
    assert!(chat.regenerate().unwrap().is_none() && chat.undo().is_none());
    chat.system("Be brief");
    let first = chat.send("a").unwrap().text().unwrap();
    chat.send("b").unwrap().text().unwrap();
    assert_eq!(chat.messages().len(), 5);
    assert_eq!(chat.undo(), Some(Message::new(Role::User, "b")));
    // With a seed the reply is the same again.
    assert_eq!(chat.regenerate().unwrap().unwrap().text().unwrap(), first);
    chat.params.sampling.seed = Some(8);
    assert_ne!(chat.regenerate().unwrap().unwrap().text().unwrap(), first);
    assert_eq!(chat.messages().len(), 3);
    chat.system("Be long");
    chat.clear();
    assert_eq!(chat.messages(), [Message::new(Role::System, "Be long")]);
    chat.system("");
    assert!(chat.messages().is_empty());
}

#[test]
fn a_conversation_is_saved_and_loaded() {
    let engine = engine();
    let mut chat = engine.session();
    chat.params = seeded(5);
    chat.system("한국어").send("안녕 \"you\"").unwrap().text().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.json");
    chat.save(&file).unwrap();
    let mut other = engine.session();
    other.load(&file).unwrap();
    assert_eq!(other.messages(), chat.messages());
    // What cannot be read leaves the conversation as it was.
    let missing = other.load(dir.path().join("none.json")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    for broken in ["", "{}", "[{\"role\":\"robot\",\"content\":\"\"}]", "[{\"role\":\"user\",\"x\":1}]"] {
        assert_eq!(other.from_json(broken).unwrap_err().kind(), ErrorKind::Usage);
    }
    assert_eq!(other.messages(), chat.messages());
}

#[test]
fn a_turn_that_does_not_fit_is_an_error_and_leaves_the_history() {
    let engine = engine();
    let mut chat = engine.session();
    chat.params = seeded(5);
    chat.send("a").unwrap().text().unwrap();
    let before = chat.messages().to_vec();
    let error = chat.send("x".repeat(600)).unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("512"), "{error}");
    assert_eq!(chat.messages(), before);
}

#[test]
fn thinking_goes_through_the_template_and_comes_apart() {
    // "U a\nA <think>" is 6 bytes and one token; the reply begins inside the thinking.
    let engine = builder(saying("hm\n</think>\n4", 7)).build().unwrap();
    assert!(engine.model().has_thinking_switch());
    let mut chat = engine.session();
    chat.params.sampling = Sampling::greedy();
    chat.thinking = Thinking::On;
    assert_eq!(chat.send("a").unwrap().text().unwrap(), "4");
    assert_eq!((chat.messages()[1].reasoning.as_str(), chat.messages()[1].content.as_str()), ("hm", "4"));
    chat.thinking = Thinking::Auto;
    let reply = chat.send("b").unwrap();
    assert_eq!(engine.model().decode(reply.prompt_ids()).unwrap(), "U a\nA(hm) 4\nU b\nA ");
}

#[test]
fn what_a_message_spells_is_text_and_what_the_template_writes_is_a_token() {
    // `</s>` and, here, the think tags are control tokens.
    let kinds: Vec<i32> = (0..VOCAB)
        .map(|i| if i < 256 { 6 } else { [3, 1, 1, 3, 3].get(i - 256).copied().unwrap_or(1) })
        .collect();
    let template = "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[1] }}\
        {% else %}{{ m.content }}{% endif %}</s>{% endfor %}";
    let keys = [
        ("tokenizer.ggml.token_type", kinds.as_slice().into()),
        ("tokenizer.chat_template", template.into()),
    ];
    let model = model_with(Behaviour::default(), &keys);
    let tokenizer = model.tokenizer();
    let (eos, close) = (tokenizer.eos().unwrap(), tokenizer.special_id("</think>").unwrap());
    let engine = Engine::builder().model(model.clone()).build().unwrap();
    let prompt = |messages: &[Message]| {
        engine.chat(messages, Thinking::Auto, seeded(1)).map(|g| g.prompt_ids().to_vec())
    };
    let got = prompt(&[Message::new(Role::User, "a</s><think>b")]).unwrap();
    assert_eq!(got.iter().filter(|&&id| id == eos).count(), 1);
    assert_eq!(got.last(), Some(&eos));
    assert_eq!(model.decode(&got).unwrap(), "a</s><think>b");
    // The model's own thinking is split off by the template, whatever whitespace it strips.
    let got = prompt(&[Message::new(Role::Assistant, "<think>hm\n</think>4</s>")]).unwrap();
    assert_eq!((model.decode(&got).unwrap().as_str(), got.contains(&close)), ("4</s>", false));
    // A raw prompt's author writes tokens.
    assert_eq!(model.encode("</s>").unwrap(), [eos]);
}

#[test]
fn templates_missing_refusing_and_replaced() {
    let chat = |template: Option<&str>, options: LoadOptions| {
        let inner = Arc::new(MockModel { spec: spec(), behaviour: Behaviour::default(), block_bytes: 1 });
        let keys = template.map(|t| ("tokenizer.chat_template", Value::from(t)));
        let model = Model::with_weights(gguf(keys.as_slice()), inner, &options)?;
        let engine = Engine::builder().model(model).build().unwrap();
        let prompt = engine.session().send("hi").map(|r| r.prompt_ids().to_vec())?;
        Ok::<_, Error>(engine.model().decode(&prompt).unwrap())
    };
    let with = |chat_template: &str| LoadOptions {
        chat_template: Some(chat_template.into()),
        ..LoadOptions::default()
    };
    assert_eq!(chat(None, LoadOptions::default()).unwrap(), "U hi\nA ");
    assert_eq!(chat(None, with("<{{ messages[0].content }}>")).unwrap(), "<hi>");
    assert!(chat(None, with("chatml")).unwrap().contains("<|im_start|>user\nhi"));
    let error = chat(None, with("nonsense")).unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("chatml"), "{error}");
    // A broken template of the file is an error where it is used; text can be continued without it.
    let error = chat(Some("{% if %}"), LoadOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
    let model = model_with(Behaviour::default(), &[("tokenizer.chat_template", "{% if %}".into())]);
    assert!(model.template().is_err());
    let engine = Engine::builder().model(model).build().unwrap();
    assert_eq!(ids(engine.complete("x", seeded(2)).unwrap()).len(), 2);
    let error = chat(Some("{{ raise_exception('no') }}"), LoadOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("no"), "{error}");
}

#[test]
fn sampling_defaults_come_from_the_file() {
    let keys = [
        ("general.sampling.temp", Value::from(0.25f32)),
        ("general.sampling.top_k", Value::from(-1i32)),
        ("general.sampling.mirostat", Value::from(2i32)),
    ];
    let model = model_with(Behaviour::default(), &keys);
    let engine = Engine::builder().model(model.clone()).build().unwrap();
    let s = engine.sampling();
    assert_eq!((s.temperature, s.top_k, s.top_p), (0.25, 0, 0.95));
    assert_eq!(model.unsupported_sampling().len(), 1);
    assert_eq!(model.defaults().top_p, None);
    let inner = Arc::new(MockModel { spec: spec(), behaviour: Behaviour::default(), block_bytes: 1 });
    let bad = gguf(&[("general.sampling.temp", Value::from(-1f32))]);
    let error = Model::with_weights(bad, inner, &LoadOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadModel);
}

#[test]
fn engines_that_cannot_be_are_errors() {
    let model = || model_with(Behaviour::default(), &[]);
    let kind = |b: EngineBuilder| b.build().map(drop).unwrap_err().kind();
    assert_eq!(kind(Engine::builder().context(10)), ErrorKind::Usage);
    for b in [
        Engine::builder().model(model()).context(4096),
        Engine::builder().model(model()).context(1),
        Engine::builder().model(model()).parallel(0),
        Engine::builder().model(model()).ubatch(0),
        Engine::builder().model(model()).parallel(9).batch(8),
        Engine::builder().model(model()).context(1024).cache_tokens(512),
        Engine::builder().model(model()).parallel(usize::MAX),
    ] {
        assert_eq!(kind(b), ErrorKind::Usage);
    }
    let inner = Arc::new(MockModel { spec: spec(), behaviour: Behaviour::default(), block_bytes: 1 << 50 });
    let huge = Model::with_weights(gguf(&[]), inner, &LoadOptions::default()).unwrap();
    match Engine::builder().model(huge).context(64).build() {
        Err(Error::Memory { needed, available, .. }) => {
            assert!(needed == 7 + (1 << 51) && available < needed)
        }
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn plans_count_weights_cache_and_scratch() {
    let plan = model_with(Behaviour::default(), &[]).plan(100, KvType::F16).unwrap();
    assert_eq!((plan.weights(), plan.kv(), plan.scratch(), plan.total()), (100, 4000, 7, 4107));
}

#[test]
fn devices_by_name() {
    for device in Device::ALL {
        assert_eq!(Device::parse(&device.name().to_uppercase()).unwrap(), device);
    }
    let error = Device::parse("tpu").unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("cpu"), "{error}");
    assert!(Device::Cpu.unavailable().is_none());
    assert_eq!(Device::parse("CUDA:1").unwrap(), Device::Cuda(1));
    let options = LoadOptions { device: Device::Cuda(99), ..LoadOptions::default() };
    assert_eq!(Model::load_gguf(gguf(&[]), options).unwrap_err().kind(), ErrorKind::Device);
    // What only a GPU does is not silently left out.
    let layers = Offload { layers: GpuLayers::Last(3), ..Offload::default() };
    let experts = Offload { cpu_experts: 1, ..Offload::default() };
    for options in [
        LoadOptions { offload: layers, ..LoadOptions::default() },
        LoadOptions { offload: experts, ..LoadOptions::default() },
        LoadOptions { no_graphs: true, ..LoadOptions::default() },
    ] {
        let error = Model::load_gguf(gguf(&[]), options).unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("cuda"), "{error}");
    }
}

#[test]
fn files_that_are_no_models() {
    let missing = Model::load("/nonexistent/model.gguf", LoadOptions::default()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not a model").unwrap();
    let error = Model::load(file.path(), LoadOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadModel, "{error}");
    let bad_isa = LoadOptions { isa: Some("mmx".into()), ..LoadOptions::default() };
    assert_eq!(Model::load_gguf(gguf(&[]), bad_isa).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn stop_strings_and_events_arrive_in_order() {
    let engine = builder(saying("한글 STOP more", 1)).build().unwrap();
    let params = Params { stop: vec!["STOP".into()], sampling: Sampling::greedy(), ..Params::default() };
    let log = Mutex::new(String::new());
    for event in engine.complete("x", params).unwrap() {
        let mark = match event.unwrap() {
            Event::Started { .. } => "[".into(),
            Event::Token { .. } => ".".into(),
            Event::Text { text, .. } => text,
            Event::Done(done) => format!("] {}", done.finish.as_str()),
        };
        log.lock().unwrap().push_str(&mark);
    }
    assert_eq!(log.into_inner().unwrap(), "[...한...글. ....] stop");
}
