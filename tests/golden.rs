//! Every backend against golden values of two real models; `golden/README.md` explains data and rules.
//! `cargo test --release --test golden -- --nocapture` prints all figures.

mod common;

use kinfer_core::{Batch, KvType, KvTypes, Model, Role, Runner, RunnerLimits, batch::BLOCK_LEN};
use kinfer_cpu::{Cpu, Isa, Numerics, machine};
use kinfer_load::gguf::Gguf;
use kinfer_load::tokenizer::{Encode, Tokenizer, VocabSpec};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

/// A way of running a model, and the rules it has to keep.
struct Target {
    name: &'static str,
    load: fn(&Gguf) -> Arc<dyn Model>,
    kv: KvTypes,
    rules: Rules,
}

struct Rules {
    /// Mean 9-bucket KL over the prefix.
    kl: MaxKl,
    /// Largest difference of the log-probabilities of truth's five best ids along the paths.
    top5: Option<f64>,
    /// Largest excess of the own best id over the reference along the paths, beyond truth's: 99th percentile, and of all.
    excess: [f64; 2],
    /// Largest relative difference of the perplexity.
    perplexity: f64,
}

enum MaxKl {
    Below(f64),
    TimesLlamaCpp(f64),
}

/// Activations rounded to 8 bits.
const QUANTISED: Rules =
    Rules { kl: MaxKl::TimesLlamaCpp(1.0), top5: None, excess: [0.25, 0.5], perplexity: 5e-3 };

/// Float32 throughout: differs from truth by the order of sums only.
const EXACT: Rules =
    Rules { kl: MaxKl::Below(1e-4), top5: Some(0.05), excess: [0.25, 0.5], perplexity: 1e-3 };

macro_rules! targets {
    ($($module:ident: $target:expr;)*) => { $(
        mod $module {
            use super::*;
            const TARGET: Target = $target;
            #[test]
            fn smollm2() {
                check(&TARGET, "smollm2");
            }
            #[test]
            fn gemma3() {
                check(&TARGET, "gemma3-270m");
            }
        }
    )* };
}

targets! {
    candle_f32: Target {
        name: "candle f32",
        load: |gguf| kinfer_models::load(kinfer_candle::Candle::cpu(), gguf, &mut |_, _| {}).unwrap(),
        kv: of(KvType::F32),
        rules: EXACT,
    };
    cpu_f32: Target {
        name: "cpu f32",
        load: |gguf| load_cpu(gguf, Numerics::F32),
        kv: of(KvType::F32),
        rules: EXACT,
    };
    cpu_auto: Target {
        name: "cpu auto",
        load: |gguf| load_cpu(gguf, Numerics::Auto),
        kv: of(KvType::F16),
        rules: QUANTISED,
    };
    cpu_q8_0_cache: Target {
        name: "cpu auto, q8_0 cache",
        load: |gguf| load_cpu(gguf, Numerics::Auto),
        kv: of(KvType::Q8_0),
        rules: QUANTISED,
    };
    cpu_q4_0_values: Target {
        name: "cpu auto, q8_0 keys, q4_0 values",
        load: |gguf| load_cpu(gguf, Numerics::Auto),
        kv: KvTypes { k: KvType::Q8_0, v: KvType::Q4_0 },
        // The largest is one step of some hundred: below 1 with prompts on tiles, 1.0 (Gemma) and 1.3 without.
        rules: Rules { kl: MaxKl::Below(0.05), top5: None, excess: [0.5, 2.0], perplexity: 0.02 },
    };
    cpu_q4_0_cache: Target {
        name: "cpu auto, q4_0 cache",
        load: |gguf| load_cpu(gguf, Numerics::Auto),
        kv: of(KvType::Q4_0),
        rules: Rules { kl: MaxKl::Below(0.35), top5: None, excess: [2.0, 8.0], perplexity: 0.25 },
    };
    cpu_int8: Target {
        name: "cpu int8",
        load: |gguf| load_cpu(gguf, Numerics::Int8),
        kv: of(KvType::F16),
        rules: QUANTISED,
    };
}

const fn of(kind: KvType) -> KvTypes {
    KvTypes { k: kind, v: kind }
}

fn load_cpu(gguf: &Gguf, numerics: Numerics) -> Arc<dyn Model> {
    let cpu = Cpu::new(machine::threads(), Isa::from_env().unwrap(), numerics).unwrap();
    kinfer_models::load(cpu, gguf, &mut |_, _| {}).unwrap()
}

/// Id and log-probability.
type Scored = (u32, f64);

