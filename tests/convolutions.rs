//! What the cache keeps of convolutions, the last positions of each block, is all that they need: for blocks that sequences share, and
//! for steps that are repeated. A step that would need more is refused.

mod common;
mod toy;

use kinfer_candle::Candle;
use kinfer_core::{Batch, Error, KvType, KvTypes, Model, Role, Runner, RunnerLimits, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Isa, Numerics};
use std::ops::Range;
use std::sync::Arc;
use toy::Toy;

fn limits(kv: KvTypes) -> RunnerLimits {
    RunnerLimits { rows: 96, outputs: 2, logits: true, blocks: 8, states: 0, context: 4 * BLOCK_LEN, kv }
}

/// Those with convolutions.
fn toys() -> Vec<Toy> {
    let toys: Vec<Toy> = toy::all().into_iter().filter(|toy| toy.name.contains("convolutions")).collect();
    assert_eq!(toys.len(), 3);
    toys
}

fn cpu() -> Cpu {
    Cpu::new(2, Isa::from_env().unwrap(), Numerics::Auto).unwrap()
}

/// `n` tokens, of which the first 64 are those of every text.
fn text(number: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 3 + if i < 64 { 0 } else { number }) % 96).collect()
}

/// Positions of a text to compute, and its blocks.
type Piece<'a> = (&'a [u32], Range<usize>, &'a [u32]);

/// Computes them: the logits after each. One position is a generated token.
fn step(runner: &mut dyn Runner, pieces: &[Piece<'_>]) -> Result<Vec<f32>, Error> {
    let mut batch = Batch::default();
    for (text, positions, blocks) in pieces {
        let role = if positions.len() == 1 { Role::Generated } else { Role::Prompt };
        batch.push(role, &text[positions.clone()], positions.start, blocks, true);
    }
    runner.step(&batch).map(|outputs| outputs.data.to_vec())
}

#[test]
fn sequences_that_share_blocks_are_what_they_are_alone() {
    for toy in toys() {
        let models: [(Arc<dyn Model>, KvTypes, f32); 2] = [
            (toy.load(cpu()), KvTypes { k: KvType::Q8_0, v: KvType::F16 }, 0.0),
            (toy.load(Candle::cpu()), KvType::F32.into(), 1e-4),
        ];
        for (model, kv, most) in models {
            let (a, b) = (text(1, 90), text(2, 90));
            let runner = &mut *model.clone().runner(limits(kv)).unwrap();
            step(runner, &[(&a, 0..40, &[5, 2])]).unwrap();
            step(runner, &[(&a, 40..70, &[5, 2, 0])]).unwrap();
            let together = step(runner, &[(&b, 64..68, &[5, 2, 7]), (&a, 70..71, &[5, 2, 0])]).unwrap();

            let mut alone = Vec::new();
            for (text, last) in [(&b, 64..68), (&a, 70..71)] {
                let runner = &mut *model.clone().runner(limits(kv)).unwrap();
                step(runner, &[(text, 0..last.start, &[1, 3, 4])]).unwrap();
                alone.extend(step(runner, &[(text, last, &[1, 3, 4])]).unwrap());
            }
            let off = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(
                together.len() == alone.len() && off <= most,
                "{} on {}: {off}",
                toy.name,
                model.device()
            );
        }
    }
}

#[test]
fn a_step_can_be_repeated_and_no_other_position_of_a_block_gone_back_to() {
    for toy in toys() {
        let model = toy.load(cpu());
        let runner = &mut *model.runner(limits(KvType::F16.into())).unwrap();
        let (a, b) = (text(1, 90), &[5, 2, 0]);
        step(runner, &[(&a, 0..70, b)]).unwrap();
        let first = step(runner, &[(&a, 70..71, b)]).unwrap();
        assert_eq!(step(runner, &[(&a, 70..71, b)]).unwrap(), first, "{}", toy.name);
        for start in [1, 40, 69, 72] {
            let error = step(runner, &[(&a, start..start + 1, b)]).unwrap_err();
            let Error::Batch(message) = &error else { panic!("{error}") };
            let computed = if start < 64 { start / 32 * 32 + 32 } else { 71 };
            assert!(
                message.contains(&format!("at position {start}, "))
                    && message.contains(&format!("up to position {computed} ")),
                "{message}"
            );
        }
        // What one run of a step writes, no other one of it may read or write.
        for (pieces, what) in [
            ([(&a[..], 64..80, &b[..]), (&a, 80..81, b)], "block 0"),
            ([(&a, 32..64, b), (&a, 64..65, b)], "before 64 (block 2)"),
            (
                [(&a, 0..3, &[7]), (&a, 0..3, &[7])],
                "another run of this step writes to the same block (block 7)",
            ),
            ([(&a, 0..3, &[6]), (&a, 32..33, &[6, 7])], "before 32 (block 6)"),
        ] {
            let error = step(runner, &pieces).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        // From the beginning of a block, and on from there.
        step(runner, &[(&a, 64..66, b)]).unwrap();
        step(runner, &[(&a, 66..70, b)]).unwrap();
        assert_eq!(step(runner, &[(&a, 70..71, b)]).unwrap(), first, "{}", toy.name);
    }
}

/// Memory is planned as it is taken.
#[test]
fn tails_are_planned() {
    for toy in toys() {
        let (model, kv) = (toy.load(cpu()), KvType::Q8_0.into());
        let one = model.memory(&RunnerLimits { blocks: 1, ..limits(kv) })[0].kv;
        let two = model.memory(&RunnerLimits { blocks: 3, ..limits(kv) })[0].kv;
        let taps: u64 = toy.name.split(' ').find_map(|word| word.parse().ok()).unwrap_or(2);
        // Two layers of 320 channels; one with two heads of 64 in 8 bits and two scales for each of key and value.
        let block = 2 * taps * 320 * 4 + 32 * 2 * 2 * (64 + 2 * 2);
        assert_eq!((one, two), (block, 3 * block), "{}", toy.name);
        let planned = toy.plan(cpu(), &limits(kv));
        let loaded = &model.memory(&limits(kv))[0];
        assert_eq!(
            (planned.weights, planned.kv, planned.scratch),
            (loaded.weights, loaded.kv, loaded.scratch)
        );
    }
}
