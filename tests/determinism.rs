//! The contract on a real model: the tokens of a request depend on model, prompt, parameters and seed only.

mod common;

use kinfer::{
    Engine, EngineBuilder, Event, KvType, KvTypes, LoadOptions, Model, Numerics, Params, Sampling,
    TokenLogprobs,
};
use std::sync::{Arc, OnceLock};

const PROMPT: &str = "The following is a list of the planets of the solar system, the nearest to the sun first, each \
                      with its number of moons and one sentence about its surface:";

fn load(threads: usize) -> Arc<Model> {
    load_as(LoadOptions { threads: Some(threads), ..LoadOptions::default() })
}

fn load_as(options: LoadOptions) -> Arc<Model> {
    Model::load(common::model("SmolLM2-135M-Instruct.Q4_1.gguf"), options).unwrap()
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load(2)).clone()
}

fn builder(model: Arc<Model>) -> EngineBuilder {
    Engine::builder().model(model).context(512)
}

fn params(seed: u64) -> Params {
    let sampling = Sampling { seed: Some(seed), temperature: 1.5, min_p: 0.0, ..Sampling::default() };
    Params { sampling, max_tokens: Some(24), ignore_eog: true, logprobs: Some(3), ..Params::default() }
}

/// The tokens drawn, and their log-probabilities to the bit.
fn run(engine: &Engine, prompt: &str, seed: u64) -> Vec<(u32, TokenLogprobs)> {
    collect(engine.complete(prompt, params(seed)).unwrap())
}

fn collect(generation: kinfer::Generation) -> Vec<(u32, TokenLogprobs)> {
    generation
        .filter_map(|e| match e.unwrap() {
            Event::Token { id, logprobs } => Some((id, logprobs.unwrap())),
            _ => None,
        })
        .collect()
}

fn expected() -> &'static [(u32, TokenLogprobs)] {
    static EXPECTED: OnceLock<Vec<(u32, TokenLogprobs)>> = OnceLock::new();
    EXPECTED.get_or_init(|| run(&builder(model()).build().unwrap(), PROMPT, 1))
}

#[test]
fn prefill_in_chunks() {
    assert_eq!(expected().len(), 24);
    for ubatch in [1, 7, 64] {
        let engine = builder(model()).ubatch(ubatch).build().unwrap();
        assert_eq!(run(&engine, PROMPT, 1), expected(), "chunks of {ubatch}");
    }
}

#[test]
fn threads() {
    for threads in [1, 3] {
        let engine = builder(load(threads)).build().unwrap();
        assert_eq!(run(&engine, PROMPT, 1), expected(), "{threads} threads");
    }
}

#[test]
fn among_seven_others() {
    let engine = builder(model()).parallel(8).build().unwrap();
    let mut others: Vec<_> = (0..7u64)
        .map(|i| {
            let prompt = format!("Story {i}. {}", "Once upon a time. ".repeat(i as usize));
            engine.complete(&prompt, params(i)).unwrap()
        })
        .collect();
    // The others run already when it comes.
    for other in &mut others {
        assert!(other.by_ref().any(|e| matches!(e, Ok(Event::Token { .. }))));
    }
    assert_eq!(run(&engine, PROMPT, 1), expected());
    for other in others {
        assert_eq!(collect(other).len(), 23);
    }
}

#[test]
fn with_the_prompt_in_the_cache_and_under_preemption() {
    let engine = builder(model()).build().unwrap();
    for cached in [0, 32] {
        let mut generation = engine.complete(PROMPT, params(1)).unwrap();
        match generation.next() {
            Some(Ok(Event::Started { cached_tokens, .. })) => assert_eq!(cached_tokens, cached),
            other => panic!("{other:?}"),
        }
        assert_eq!(collect(generation), expected());
    }
    // Three sequences of three blocks in five blocks: one at a time has to step back.
    let engine = builder(model()).context(96).cache_tokens(160).parallel(3).build().unwrap();
    let all: Vec<_> = (0..3).map(|_| engine.complete(PROMPT, params(1)).unwrap()).collect();
    for generation in all {
        assert_eq!(collect(generation), expected());
    }
}

/// Every type of cache by itself: other chunks, other threads, a prefix that another request has cached, and preemption.
#[test]
fn types_of_cached_keys_and_values() {
    use KvType::{Bf16, F16, Q4_0, Q8_0};
    for (k, v) in [(Bf16, Bf16), (Q8_0, Q8_0), (Q4_0, Q4_0), (Q8_0, F16)] {
        let builder = |threads| builder(load(threads)).kv(KvTypes { k, v });
        let engine = builder(2).build().unwrap();
        let want = run(&engine, PROMPT, 1);
        assert_eq!(run(&engine, PROMPT, 1), want, "{k}, {v}: the prompt in the cache");
        let engine = builder(3).ubatch(7).build().unwrap();
        assert_eq!(run(&engine, PROMPT, 1), want, "{k}, {v}: 3 threads, chunks of 7");
        let engine = builder(2).context(96).cache_tokens(160).parallel(3).build().unwrap();
        let all: Vec<_> = (0..3).map(|_| engine.complete(PROMPT, params(1)).unwrap()).collect();
        for generation in all {
            assert_eq!(collect(generation), want, "{k}, {v}: three sequences in five blocks");
        }
        assert_ne!(want, expected(), "{k}, {v}: as with an f16 cache to the last bit");
    }
}

/// Scored tokens have a prompt's role, so that this holds where both roles are computed alike.
#[test]
fn scores_equal_the_log_probabilities_of_the_generation() {
    let model = load_as(LoadOptions { threads: Some(2), numerics: Numerics::Int8, ..LoadOptions::default() });
    let engine = builder(model.clone()).build().unwrap();
    let prompt = model.encode(PROMPT).unwrap();
    let generated = run(&engine, PROMPT, 1);
    let ids: Vec<u32> = prompt.iter().copied().chain(generated.iter().map(|e| e.0)).collect();
    let scores = engine.score(&ids, 3).unwrap();
    for (i, (id, logprobs)) in generated.iter().enumerate() {
        assert_eq!(&scores[prompt.len() - 1 + i], logprobs, "token {i}, id {id}");
    }
}
