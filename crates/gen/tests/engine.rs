//! The engine on a mock runner.

mod common;

use common::*;
use kinfer_core::batch::BLOCK_LEN;
use kinfer_gen::{
    CancelToken, Engine, Error, Finish, LengthLimit, Limits, Options, Params, Reasoning, Request, Sampling,
    ScoreRequest, StopCause,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

fn text_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// An engine that answers a one-token prompt with these tokens.
fn scripted(script: &[u32]) -> Setup {
    Setup { behaviour: Behaviour { script: script.to_vec(), ..Behaviour::default() }, ..Setup::default() }
}

fn answer(script: &[u32], params: Params) -> Output {
    alone(&scripted(script), &[1], params)
}

fn greedy() -> Params {
    Params { sampling: Sampling::greedy(), ..Params::default() }
}

#[test]
fn tokens_do_not_depend_on_batch_mates() {
    let setup = Setup::default();
    let requests: Vec<_> =
        (0..8u32).map(|i| (prompt(20 + 37 * i as usize, i), seeded(u64::from(i), 50 + i as usize))).collect();
    let expected: Vec<Output> = requests.iter().map(|(p, params)| alone(&setup, p, params.clone())).collect();
    let mut engine = setup.engine();
    let events: Vec<Events> =
        requests.iter().map(|(p, params)| submit(&mut engine, setup.request(p, params.clone()))).collect();
    run(&mut engine);
    for (e, rx) in expected.iter().zip(&events) {
        let got = collect(rx);
        assert_eq!((&got.ids, &got.text, got.finish()), (&e.ids, &e.text, e.finish()));
        assert!(got.ids.len() >= 50);
    }
    assert_ne!(expected[0].ids[..9], expected[1].ids[..9]);
}

#[test]
fn a_device_that_draws_gives_what_all_logits_give() {
    let steps = Arc::new(AtomicUsize::new(0));
    let behaviour = Behaviour { draws: Some(steps.clone()), ..Behaviour::default() };
    let short = Setup { behaviour, ..Setup::default() };
    let sampled = |top_k, seed| {
        let sampling = Sampling { top_k, seed: Some(seed), ..Sampling::default() };
        Params { sampling, max_tokens: Some(30), ..Params::default() }
    };
    let steps_of = |params: Params| {
        let before = steps.load(Ordering::Relaxed);
        let p = prompt(40, 7);
        assert_eq!(alone(&short, &p, params.clone()).ids, alone(&Setup::default(), &p, params).ids);
        steps.load(Ordering::Relaxed) - before
    };
    for params in [Params { max_tokens: Some(30), ..greedy() }, sampled(1, 1), sampled(40, 3), sampled(0, 4)]
    {
        assert_eq!(steps_of(params), 30);
    }
    // What changes logits, and what is told of them, needs them.
    let penalised = Sampling { repeat_penalty: 1.3, ..Sampling::greedy() };
    let with = |sampling| Params { sampling, max_tokens: Some(30), ..greedy() };
    for params in [with(penalised.clone()), Params { logprobs: Some(2), ..sampled(5, 5) }] {
        assert_eq!(steps_of(params), 0);
    }
    // A batch mate that needs all logits changes nothing.
    let mut engine = short.engine();
    let alone = alone(&short, &prompt(40, 7), sampled(5, 2)).ids;
    let events = submit(&mut engine, short.request(&prompt(40, 7), sampled(5, 2)));
    let _other = submit(&mut engine, short.request(&prompt(9, 8), with(penalised)));
    run(&mut engine);
    assert_eq!(collect(&events).ids, alone);
}

#[test]
fn tokens_do_not_depend_on_chunks_and_micro_batches() {
    let p = prompt(200, 3);
    let expected = alone(&Setup::default(), &p, seeded(5, 40)).ids;
    for (batch, ubatch) in [(8, 1), (8, 7), (64, 7), (64, 64), (300, 64), (512, 512)] {
        let setup = Setup { batch, ubatch, ..Setup::default() };
        assert_eq!(alone(&setup, &p, seeded(5, 40)).ids, expected, "batch {batch} ubatch {ubatch}");
    }
}

#[test]
fn decodes_go_on_while_a_prompt_is_prefilled() {
    let log: Log<Vec<usize>> = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let before = move |b: &kinfer_core::Batch| {
        seen.lock().unwrap().push(b.runs.iter().map(|r| r.rows.len()).collect());
    };
    let behaviour = Behaviour { before: Some(Arc::new(before)), ..Behaviour::default() };
    let setup = Setup { batch: 32, ubatch: 32, behaviour, ..Setup::default() };
    let mut engine = setup.engine();
    let first = submit(&mut engine, setup.request(&prompt(10, 0), seeded(1, 10)));
    engine.step();
    let second = submit(&mut engine, setup.request(&prompt(70, 1), seeded(1, 3)));
    run(&mut engine);
    let log = log.lock().unwrap();
    assert_eq!(log[..5], [vec![10], vec![1, 31], vec![1, 31], vec![1, 8], vec![1, 1]]);
    assert_eq!((collect(&first).ids.len(), collect(&second).ids.len()), (10, 3));
}

#[test]
fn a_later_turn_reuses_the_cache_and_gives_the_same_tokens() {
    let setup = Setup::default();
    let rows = setup.behaviour.rows.clone();
    let mut engine = setup.engine();
    let first = submit(&mut engine, setup.request(&prompt(100, 0), seeded(1, 50)));
    run(&mut engine);
    let first = collect(&first);
    assert_eq!(first.usage().cached_tokens, 0);
    // The next turn: all of the first, and something new.
    let turn: Vec<u32> = [prompt(100, 0), first.ids, prompt(20, 9)].concat();
    let before = rows.load(Ordering::Relaxed);
    let second = submit(&mut engine, setup.request(&turn, seeded(2, 30)));
    run(&mut engine);
    let second = collect(&second);
    // 149 positions were computed, so 4 full blocks.
    assert_eq!(second.usage().cached_tokens, 4 * BLOCK_LEN);
    assert_eq!(rows.load(Ordering::Relaxed) - before, turn.len() - 4 * BLOCK_LEN + 29);
    assert_eq!(second.ids, alone(&Setup::default(), &turn, seeded(2, 30)).ids);
    assert_eq!(second.started.map(|s| (s.0, s.1)), Some((170, 4 * BLOCK_LEN)));
}

#[test]
fn a_prompt_that_is_cached_whole_still_computes_its_last_token() {
    let setup = Setup::default();
    let mut engine = setup.engine();
    let p = prompt(2 * BLOCK_LEN, 0);
    for cached in [0, BLOCK_LEN] {
        let events = submit(&mut engine, setup.request(&p, seeded(1, 40)));
        run(&mut engine);
        let got = collect(&events);
        assert_eq!(got.usage().cached_tokens, cached);
        assert_eq!(got.ids, alone(&Setup::default(), &p, seeded(1, 40)).ids);
    }
}

#[test]
fn running_sequences_share_a_beginning() {
    let setup = Setup::default();
    let rows = setup.behaviour.rows.clone();
    let mut engine = setup.engine();
    let long = prompt(4 * BLOCK_LEN, 0);
    let a = submit(&mut engine, setup.request(&[long.clone(), vec![1]].concat(), seeded(1, 60)));
    (0..3).for_each(|_| engine.step());
    let before = rows.load(Ordering::Relaxed);
    let b = submit(&mut engine, setup.request(&[long.clone(), vec![2]].concat(), seeded(1, 2)));
    engine.step();
    // One row of a's decode, one of b's prompt.
    assert_eq!(rows.load(Ordering::Relaxed) - before, 2);
    run(&mut engine);
    let (a, b) = (collect(&a), collect(&b));
    assert_eq!(a.ids, alone(&Setup::default(), &[long.clone(), vec![1]].concat(), seeded(1, 60)).ids);
    assert_eq!(b.ids, alone(&Setup::default(), &[long, vec![2]].concat(), seeded(1, 2)).ids);
}

#[test]
fn preemption_changes_no_token() {
    // 4 sequences of up to 9 blocks each, in 12 blocks.
    let tight = Setup { context: 300, blocks: 12, parallel: 4, ..Setup::default() };
    let roomy = Setup { context: 300, ..Setup::default() };
    let steps = tight.behaviour.steps.clone();
    let mut engine = tight.engine();
    let requests: Vec<_> =
        (0..4u32).map(|i| (prompt(60 + i as usize, i), seeded(u64::from(i), 200))).collect();
    let events: Vec<Events> =
        requests.iter().map(|(p, params)| submit(&mut engine, tight.request(p, params.clone()))).collect();
    run(&mut engine);
    for ((p, params), rx) in requests.iter().zip(&events) {
        let got = collect(rx);
        assert_eq!(got.ids, alone(&roomy, p, params.clone()).ids);
        assert_eq!((got.ids.len(), got.usage().cached_tokens), (200, 0));
    }
    // With room for all it would take about 204 steps.
    assert!(steps.load(Ordering::Relaxed) > 300);
}

#[test]
fn a_queue_longer_than_the_slots_is_served_in_order() {
    let setup = Setup { parallel: 2, ..Setup::default() };
    let mut engine = setup.engine();
    let events: Vec<Events> =
        (0..7).map(|i| submit(&mut engine, setup.request(&prompt(40, i), seeded(1, 20)))).collect();
    let mut first_start = Vec::new();
    while !engine.is_idle() {
        engine.step();
        for (i, rx) in events.iter().enumerate() {
            if rx.try_iter().any(|e| matches!(e, Ok(kinfer_gen::Event::Started { .. }))) {
                first_start.push(i);
            }
        }
    }
    assert_eq!(first_start, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_seed_decides() {
    let setup = Setup::default();
    let run = |seed| {
        let sampling = Sampling { seed, temperature: 2.0, ..Sampling::default() };
        alone(&setup, &prompt(10, 0), Params { sampling, max_tokens: Some(30), ..Params::default() })
    };
    assert_eq!(run(Some(1)).ids, run(Some(1)).ids);
    assert_ne!(run(Some(1)).ids, run(Some(2)).ids);
    // Without a seed one is drawn, reported, and good for a repetition.
    let (a, b) = (run(None), run(None));
    assert_ne!(a.ids, b.ids);
    assert_eq!(run(a.started.map(|s| s.2)).ids, a.ids);
}

#[test]
fn end_of_generation_and_stop_tokens() {
    let got = answer(&[b'H'.into(), b'i'.into(), EOG], greedy());
    assert_eq!((got.text.as_str(), got.finish()), ("Hi", &Finish::Stop(StopCause::Eog(EOG))));
    assert_eq!(
        (got.ids, got.done.unwrap().usage.completion_tokens),
        (vec![b'H'.into(), b'i'.into(), EOG], 3)
    );

    let stop = Params { stop_tokens: vec![b'i'.into()], ..greedy() };
    let got = answer(&[b'H'.into(), b'i'.into(), EOG], stop);
    assert_eq!((got.text.as_str(), got.finish()), ("H", &Finish::Stop(StopCause::Token(b'i'.into()))));

    let on = Params { ignore_eog: true, max_tokens: Some(5), ..greedy() };
    let got = answer(&[b'H'.into(), EOG], on);
    assert_eq!((got.ids.len(), got.finish()), (5, &Finish::Length(LengthLimit::MaxTokens)));
    assert!(!got.ids.contains(&EOG));
}

#[test]
fn stop_strings_across_tokens_are_not_shown() {
    // " STO" + "P now", with the stop string ending inside the second token.
    let script = [&text_of("Go ")[..], &[261, 262], &text_of("more")].concat();
    let stop = Params { stop: vec!["never".into(), "STOP".into()], ..greedy() };
    let got = answer(&script, stop);
    assert_eq!((got.text.as_str(), got.finish()), ("Go ", &Finish::Stop(StopCause::String("STOP".into()))));
    // Held back text that turns out harmless is shown, at the end too.
    let held = Params { stop: vec!["STOPPED".into()], max_tokens: Some(5), ..greedy() };
    assert_eq!(answer(&script, held).text, "Go STOP now");
}

#[test]
fn a_character_over_several_tokens_comes_whole() {
    let script = [&text_of("한글")[..], &[263, EOG]].concat();
    let mut engine = scripted(&script).engine();
    let events = submit(&mut engine, scripted(&script).request(&[1], greedy()));
    run(&mut engine);
    let texts: Vec<String> = events
        .try_iter()
        .filter_map(|e| match e.unwrap() {
            kinfer_gen::Event::Text { text, .. } => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["한", "글", "안녕"]);
    // Cut off inside a character: one replacement character, at the end.
    let cut = Params { max_tokens: Some(5), ..greedy() };
    assert_eq!(answer(&script, cut).text, "한\u{FFFD}");
}

#[test]
fn thinking_is_reported_apart() {
    let tags = Params { reasoning: Some(Reasoning::default()), ..greedy() };
    let script = [&[259][..], &text_of("\nhm\n"), &[260], &text_of("\n\n4"), &[EOG]].concat();
    let got = answer(&script, tags.clone());
    assert_eq!((got.thinking.as_str(), got.text.as_str()), ("hm\n", "4"));
    // The tags spelled by several tokens.
    let script = [&text_of("<think>hm</think>4")[..], &[EOG]].concat();
    let got = answer(&script, tags.clone());
    assert_eq!((got.thinking.as_str(), got.text.as_str()), ("hm", "4"));
    // Without tags to look for it is text.
    assert_eq!(answer(&script, greedy()).text, "<think>hm</think>4");
}

#[test]
fn a_full_context_ends_with_length() {
    let setup = Setup { context: 50, ..Setup::default() };
    let endless = Params { max_tokens: None, ..seeded(1, 1) };
    let got = alone(&setup, &prompt(20, 0), endless);
    assert_eq!((got.ids.len(), got.finish()), (30, &Finish::Length(LengthLimit::Context)));
    let got = alone(&setup, &prompt(49, 0), seeded(1, 100));
    assert_eq!((got.ids.len(), got.finish().as_str()), (1, "length"));
}

#[test]
fn cancelling_ends_at_once_and_keeps_the_others() {
    let setup = Setup::default();
    let mut engine = setup.engine();
    let token = CancelToken::new();
    let a = submit(&mut engine, setup.request(&prompt(20, 0), seeded(1, 100)).with_cancel(token.clone()));
    let b = submit(&mut engine, setup.request(&prompt(20, 1), seeded(1, 100)));
    (0..10).for_each(|_| engine.step());
    token.cancel();
    run(&mut engine);
    let (a, b) = (collect(&a), collect(&b));
    assert_eq!((a.finish(), a.ids.len()), (&Finish::Cancelled, 10));
    assert_eq!(b.ids, alone(&Setup::default(), &prompt(20, 1), seeded(1, 100)).ids);
    assert_eq!(a.ids, alone(&Setup::default(), &prompt(20, 0), seeded(1, 10)).ids);
}

#[test]
fn a_long_prompt_is_cancelled_between_micro_batches() {
    let token = CancelToken::new();
    let cancel = token.clone();
    let steps = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = steps.clone();
    let before = move |_: &kinfer_core::Batch| {
        if count.fetch_add(1, Ordering::Relaxed) == 2 {
            cancel.cancel();
        }
    };
    let behaviour = Behaviour { before: Some(Arc::new(before)), ..Behaviour::default() };
    let setup = Setup { batch: 512, ubatch: 16, behaviour, ..Setup::default() };
    let mut engine = setup.engine();
    let events = submit(&mut engine, setup.request(&prompt(400, 0), seeded(1, 10)).with_cancel(token));
    engine.step();
    assert!(engine.is_idle());
    assert_eq!(steps.load(Ordering::Relaxed), 3);
    let got = collect(&events);
    assert_eq!((got.finish(), got.ids.len()), (&Finish::Cancelled, 0));
}

#[test]
fn who_no_longer_listens_is_not_served() {
    let setup = Setup::default();
    let mut engine = setup.engine();
    drop(submit(&mut engine, setup.request(&prompt(20, 0), seeded(1, 400))));
    engine.step();
    assert!(engine.is_idle());
}

#[test]
fn a_failing_step_fails_its_requests_and_no_others() {
    let behaviour = Behaviour { fail: vec![3], ..Behaviour::default() };
    let setup = Setup { behaviour, ..Setup::default() };
    let mut engine = setup.engine();
    let a = submit(&mut engine, setup.request(&prompt(20, 0), seeded(1, 100)));
    (0..3).for_each(|_| engine.step());
    engine.step();
    let got = collect(&a);
    assert_eq!((got.ids.len(), got.error.as_deref()), (3, Some("mock failed: told to fail")));
    let b = submit(&mut engine, setup.request(&prompt(20, 0), seeded(1, 30)));
    run(&mut engine);
    assert_eq!(collect(&b).ids, alone(&Setup::default(), &prompt(20, 0), seeded(1, 30)).ids);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let behaviour = Behaviour { nan_from: Some(25), ..Behaviour::default() };
    let got = alone(&Setup { behaviour, ..Setup::default() }, &prompt(20, 0), seeded(1, 100));
    assert_eq!(got.ids.len(), 6);
    assert!(got.error.is_some_and(|e| e.contains("position 25")));
}

#[test]
fn logprobs_are_of_the_drawn_tokens() {
    let params = Params { logprobs: Some(3), ..seeded(4, 20) };
    let got = alone(&Setup::default(), &prompt(33, 0), params);
    assert_eq!(got.logprobs.len(), 20);
    let text = [prompt(33, 0), got.ids.clone()].concat();
    let scores = score(&Setup::default(), &text, 3);
    for (i, l) in got.logprobs.iter().enumerate() {
        assert_eq!((l.top.len(), l), (3, &scores[32 + i]), "token {i}");
    }
}

fn score(setup: &Setup, ids: &[u32], top: usize) -> Vec<kinfer_gen::TokenLogprobs> {
    let mut engine = setup.engine();
    let (tx, rx) = channel();
    engine.submit_score(ScoreRequest::new(ids.to_vec(), top, setup.limits()).unwrap(), tx);
    run(&mut engine);
    rx.try_recv().unwrap().unwrap()
}

#[test]
fn scores_do_not_depend_on_chunks_cache_or_preemption() {
    let ids = prompt(150, 2);
    let expected = score(&Setup::default(), &ids, 5);
    assert_eq!(expected.len(), 150);
    assert!(expected[..149].iter().all(|s| s.logprob.is_some_and(|l| l < 0.0)));
    assert_eq!(expected[149].logprob, None);
    for (ubatch, outputs) in [(1, 1), (7, 3), (64, 64), (150, 16)] {
        assert_eq!(score(&Setup { ubatch, outputs, ..Setup::default() }, &ids, 5), expected);
    }
    // Twice on one engine, and beside generations that take its blocks away.
    let setup = Setup { context: 300, blocks: 12, parallel: 3, outputs: 2, ..Setup::default() };
    let mut engine = setup.engine();
    let busy: Vec<Events> =
        (0..2).map(|i| submit(&mut engine, setup.request(&prompt(60, i), seeded(1, 200)))).collect();
    let (tx, rx) = channel();
    for _ in 0..2 {
        engine.submit_score(ScoreRequest::new(ids.clone(), 5, setup.limits()).unwrap(), tx.clone());
    }
    run(&mut engine);
    assert!(rx.try_iter().map(Result::unwrap).eq([expected.clone(), expected]));
    assert!(busy.iter().all(|b| collect(b).ids.len() == 200));
}

#[test]
fn illegal_requests_are_refused_with_their_reasons() {
    let limits = Limits { context: 10, vocab: VOCAB };
    let refuse = |prompt: &[u32], params: Params| Request::new(prompt.to_vec(), params, limits).unwrap_err();
    assert!(matches!(refuse(&[], greedy()), Error::EmptyPrompt));
    let long = refuse(&[1; 10], greedy());
    assert!(matches!(long, Error::PromptTooLong { prompt: 10, context: 10 }), "{long}");
    assert!(long.to_string().contains("10 tokens"));
    assert!(matches!(refuse(&[1, 264], greedy()), Error::Token { what: "prompt", id: 264, vocab: 264 }));
    for (name, params) in [
        ("max_tokens", Params { max_tokens: Some(0), ..greedy() }),
        ("stop", Params { stop: vec![String::new()], ..greedy() }),
        ("logprobs", Params { logprobs: Some(265), ..greedy() }),
        ("top_p", Params { sampling: Sampling { top_p: 0.0, ..Sampling::default() }, ..greedy() }),
        (
            "reasoning",
            Params { reasoning: Some(Reasoning { open: String::new(), ..Reasoning::default() }), ..greedy() },
        ),
    ] {
        match refuse(&[1], params) {
            Error::Param { name: got, .. } => assert_eq!(got, name),
            other => panic!("{name}: {other}"),
        }
    }
    for params in [
        Params { stop_tokens: vec![999], ..greedy() },
        Params { sampling: Sampling { logit_bias: vec![(999, 1.0)], ..Sampling::default() }, ..greedy() },
    ] {
        assert!(matches!(refuse(&[1], params), Error::Token { id: 999, .. }));
    }
    Request::new(vec![1; 9], greedy(), limits).unwrap();
    ScoreRequest::new(vec![1; 10], 0, limits).unwrap();
    assert!(matches!(ScoreRequest::new(vec![1; 11], 0, limits), Err(Error::TextTooLong { .. })));
}

#[test]
fn a_request_for_another_engine_is_refused() {
    let setup = Setup::default();
    let mut engine = setup.engine();
    let other = Limits { context: 9999, vocab: VOCAB };
    let events = submit(&mut engine, Request::new(prompt(600, 0), greedy(), other).unwrap());
    assert!(engine.is_idle());
    assert!(collect(&events).error.is_some_and(|e| e.contains("9999") && e.contains("512")));
}

#[test]
fn options_that_cannot_work_are_refused() {
    let limits = Limits { context: 512, vocab: VOCAB };
    for (name, rows, outputs, blocks, batch, parallel) in [
        ("cache blocks", 8, 8, 15, 8, 8),
        ("batch", 8, 8, 16, 7, 8),
        ("parallel", 8, 8, 16, 8, 0),
        ("outputs", 8, 0, 16, 8, 8),
        ("micro-batch", 0, 8, 16, 8, 8),
    ] {
        let mock = Mock::new(rows, outputs, blocks, Behaviour::default());
        match Engine::new(Box::new(mock), Arc::new(Bytes), Options { limits, batch, parallel }) {
            Err(Error::Param { name: got, .. }) => assert_eq!(got, name),
            other => panic!("{name}: {:?}", other.err()),
        }
    }
}

#[test]
fn durations_and_counts_are_reported() {
    let got = alone(&Setup::default(), &prompt(20, 0), seeded(1, 10));
    let done = got.done.unwrap();
    assert_eq!((done.usage.prompt_tokens, done.usage.completion_tokens), (20, 10));
    assert!(!done.timings.prefill.is_zero() && !done.timings.decode.is_zero());
}
