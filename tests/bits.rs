//! The determinism contract below the engine, on the CPU and real models: a sequence's logits are the same bits whatever the number of
//! threads, the size of prefill chunks, its batch mates, the blocks of the cache that it gets, and the instruction set.

mod common;

use kinfer_core::{Batch, KvType, KvTypes, Model, Role, Runner, RunnerLimits, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Isa, Numerics};
use kinfer_load::gguf::Gguf;
use std::sync::Arc;

/// Models, and types of cached keys and values.
const CASES: [(&str, KvType, KvType); 5] = [
    (SMOLLM2, KvType::F16, KvType::F16),
    (GEMMA3, KvType::F16, KvType::F16),
    (SMOLLM2, KvType::Q8_0, KvType::Q8_0),
    (SMOLLM2, KvType::Bf16, KvType::Q4_0),
    (GEMMA3, KvType::Q4_0, KvType::F32),
];
const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";
/// Longer than two attention partitions of 256 keys and than Gemma's window of 512 tokens.
const PROMPT: usize = 540;
const DECODE: usize = 6;
const TABLE: usize = (PROMPT + DECODE).div_ceil(BLOCK_LEN);

fn load(file: &str, threads: usize, isa: Isa, numerics: Numerics) -> Arc<dyn Model> {
    let gguf = Gguf::open(common::model(file)).unwrap();
    kinfer_models::load(Cpu::new(threads, isa, numerics).unwrap(), &gguf, &mut |_, _| {}).unwrap()
}

fn runner(model: &Arc<dyn Model>, kv: KvTypes, sequences: usize) -> Box<dyn Runner> {
    let limits = RunnerLimits {
        rows: 600,
        outputs: 16,
        logits: true,
        blocks: sequences * TABLE + 1,
        states: sequences,
        context: TABLE * BLOCK_LEN,
        kv,
    };
    model.clone().runner(limits).unwrap()
}

/// Token ids of sequence `k`: arbitrary, and different for every sequence.
fn prompt(k: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 7919 + k * 104_729 + i * i * 31) % 40_000 + 300) as u32).collect()
}

/// The block table of sequence `k` of `n`: its blocks lie apart and in descending order.
fn table(k: usize, n: usize) -> Vec<u32> {
    (0..TABLE).rev().map(|i| (i * n + k) as u32).collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}

/// Prefills a sequence in chunks, then decodes greedily; the logits of each step.
fn generate(runner: &mut dyn Runner, ids: &[u32], chunk: usize, k: usize, n: usize) -> Vec<Vec<u32>> {
    let (table, mut batch, mut all) = (table(k, n), Batch::default(), Vec::new());
    let mut position = 0;
    for part in ids.chunks(chunk) {
        batch.clear();
        position += part.len();
        batch.push(Role::Prompt, part, position - part.len(), &table, position == ids.len());
        let logits = runner.step(&batch).unwrap();
        if position == ids.len() {
            all.push(logits.row(0).to_vec());
        }
    }
    for _ in 0..DECODE {
        batch.clear();
        batch.push(Role::Generated, &[argmax(&all[all.len() - 1])], position, &table, true);
        position += 1;
        all.push(runner.step(&batch).unwrap().row(0).to_vec());
    }
    all.iter().map(|row| bits(row)).collect()
}

fn same(what: &str, want: &[Vec<u32>], got: &[Vec<u32>]) {
    assert_eq!(want.len(), got.len(), "{what}");
    for (step, (w, g)) in want.iter().zip(got).enumerate() {
        let differing = w.iter().zip(g).filter(|(w, g)| w != g).count();
        assert_eq!(differing, 0, "{what}: {differing} of {} logits differ at step {step}", w.len());
    }
    println!("{what}: {} x {} logits bit-equal", want.len(), want[0].len());
}

