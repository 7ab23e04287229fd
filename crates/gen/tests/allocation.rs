//! The step path allocates only for the events that leave it.

mod common;

use common::*;
use kinfer_gen::Params;
use kinfer_gen::sample::{Rng, Sampler, Sampling};

#[test]
fn drawing_allocates_nothing() {
    let logits: Vec<f32> = (0..50_000).map(|i| ((i * 7919) % 50_000) as f32 / 5000.0).collect();
    let history: Vec<u32> = (0..100).collect();
    let (mut sampler, mut rng) = (Sampler::new(logits.len()), Rng::new(1));
    let penalties = Sampling { repeat_penalty: 1.1, ..Sampling::default() };
    let wide = Sampling { top_k: 0, top_p: 0.99, ..Sampling::default() };
    for sampling in [Sampling::default(), Sampling::greedy(), penalties, wide] {
        let mut draw = || sampler.draw(&logits, &sampling, &history, &[3], rng.unit()).unwrap();
        draw();
        let counted = allocation_counter::measure(|| {
            draw();
        });
        assert_eq!(counted.count_total, 0, "{sampling:?}");
    }
}

#[test]
fn a_decode_step_allocates_for_its_events_only() {
    let setup = Setup::default();
    let mut engine = setup.engine();
    let params = Params { max_tokens: Some(300), ..seeded(1, 300) };
    let events: Vec<Events> =
        (0..4).map(|i| submit(&mut engine, setup.request(&prompt(40, i), params.clone()))).collect();
    (0..20).for_each(|_| engine.step());
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| engine.step()));
    // 400 tokens: a string each for the text, and now and then a block of the channel.
    assert!(counted.count_total <= 400 + 4 * 10, "{counted:?}");
    run(&mut engine);
    assert!(events.iter().all(|e| collect(e).ids.len() == 300));
}
