//! What weights are recorded to have been multiplied with, against a plain computation in double precision.

mod common;
mod toy;

use common::Random;
use kinfer_core::{Batch, KvTypes, Role, RunnerLimits, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Inputs, Isa, Numerics};
use std::sync::Arc;

const DIM: usize = 256;
const HIDDEN: usize = 512;
const EXPERTS: usize = 5;
const USED: usize = 2;
const TOKENS: usize = 70;

fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, &w)| x / (mean + 1e-6).sqrt() * f64::from(w)).collect()
}

/// The products of `x` with the rows of a matrix.
fn product(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
}

/// Rows, and the sums of their squares.
#[derive(Clone, Default)]
struct Sums {
    rows: u64,
    squares: Vec<f64>,
}

impl Sums {
    fn add(&mut self, row: &[f64]) {
        self.rows += 1;
        self.squares.resize(row.len(), 0.0);
        self.squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
    }
}

#[test]
fn sums_of_dense_and_of_expert_weights_equal_a_plain_computation() {
    let toy = toy::parallel_experts();
    let mut random = Random::new(7);
    let tokens: Vec<u32> = (0..TOKENS).map(|_| (random.bits() % 96) as u32).collect();

    let inputs = Arc::new(Inputs::default());
    let model =
        toy.load(Cpu::new(2, Isa::from_env().unwrap(), Numerics::F32).unwrap().recording(inputs.clone()));
    let blocks: Vec<u32> = (0..TOKENS.div_ceil(BLOCK_LEN) as u32).collect();
    let limits = RunnerLimits {
        rows: 32,
        outputs: 4,
        logits: true,
        blocks: blocks.len(),
        states: 1,
        context: TOKENS,
        kv: KvTypes::default(),
    };
    let mut runner = model.runner(limits).unwrap();
    let mut batch = Batch::default();
    for (i, part) in tokens.chunks(32).enumerate() {
        batch.clear();
        batch.push(Role::Prompt, part, 32 * i, &blocks, false);
        batch.outputs = vec![0, 3];
        runner.step(&batch).unwrap();
    }

    // The first layer, whose two blocks both read the embeddings.
    let embed = toy.tensor("token_embd.weight");
    let (attn_norm, ffn_norm) = (toy.tensor("blk.0.attn_norm.weight"), toy.tensor("blk.0.ffn_norm.weight"));
    let router = toy.tensor("blk.0.ffn_gate_inp.weight");
    let stacks = ["gate", "up"].map(|part| toy.tensor(&format!("blk.0.ffn_{part}_exps.weight")));
    let (mut attention, mut routed) = (Sums::default(), Sums::default());
    let mut experts = vec![[Sums::default(), Sums::default()]; EXPERTS];
    for &token in &tokens {
        let x: Vec<f64> = embed[token as usize * DIM..][..DIM].iter().map(|&x| x.into()).collect();
        attention.add(&norm(&x, &attn_norm));
        let x = norm(&x, &ffn_norm);
        routed.add(&x);
        let logits = product(&router, &x);
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        for &e in &order[..USED] {
            let [gate, up] =
                [0, 1].map(|i| product(&stacks[i][e * HIDDEN * DIM..(e + 1) * HIDDEN * DIM], &x));
            let hidden: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            experts[e][0].add(&x);
            experts[e][1].add(&hidden);
        }
    }

    let weights = inputs.weights();
    let check = |parts: &[(&str, usize)], want: &Sums| {
        let names: Vec<(String, usize)> =
            parts.iter().map(|&(name, e)| (format!("{name}.weight"), e)).collect();
        let got = weights.iter().find(|w| w.parts == names).unwrap_or_else(|| panic!("no {names:?}"));
        assert_eq!((got.rows, got.squares.len()), (want.rows, want.squares.len()), "{names:?}");
        let mean = want.squares.iter().sum::<f64>() / want.squares.len() as f64;
        for (got, want) in got.squares.iter().zip(&want.squares) {
            assert!((got - want).abs() < 1e-5 * (want + mean), "{names:?}: {got} instead of {want}");
        }
    };
    check(&[("blk.0.attn_q", 0), ("blk.0.attn_k", 0), ("blk.0.attn_v", 0)], &attention);
    check(&[("blk.0.ffn_gate_inp", 0)], &routed);
    assert!(experts.iter().filter(|e| e[0].rows > 0).count() > 2, "the test needs some experts");
    for (e, [x, hidden]) in experts.iter().enumerate() {
        check(&[("blk.0.ffn_gate_exps", e), ("blk.0.ffn_up_exps", e)], x);
        check(&[("blk.0.ffn_down_exps", e)], hidden);
    }

    // Every layer's every weight saw every token, or is an expert's; the head saw the outputs alone, the embedding nothing.
    for weight in weights.iter() {
        let want = match weight.parts[0].0.as_str() {
            "token_embd.weight" => 0,
            "output.weight" => 6,
            name if name.contains("_exps") => continue,
            _ => TOKENS as u64,
        };
        assert_eq!(weight.rows, want, "{:?}", weight.parts);
    }
    let routed: u64 = weights.iter().filter(|w| w.parts[0].0.contains("down_exps")).map(|w| w.rows).sum();
    assert_eq!(routed as usize, 3 * USED * TOKENS);
}
