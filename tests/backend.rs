//! Every backend on small random models: its fused stages against their definitions, itself against candle in
//! float32, a model divided over two devices against one, and the independence of results from how a prompt is cut into chunks.

mod common;
mod toy;

use common::Random;
use kinfer_candle::Candle;
use kinfer_core::{Batch, KvType, KvTypes, Model, Role, RunnerLimits, Unfused, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Isa, Numerics};
use std::sync::{Arc, Mutex, PoisonError};
use toy::Toy;

/// How close a backend has to come, as normalised mean square errors of all logits of a run.
struct Bounds {
    /// To its own default stages.
    unfused: f64,
    /// To candle in float32.
    reference: f64,
    /// To itself with the prompt in other chunks, or without batch mates; 0: bit for bit.
    chunks: f64,
}

macro_rules! backends {
    ($($(#[$when:meta])? $module:ident: $backend:expr, $toys:expr, $types:expr, $bounds:expr;)*) => { $(
        $(#[$when])?
        mod $module {
            use super::*;

            #[test]
            fn fused_stages_equal_their_definitions() {
                compare("unfused", $toys(), $types, $bounds.unfused, |toy, kv| {
                    (mixed(&toy.load($backend), kv), mixed(&toy.load(Unfused($backend)), kv))
                });
            }

            #[test]
            fn agrees_with_the_reference() {
                compare("candle f32", $toys(), FLOAT, $bounds.reference, |toy, kv| {
                    (mixed(&toy.load($backend), kv), mixed(&toy.load(Candle::cpu()), kv))
                });
            }

            #[test]
            fn two_devices_give_what_one_gives() {
                compare("two devices", $toys(), &[KvType::F16], 0.0, |toy, kv| {
                    (mixed(&toy.divide($backend, $backend), kv), mixed(&toy.load($backend), kv))
                });
            }

            #[test]
            fn runners_side_by_side_give_what_one_gives() {
                compare("one at a time", toy::some(), &[KvType::F16], 0.0, |toy, kv| {
                    let model = toy.load($backend);
                    let run = || (0..4).flat_map(|_| in_chunks(&model, kv, 64)).collect::<Vec<_>>();
                    let both = std::thread::scope(|scope| {
                        let threads = [(); 2].map(|()| scope.spawn(run));
                        threads.map(|thread| thread.join().unwrap()).concat()
                    });
                    (both, run().repeat(2))
                });
            }

            #[test]
            fn batch_mates_do_not_matter() {
                compare("one at a time", $toys(), &[KvType::F16], $bounds.chunks, |toy, kv| {
                    let model = toy.load($backend);
                    (mixed(&model, kv), apart(&model, kv))
                });
            }

            #[test]
            fn chunks_of_a_prompt_do_not_matter() {
                compare("chunks of 1, 7 and 64", $toys(), $types, $bounds.chunks, |toy, kv| {
                    let model = toy.load($backend);
                    let whole = in_chunks(&model, kv, usize::MAX);
                    ([1, 7, 64].map(|n| in_chunks(&model, kv, n)).concat(), whole.repeat(3))
                });
            }
        }
    )* };
}

backends! {
    candle_f32: Candle::cpu(), toy::all, &[KvType::F32, KvType::Bf16], Bounds { unfused: 0.0, reference: 0.0, chunks: 2e-6 };
    // It rounds activations to 8 bits in blocks of 256, as which the sums of other chunks differ.
    candle_quantised: Candle::quantised(candle_core::Device::Cpu), toy::some, &[KvType::F16], Bounds { unfused: 0.0, reference: 4e-3, chunks: 1e-3 };
    cpu_f32: cpu(Numerics::F32), toy::all, CPU, Bounds { unfused: 0.0, reference: 1e-6, chunks: 0.0 };
    cpu_auto: cpu(Numerics::Auto), toy::all, CPU, Bounds { unfused: 0.0, reference: 2e-3, chunks: 0.0 };
    cpu_int8: cpu(Numerics::Int8), toy::all, CPU, Bounds { unfused: 0.0, reference: 2e-3, chunks: 0.0 };
    // What ends a product in one kernel is contracted to a multiply-add; a last bit may then round an activation to another 8-bit code.
    #[cfg(feature = "gpu-tests")]
    cuda: common::gpu(), toy::features, &[KvType::F16], Bounds { unfused: 1e-5, reference: 2e-3, chunks: 0.0 };
}

/// Types of a cache that every backend has.
const FLOAT: &[KvType] = &[KvType::F32, KvType::F16];
/// Types with and without scales; the kernels' own tests have all.
const CPU: &[KvType] = &[KvType::F32, KvType::F16, KvType::Q8_0];

fn cpu(numerics: Numerics) -> Cpu {
    Cpu::new(2, Isa::from_env().unwrap(), numerics).unwrap()
}

/// Runs every toy both ways; fails with all that differ too much.
fn compare(
    what: &str,
    toys: Vec<Toy>,
    types: &[KvType],
    most: f64,
    run: impl Fn(&Toy, KvTypes) -> (Vec<f32>, Vec<f32>),
) {
    // Two thread teams that spin on the same cores would slow each other down tenfold.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut broken = Vec::new();
    for toy in toys {
        for &kv in types {
            let (a, b) = run(&toy, kv.into());
            assert_eq!(a.len(), b.len());
            assert!(b.iter().all(|v| v.is_finite()) && b.iter().any(|&v| v != b[0]), "{}: {b:?}", toy.name);
            let error = nmse(&a, &b);
            println!("{} / {kv:?} against {what}: NMSE {error:.2e}", toy.name);
            if error.is_nan() || error > most {
                broken.push(format!(
                    "{} / {kv:?} against {what}: NMSE {error:.2e}, at most {most:.2e}",
                    toy.name
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn candle_names_the_types_that_it_has() {
    let model = toy::all()[0].load(Candle::cpu());
    for (k, v) in [(KvType::Q8_0, KvType::F16), (KvType::F32, KvType::Q4_0)] {
        let Err(error) = model.clone().runner(limits(KvTypes { k, v })) else { panic!("{k}, {v}") };
        let kind = if k == KvType::Q8_0 { k } else { v };
        assert_eq!(
            error.to_string(),
            format!("candle has no cache of {kind} keys or values; it has f32, f16 and bf16")
        );
    }
}

fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    error / b.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

const SEQUENCES: usize = 3;
/// Blocks of a sequence.
const BLOCKS: usize = 6;
const ROWS: usize = 160;

/// Tokens of one sequence, and how many of them are in the cache.
struct Sequence {
    tokens: Vec<u32>,
    /// Neighbours in a sequence are none in the cache.
    blocks: Vec<u32>,
    state: u32,
    done: usize,
}

impl Sequence {
    fn new(i: usize, vocab: usize) -> Self {
        let mut random = Random::new(100 + i as u64);
        Sequence {
            tokens: (0..BLOCKS * BLOCK_LEN).map(|_| (random.bits() % vocab as u64) as u32).collect(),
            blocks: (0..BLOCKS).rev().map(|b| (b * SEQUENCES + i) as u32).collect(),
            state: i as u32,
            done: 0,
        }
    }

    /// Puts the next `n` tokens into a batch.
    fn push(&mut self, batch: &mut Batch, role: Role, n: usize, output: bool) {
        let tokens = &self.tokens[self.done..self.done + n];
        let needed = (self.done + n).div_ceil(BLOCK_LEN);
        batch.push_state(self.state, role, tokens, self.done, &self.blocks[..needed], output);
        self.done += n;
    }
}

fn limits(kv: KvTypes) -> RunnerLimits {
    RunnerLimits {
        rows: ROWS,
        outputs: SEQUENCES,
        logits: true,
        blocks: SEQUENCES * BLOCKS,
        states: SEQUENCES,
        context: BLOCKS * BLOCK_LEN,
        kv,
    }
}

/// A run that mixes prompts, chunks of prompts and single tokens of three sequences. Per step: sequence, tokens, whether its logits
/// are wanted.
const STEPS: &[&[(usize, usize, bool)]] = &[
    &[(0, 5, true), (1, 40, false)],
    &[(1, 30, true), (0, 1, true), (2, 1, true)],
    &[(2, 33, false)],
    &[(0, 1, true), (1, 1, true), (2, 1, true)],
    &[(1, 64, true), (2, 70, true), (0, 1, true)],
    &[(2, 1, true), (0, 26, true), (1, 1, false)],
    &[(0, 1, true), (1, 1, true), (2, 1, true)],
];

/// All logits of [`STEPS`].
fn mixed(model: &Arc<dyn Model>, kv: KvTypes) -> Vec<f32> {
    in_steps(model, kv, STEPS.iter().copied())
}

/// The same with a step for each sequence by itself.
fn apart(model: &Arc<dyn Model>, kv: KvTypes) -> Vec<f32> {
    in_steps(model, kv, STEPS.iter().flat_map(|step| step.chunks(1)))
}

fn in_steps<'a>(
    model: &Arc<dyn Model>,
    kv: KvTypes,
    steps: impl Iterator<Item = &'a [(usize, usize, bool)]>,
) -> Vec<f32> {
    let mut sequences: Vec<_> = (0..SEQUENCES).map(|i| Sequence::new(i, model.spec().vocab)).collect();
    let mut runner = model.clone().runner(limits(kv)).unwrap();
    let (mut batch, mut all) = (Batch::default(), Vec::new());
    for step in steps {
        batch.clear();
        for &(i, n, output) in step {
            let role = if n == 1 { Role::Generated } else { Role::Prompt };
            sequences[i].push(&mut batch, role, n, output);
        }
        let logits = runner.step(&batch).unwrap();
        assert_eq!(logits.data.len(), batch.outputs.len() * logits.width);
        all.extend_from_slice(logits.data);
    }
    all
}

/// Logits after a prompt in chunks of at most `chunk`, and after each of four more tokens.
fn in_chunks(model: &Arc<dyn Model>, kv: KvTypes, chunk: usize) -> Vec<f32> {
    const PROMPT: usize = 100;
    let mut sequence = Sequence::new(0, model.spec().vocab);
    let mut runner = model.clone().runner(limits(kv)).unwrap();
    let (mut batch, mut all) = (Batch::default(), Vec::new());
    while sequence.done < PROMPT + 4 {
        batch.clear();
        let (role, n) = match PROMPT.saturating_sub(sequence.done) {
            0 => (Role::Generated, 1),
            left => (Role::Prompt, chunk.min(left)),
        };
        let wanted = sequence.done + n >= PROMPT;
        sequence.push(&mut batch, role, n, wanted);
        all.extend_from_slice(runner.step(&batch).unwrap().data);
    }
    all
}