#[derive(Deserialize)]
struct Golden {
    model_file: String,
    sha256: String,
    prompts: Vec<Prompt>,
    prefix: Prefix,
    perplexity: Perplexity,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    prompt_ids: Vec<u32>,
    llama_cpp_greedy_ids: Vec<u32>,
    truth_top5_on_that_path: Vec<Vec<Scored>>,
    truth_gap_of_reference: Vec<f64>,
}

#[derive(Deserialize)]
struct Prefix {
    ids: Vec<u32>,
    truth_top8: Vec<Vec<Scored>>,
    llama_cpp_kl: LlamaCpp,
}

#[derive(Deserialize)]
struct LlamaCpp {
    plain: Distance,
}

#[derive(Deserialize)]
struct Distance {
    top8: Mean,
}

#[derive(Deserialize)]
struct Mean {
    mean: f64,
}

#[derive(Deserialize)]
struct Perplexity {
    ppl: f64,
    tokens: usize,
    scored: usize,
}

/// Positions per window of the perplexity, and most rows of a step.
const WINDOW: usize = 512;
const ROWS: usize = 256;

/// One model on one target: prints every figure, then fails with all broken rules.
fn check(target: &Target, golden: &str) {
    let path = common::root().join("tests/golden").join(golden).with_extension("json");
    let golden: Golden = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let path = common::model(&golden.model_file);
    let hash: String = Sha256::digest(fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, golden.sha256, "{} is not the file that the golden values belong to", path.display());

    // Each model by itself: they would take turns on the cores, and gigabytes of f32 weights together.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let gguf = Gguf::open(&path).unwrap();
    let model = (target.load)(&gguf);
    let who = format!("{} / {}", target.name, golden.model_file);
    let mut broken = Vec::new();
    let mut rule = |what: &str, got: f64, most: f64| {
        println!("{who}: {what} {got:.3e} (at most {most:.3e})");
        if got.is_nan() || got > most {
            broken.push(format!("{what}: {got:.3e}, at most {most:.3e}"));
        }
    };

    let most = match target.rules.kl {
        MaxKl::Below(most) => most,
        MaxKl::TimesLlamaCpp(factor) => factor * golden.prefix.llama_cpp_kl.plain.top8.mean,
    };
    rule("prefix: mean 9-bucket KL", prefix_kl(runner(&model, target, 1), &golden.prefix), most);

    let paths = follow_paths(runner(&model, target, golden.prompts.len()), &golden.prompts);
    if let Some(most) = target.rules.top5 {
        rule("paths: log-probabilities of truth's top 5, largest difference", paths.top5, most);
    }
    rule(
        "paths: excess of own best over the reference, 99th percentile",
        paths.excess_99,
        target.rules.excess[0],
    );
    rule("paths: excess of own best over the reference, largest", paths.excess_max, target.rules.excess[1]);

    let ppl = perplexity(&gguf, runner(&model, target, 1), &golden.perplexity);
    println!("{who}: perplexity {ppl:.5}, truth {:.5}", golden.perplexity.ppl);
    let off = (ppl / golden.perplexity.ppl - 1.0).abs();
    rule("perplexity: relative difference", off, target.rules.perplexity);
    assert!(broken.is_empty(), "{who} breaks:\n{}", broken.join("\n"));
}

/// A runner for `sequences` sequences of up to [`WINDOW`] positions.
fn runner(model: &Arc<dyn Model>, target: &Target, sequences: usize) -> Box<dyn Runner> {
    let blocks = sequences * WINDOW.div_ceil(BLOCK_LEN);
    let limits = RunnerLimits {
        rows: ROWS,
        outputs: ROWS,
        logits: true,
        blocks,
        states: 1,
        context: WINDOW,
        kv: target.kv,
    };
    model.clone().runner(limits).unwrap()
}

/// The block table of sequence `i` of `n`: no two of its blocks are neighbours, unless it is alone.
fn blocks(i: usize, n: usize) -> Vec<u32> {
    (0..WINDOW.div_ceil(BLOCK_LEN)).map(|b| (b * n + i) as u32).collect()
}

/// `ln(sum(exp(row)))`.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + row.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln()
}

