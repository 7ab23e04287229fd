//! Sequences whose states go on at their ends only: the mock refuses what such a model could not compute.

mod common;

use common::*;
use kinfer_core::batch::BLOCK_LEN;
use kinfer_gen::{Params, Sampling};
use std::sync::atomic::Ordering;

fn with_states(setup: Setup) -> Setup {
    Setup { behaviour: Behaviour { states: true, ..Behaviour::default() }, ..setup }
}

fn prompt(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7 + i * i * 3 + salt * 31) % 256).collect()
}

fn seeded(seed: u64, tokens: usize) -> Params {
    let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
    Params { sampling, max_tokens: Some(tokens), ..Params::default() }
}

/// What it would be without states.
fn plain(prompt: &[u32], params: Params) -> Vec<u32> {
    alone(&Setup::default(), prompt, params).ids
}

#[test]
fn a_later_turn_goes_on_where_the_earlier_one_ended() {
    let setup = with_states(Setup { parallel: 2, ..Setup::default() });
    let rows = setup.behaviour.rows.clone();
    let mut engine = setup.engine();
    let first = submit(&mut engine, setup.request(&prompt(100, 0), seeded(1, 50)));
    run(&mut engine);
    let turn = [prompt(100, 0), collect(&first).ids, prompt(20, 9)].concat();
    let before = rows.load(Ordering::Relaxed);
    let second = submit(&mut engine, setup.request(&turn, seeded(2, 30)));
    run(&mut engine);
    let second = collect(&second);
    // All but the last token drawn.
    assert_eq!(second.usage().cached_tokens, 149);
    assert_eq!(rows.load(Ordering::Relaxed) - before, turn.len() - 149 + 29);
    assert_eq!(second.ids, plain(&turn, seeded(2, 30)));
    // The state has gone on: what begins in the same way and is another text begins anew.
    let again = submit(&mut engine, setup.request(&turn, seeded(2, 30)));
    run(&mut engine);
    let again = collect(&again);
    assert_eq!((again.usage().cached_tokens, &again.ids), (0, &second.ids));
}

#[test]
fn sequences_that_begin_alike_share_nothing() {
    let setup = with_states(Setup { parallel: 3, ..Setup::default() });
    let mut engine = setup.engine();
    let of = |i: u32| [prompt(4 * BLOCK_LEN, 0), vec![i]].concat();
    let events: Vec<Events> = (0..5)
        .map(|i| {
            let events = submit(&mut engine, setup.request(&of(i), seeded(u64::from(i), 40)));
            engine.step();
            events
        })
        .collect();
    run(&mut engine);
    for (i, events) in (0..).zip(&events) {
        let got = collect(events);
        assert_eq!(
            (got.ids, got.done.map(|d| d.usage.cached_tokens)),
            (plain(&of(i), seeded(u64::from(i), 40)), Some(0))
        );
    }
}

#[test]
fn preemption_changes_no_token() {
    let tight = with_states(Setup { context: 300, blocks: 12, parallel: 4, ..Setup::default() });
    let steps = tight.behaviour.steps.clone();
    let mut engine = tight.engine();
    for round in 0..2 {
        let requests: Vec<_> =
            (0..4u32).map(|i| (prompt(60 + i as usize, i), seeded(u64::from(i), 200))).collect();
        let events: Vec<Events> = requests
            .iter()
            .map(|(p, params)| submit(&mut engine, tight.request(p, params.clone())))
            .collect();
        run(&mut engine);
        for ((p, params), events) in requests.iter().zip(&events) {
            let got = collect(events);
            assert_eq!(got.ids, plain(p, params.clone()), "round {round}");
        }
    }
    assert!(steps.load(Ordering::Relaxed) > 600);
}

#[test]
fn ended_sequences_give_way() {
    // Each takes 3 of 4 blocks and one of 2 states.
    let setup = with_states(Setup { context: 128, blocks: 4, parallel: 2, ..Setup::default() });
    let mut engine = setup.engine();
    for i in 0..5 {
        let events = submit(&mut engine, setup.request(&prompt(70, i), seeded(1, 20)));
        run(&mut engine);
        assert_eq!(collect(&events).ids, plain(&prompt(70, i), seeded(1, 20)));
    }
}

#[test]
fn a_short_prompt_is_no_beginning_of_a_long_one() {
    // Its rows have another role than those of a longer prompt would have; with an answer it is what a later turn repeats.
    let setup = with_states(Setup::default());
    let mut engine = setup.engine();
    for (answer, cached) in [(1, 0), (4, 23)] {
        let first = submit(&mut engine, setup.request(&prompt(20, 0), seeded(1, answer)));
        run(&mut engine);
        let turn = [prompt(20, 0), collect(&first).ids, prompt(40, 9)].concat();
        let second = submit(&mut engine, setup.request(&turn, seeded(2, 5)));
        run(&mut engine);
        assert_eq!(collect(&second).usage().cached_tokens, cached);
    }
}

#[test]
fn what_failed_is_not_gone_on_from() {
    let behaviour = Behaviour { fail: vec![3], states: true, ..Behaviour::default() };
    let setup = Setup { behaviour, parallel: 1, ..Setup::default() };
    let mut engine = setup.engine();
    let events = submit(&mut engine, setup.request(&prompt(40, 0), seeded(1, 100)));
    run(&mut engine);
    let failed = collect(&events);
    assert!(failed.error.is_some());
    let turn = [prompt(40, 0), failed.ids, vec![1]].concat();
    let events = submit(&mut engine, setup.request(&turn, seeded(1, 30)));
    run(&mut engine);
    let got = collect(&events);
    assert_eq!((got.usage().cached_tokens, got.ids), (0, plain(&turn, seeded(1, 30))));
}
