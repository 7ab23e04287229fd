//! The states of delta nets: what a sequence computes does not depend on chunks, batch mates, threads or the instruction set, and a step that
//! would need a state that is gone is refused.

mod common;
mod toy;

use kinfer_candle::Candle;
use kinfer_core::{Batch, Error, KvType, Model, Role, Runner, RunnerLimits, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Isa, Numerics};
use std::ops::Range;
use std::sync::Arc;
use toy::Toy;

const LIMITS: RunnerLimits = RunnerLimits {
    rows: 96,
    outputs: 2,
    logits: true,
    blocks: 8,
    states: 2,
    context: 4 * BLOCK_LEN,
    kv: kinfer_core::KvTypes { k: KvType::F32, v: KvType::F32 },
};

/// Those with delta nets.
fn toys() -> Vec<Toy> {
    let toys: Vec<Toy> = toy::all().into_iter().filter(|toy| toy.name.contains("delta nets")).collect();
    assert_eq!(toys.len(), 2);
    toys
}

fn cpu(threads: usize, isa: Isa) -> Cpu {
    Cpu::new(threads, isa, Numerics::Int8).unwrap()
}

fn text(number: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 3 + number) % 96).collect()
}

/// Positions of a text to compute, its blocks, and its state.
type Piece<'a> = (&'a [u32], Range<usize>, &'a [u32], u32);

/// Computes them: the logits after each.
fn step(runner: &mut dyn Runner, pieces: &[Piece<'_>]) -> Result<Vec<f32>, Error> {
    let mut batch = Batch::default();
    for (text, positions, blocks, state) in pieces {
        let role = if positions.len() == 1 { Role::Generated } else { Role::Prompt };
        batch.push_state(*state, role, &text[positions.clone()], positions.start, blocks, true);
    }
    runner.step(&batch).map(|outputs| outputs.data.to_vec())
}

/// The logits after 70 positions and after the one that follows, computed by itself in chunks.
fn alone(model: &Arc<dyn Model>, text: &[u32], chunk: usize) -> Vec<f32> {
    let runner = &mut *model.clone().runner(LIMITS).unwrap();
    let (mut all, blocks) = (Vec::new(), &[1, 3, 4]);
    for from in (0..70).step_by(chunk) {
        all = step(runner, &[(text, from..70.min(from + chunk), blocks, 1)]).unwrap();
    }
    all.extend(step(runner, &[(text, 70..71, blocks, 1)]).unwrap());
    all
}

#[test]
fn nothing_beside_a_sequence_changes_it() {
    for toy in toys() {
        let (model, a, b) = (toy.load(cpu(2, Isa::best())), text(1, 90), text(2, 90));
        let want = alone(&model, &a, 70);
        for chunk in [1, 7, 32, 64] {
            assert_eq!(alone(&model, &a, chunk), want, "{}: chunks of {chunk}", toy.name);
        }
        for threads in [1, 3] {
            assert_eq!(alone(&toy.load(cpu(threads, Isa::best())), &a, 33), want, "{}", toy.name);
        }
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.available()) {
            assert_eq!(alone(&toy.load(cpu(2, isa)), &a, 33), want, "{} on {isa}", toy.name);
        }
        // Beside another one, in a state that was used before.
        let runner = &mut *model.clone().runner(LIMITS).unwrap();
        let (of_a, of_b) = (&[5, 2, 0][..], &[7, 6, 1][..]);
        step(runner, &[(&b, 0..50, of_a, 0)]).unwrap();
        step(runner, &[(&a, 0..10, of_a, 0), (&b, 0..40, of_b, 1)]).unwrap();
        let first = step(runner, &[(&b, 40..41, of_b, 1), (&a, 10..70, of_a, 0)]).unwrap();
        let second = step(runner, &[(&a, 70..71, of_a, 0), (&b, 41..50, of_b, 1)]).unwrap();
        let vocab = model.spec().vocab;
        assert_eq!([&first[vocab..], &second[..vocab]].concat(), want, "{}", toy.name);

        let exact = alone(&toy.load(Candle::cpu()), &a, 33);
        let near = alone(&toy.load(Cpu::new(2, Isa::best(), Numerics::F32).unwrap()), &a, 33);
        let off = exact.iter().zip(&near).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-3, "{}: {off}", toy.name);
    }
}

#[test]
fn a_state_goes_on_at_its_end_only() {
    for toy in toys() {
        let runner = &mut *toy.load(cpu(1, Isa::best())).runner(LIMITS).unwrap();
        assert!(runner.has_states());
        let (a, blocks) = (text(1, 90), &[5, 2, 0][..]);
        let first = step(runner, &[(&a, 0..40, blocks, 0)]).unwrap();
        let refused: [(&[Piece<'_>], &str); 5] = [
            (&[(&a, 39..40, blocks, 0)], "begins at position 39, and the state ends before position 40"),
            (&[(&a, 32..40, blocks, 0)], "begins at position 32, and"),
            (&[(&a, 41..42, blocks, 0)], "begins at position 41, and"),
            (&[(&a, 40..41, blocks, 2)], "this runner has 2 states"),
            (&[(&a, 40..41, blocks, 0), (&a, 0..2, &[7], 0)], "run 0..1 of this step has the same one"),
        ];
        for (pieces, what) in refused {
            let error = step(runner, pieces).unwrap_err();
            let Error::Batch(message) = &error else { panic!("{error}") };
            assert!(message.contains(what), "{message}");
        }
        let on = step(runner, &[(&a, 40..41, blocks, 0)]).unwrap();
        assert_eq!(step(runner, &[(&a, 0..40, blocks, 0)]).unwrap(), first, "{}", toy.name);
        assert_eq!(step(runner, &[(&a, 40..41, blocks, 0)]).unwrap(), on, "{}", toy.name);
    }
}

/// Memory is planned as it is taken.
#[test]
fn states_are_planned() {
    let toy = &toys()[0];
    let model = toy.load(cpu(1, Isa::best()));
    let kv = |states| model.memory(&RunnerLimits { states, ..LIMITS })[0].kv;
    // Two layers, each of two key heads with two value heads: three positions of 2 * 24 + 2 * 64 channels, and two states.
    assert_eq!(kv(3) - kv(0), 3 * 2 * 2 * 4 * (3 * (48 + 128) + 2 * 24 * 64));
    for toy in toys() {
        let planned = toy.plan(cpu(1, Isa::best()), &LIMITS);
        let loaded = &toy.load(cpu(1, Isa::best())).memory(&LIMITS)[0];
        assert_eq!(
            (planned.weights, planned.kv, planned.scratch),
            (loaded.weights, loaded.kv, loaded.scratch)
        );
    }
}