#[test]
fn chunks_and_threads() {
    for (file, k, v) in CASES {
        let (kv, what) = (KvTypes { k, v }, format!("{file}, {k}/{v}"));
        let ids = prompt(0, PROMPT);
        let model = load(file, 2, Isa::best(), Numerics::Auto);
        let want = generate(&mut *runner(&model, kv, 1), &ids, PROMPT, 0, 1);
        for chunk in [64, 7, 1] {
            let ids = if chunk == 1 { &ids[..70] } else { &ids[..] };
            let want =
                if chunk == 1 { &generate(&mut *runner(&model, kv, 1), ids, PROMPT, 0, 1) } else { &want };
            let got = generate(&mut *runner(&model, kv, 1), ids, chunk, 0, 1);
            same(&format!("{what}: chunks of {chunk}"), want, &got);
        }
        for threads in [1, 3] {
            let got = generate(
                &mut *runner(&load(file, threads, Isa::best(), Numerics::Auto), kv, 1),
                &ids,
                PROMPT,
                0,
                1,
            );
            same(&format!("{what}: {threads} threads against 2"), &want, &got);
        }
    }
}

/// One sequence alone, and as one of eight whose prefill chunks and decodes share each step.
#[test]
fn batch_mates() {
    for (file, k, v) in CASES {
        let (kv, what) = (KvTypes { k, v }, format!("{file}, {k}/{v}"));
        let model = load(file, 2, Isa::best(), Numerics::Auto);
        let lens = [33usize, 70, 5, 300, 64, 1, 129, 90];
        let alone: Vec<_> = (0..8)
            .map(|k| generate(&mut *runner(&model, kv, 8), &prompt(k, lens[k]), PROMPT, k, 8))
            .collect();
        let mut together = runner(&model, kv, 8);
        let mut logits: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 8];
        let mut fed = [0usize; 8];
        let mut batch = Batch::default();
        while logits.iter().any(|l| l.len() <= DECODE) {
            batch.clear();
            let mut wanted = Vec::new();
            for k in 0..8 {
                if logits[k].len() > DECODE {
                    continue;
                }
                let ids = prompt(k, lens[k]);
                if fed[k] < ids.len() {
                    let n = (17 + k).min(ids.len() - fed[k]);
                    let done = fed[k] + n == ids.len();
                    batch.push(Role::Prompt, &ids[fed[k]..fed[k] + n], fed[k], &table(k, 8), done);
                    fed[k] += n;
                    wanted.extend(done.then_some(k));
                } else {
                    batch.push(
                        Role::Generated,
                        &[argmax(&logits[k][logits[k].len() - 1])],
                        fed[k],
                        &table(k, 8),
                        true,
                    );
                    fed[k] += 1;
                    wanted.push(k);
                }
            }
            let out = together.step(&batch).unwrap();
            for (i, &k) in wanted.iter().enumerate() {
                logits[k].push(out.row(i).to_vec());
            }
        }
        for k in 0..8 {
            let got: Vec<_> = logits[k].iter().map(|row| bits(row)).collect();
            same(&format!("{what}: sequence {k} among seven others"), &alone[k], &got);
        }
    }
}

#[test]
fn instruction_sets() {
    for (file, k, v) in CASES {
        let (kv, what) = (KvTypes { k, v }, format!("{file}, {k}/{v}"));
        let ids = prompt(0, 40);
        let want = generate(&mut *runner(&load(file, 2, Isa::best(), Numerics::Int8), kv, 1), &ids, 64, 0, 1);
        for isa in Isa::ALL.into_iter().filter(|i| i.available() && *i != Isa::best()) {
            // The scalar kernels take minutes for a long prompt: eight tokens show the same.
            let n = if isa == Isa::Scalar { 8 } else { ids.len() };
            let want = if n == ids.len() {
                want.clone()
            } else {
                generate(
                    &mut *runner(&load(file, 2, Isa::best(), Numerics::Int8), kv, 1),
                    &ids[..n],
                    64,
                    0,
                    1,
                )
            };
            let got = generate(&mut *runner(&load(file, 2, isa, Numerics::Int8), kv, 1), &ids[..n], 64, 0, 1);
            same(&format!("{what}: {isa} against {}", Isa::best()), &want, &got);
        }
    }
}