fn prefix_kl(mut runner: Box<dyn Runner>, prefix: &Prefix) -> f64 {
    let mut batch = Batch::default();
    batch.push(Role::Prompt, &prefix.ids, 0, &blocks(0, 1), true);
    batch.outputs = (0..prefix.ids.len() as u32).collect();
    let logits = runner.step(&batch).unwrap();
    let kl = |(i, truth): (usize, &Vec<Scored>)| {
        let row = logits.row(i);
        let sum = log_sum_exp(row);
        let (mut kl, mut truth_rest, mut own_rest) = (0.0, 1.0, 1.0);
        for &(id, truth) in truth {
            let own = f64::from(row[id as usize]) - sum;
            kl += truth.exp() * (truth - own);
            truth_rest -= truth.exp();
            own_rest -= own.exp();
        }
        // Both rests are differences of rounded numbers: nothing is left of them below 1e-9.
        kl + if truth_rest > 1e-9 { truth_rest * (truth_rest / own_rest.max(1e-9)).ln() } else { 0.0 }
    };
    assert_eq!(prefix.truth_top8.len(), prefix.ids.len());
    prefix.truth_top8.iter().enumerate().map(kl).sum::<f64>() / prefix.ids.len() as f64
}

struct Paths {
    top5: f64,
    excess_99: f64,
    excess_max: f64,
}

/// All prompts in one chunk each, then the reference paths token by token, all of them side by side.
fn follow_paths(mut runner: Box<dyn Runner>, prompts: &[Prompt]) -> Paths {
    let n = prompts.len();
    let mut batch = Batch::default();
    for (k, p) in prompts.iter().enumerate() {
        batch.push(Role::Prompt, &p.prompt_ids, 0, &blocks(k, n), true);
    }
    let mut active: Vec<usize> = (0..n).collect();
    let (mut top5, mut excess) = (0f64, Vec::new());
    for step in 0.. {
        let logits = runner.step(&batch).unwrap();
        batch.clear();
        for (row, &k) in active.iter().enumerate() {
            let (p, row) = (&prompts[k], logits.row(row));
            let sum = log_sum_exp(row);
            let own = |id: u32| f64::from(row[id as usize]) - sum;
            let reference = p.llama_cpp_greedy_ids[step];
            for &(id, truth) in &p.truth_top5_on_that_path[step] {
                top5 = top5.max((own(id) - truth).abs());
            }
            let best = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max)) - sum;
            let gap = best - own(reference) - p.truth_gap_of_reference[step];
            if gap > 0.1 {
                println!(
                    "  {} step {step}: own best exceeds the reference id by {gap:.3} beyond truth's gap",
                    p.name
                );
            }
            excess.push(gap);
            if step + 1 < p.llama_cpp_greedy_ids.len() {
                batch.push(Role::Generated, &[reference], p.prompt_ids.len() + step, &blocks(k, n), true);
            }
        }
        active.retain(|&k| step + 1 < prompts[k].llama_cpp_greedy_ids.len());
        if active.is_empty() {
            break;
        }
    }
    excess.sort_by(f64::total_cmp);
    // The share of steps that may be beyond the limit, rounded down, is cut off.
    let excess_99 = excess[excess.len() - 1 - excess.len() / 100];
    Paths { top5, excess_99, excess_max: excess[excess.len() - 1] }
}

/// Perplexity of the GPL as llama-perplexity computes it: the second half of each whole window is scored.
fn perplexity(gguf: &Gguf, mut runner: Box<dyn Runner>, golden: &Perplexity) -> f64 {
    let text = fs::read_to_string(common::root().join("tests/data/gpl-3.txt")).unwrap();
    let (ids, bos) = tokenize(gguf, &text);
    assert_eq!(ids.len(), golden.tokens, "tokens of the text");
    let (mut nll, mut scored) = (0.0, 0);
    let mut batch = Batch::default();
    for window in ids.chunks_exact(WINDOW) {
        let mut input = window.to_vec();
        if let Some(bos) = bos {
            input[0] = bos;
        }
        for start in (0..WINDOW).step_by(ROWS) {
            batch.clear();
            batch.push(Role::Prompt, &input[start..start + ROWS], start, &blocks(0, 1), false);
            let wanted = (WINDOW / 2..WINDOW - 1).filter(|p| (start..start + ROWS).contains(p));
            batch.outputs = wanted.map(|p| (p - start) as u32).collect();
            let logits = runner.step(&batch).unwrap();
            for (i, &row) in batch.outputs.iter().enumerate() {
                let (row, next) = (logits.row(i), window[start + row as usize + 1]);
                nll += log_sum_exp(row) - f64::from(row[next as usize]);
                scored += 1;
            }
        }
    }
    assert_eq!(scored, golden.scored, "scored tokens");
    (nll / scored as f64).exp()
}

/// The ids of `text` after the BOS of models that want one, and that BOS.
fn tokenize(gguf: &Gguf, text: &str) -> (Vec<u32>, Option<u32>) {
    let tokenizer = Tokenizer::new(&VocabSpec::from_metadata(gguf.metadata()).unwrap()).unwrap();
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let plain = Encode { special: false, bos: None, eos: Some(false) };
    (tokenizer.encode(text, plain).unwrap(), bos)
}
