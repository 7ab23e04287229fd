//! From a model file to a loaded model: what is read, what is refused, what is released and reported.

mod common;

use common::Random;
use kinfer_candle::Candle;
use kinfer_core::{
    Batch, Draw, Error, Format, KvType, KvTypes, Model, Result, Role, RunnerLimits, dequantize,
};
use kinfer_load::gguf::{Gguf, write::Writer};
use kinfer_models::source::{Source, Stored, Value};
use kinfer_models::synthetic;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

const KV: KvTypes = KvTypes { k: KvType::F32, v: KvType::F32 };
const LIMITS: RunnerLimits =
    RunnerLimits { rows: 8, outputs: 1, logits: true, blocks: 1, states: 1, context: 32, kv: KV };

/// Tensors of a small `llama` file: name, `[rows, cols]` or `[len]`, bytes.
type Tensors = Vec<(String, Vec<u64>, Vec<u8>)>;

fn tensors() -> Tensors {
    let mut random = Random::new(7);
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[u64]| {
        let values = (0..shape.iter().product()).map(|_| random.uniform() / 4.0);
        tensors.push((name.into(), shape.into(), values.flat_map(f32::to_le_bytes).collect()));
    };
    add("token_embd.weight", &[10, 32]);
    add("output.weight", &[10, 32]);
    add("output_norm.weight", &[32]);
    for (part, shape) in [
        ("attn_norm", &[32][..]),
        ("attn_q", &[32, 32]),
        ("attn_k", &[16, 32]),
        ("attn_v", &[16, 32]),
        ("attn_output", &[32, 32]),
        ("ffn_norm", &[32]),
        ("ffn_gate", &[64, 32]),
        ("ffn_up", &[64, 32]),
        ("ffn_down", &[32, 64]),
    ] {
        add(&format!("blk.0.{part}.weight"), shape);
    }
    tensors
}

/// What a tensor of so many bytes is stored in.
fn format(shape: &[u64], data: &[u8]) -> Format {
    let elements = shape.iter().product::<u64>() as usize;
    if data.len() == 4 * elements { Format::F32 } else { Format::NVFP4 }
}

fn gguf(tensors: &Tensors) -> Gguf {
    let mut writer = Writer::default();
    writer.set("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        writer.set(format!("llama.{key}"), value);
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    for (name, shape, data) in tensors {
        let shape: Vec<u64> = shape.iter().rev().copied().collect();
        writer.tensor(name, &shape, format(&shape, data).tensor_type()).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes, tensors.iter().map(|(_, _, data)| data)).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

fn load(tensors: &Tensors) -> Result<Arc<dyn Model>> {
    kinfer_models::load(Candle::cpu(), &gguf(tensors), &mut |_, _| {})
}

fn logits(model: Arc<dyn Model>) -> Vec<f32> {
    let mut batch = Batch::default();
    batch.push(Role::Prompt, &[1, 2, 3, 9, 0], 0, &[0], true);
    model.runner(LIMITS).unwrap().step(&batch).unwrap().data.to_vec()
}

/// Takes a tensor out.
fn take(tensors: &mut Tensors, name: &str) -> (String, Vec<u64>, Vec<u8>) {
    let i = tensors.iter().position(|(n, ..)| n == name).unwrap();
    tensors.remove(i)
}

#[test]
fn one_tensor_for_q_k_and_v_is_the_same_model() {
    let mut fused = tensors();
    let parts = ["q", "k", "v"].map(|p| take(&mut fused, &format!("blk.0.attn_{p}.weight")).2);
    fused.push(("blk.0.attn_qkv.weight".into(), vec![64, 32], parts.concat()));
    let separate = logits(load(&tensors()).unwrap());
    assert!(separate.iter().any(|&v| v != separate[0]));
    assert_eq!(logits(load(&fused).unwrap()), separate);
}

#[test]
fn the_scale_beside_a_matrix_is_multiplied_in() {
    const NAME: &str = "blk.0.ffn_down";
    let data: Vec<u8> = (0..32 * 36).map(|i| (i * 41 % 119) as u8).collect();
    let mut values = vec![0.0; 32 * 64];
    dequantize(Format::NVFP4, &data, &mut values);
    // The file with the matrix in this format, and with the values times `scale`.
    let stored = |others: &[(&str, Vec<u64>, f32)]| {
        let mut all = tensors();
        all.iter_mut().find(|t| t.0 == format!("{NAME}.weight")).unwrap().2 = data.clone();
        for (name, shape, value) in others {
            let count = shape.iter().product::<u64>() as usize;
            all.push((format!("{NAME}.{name}"), shape.clone(), value.to_le_bytes().repeat(count)));
        }
        load(&all)
    };
    let floats = |scale: f32| {
        let mut all = tensors();
        all.iter_mut().find(|t| t.0 == format!("{NAME}.weight")).unwrap().2 =
            values.iter().flat_map(|v| (v * scale).to_le_bytes()).collect();
        logits(load(&all).unwrap())
    };
    assert_eq!(logits(stored(&[]).unwrap()), floats(1.0));
    assert_ne!(floats(0.3), floats(1.0));
    // One for activations, which are not stored in this format here, changes nothing.
    for more in [&[][..], &[("input_scale", vec![1], 7.0)]] {
        let all = [&[("scale", vec![1], 0.3)], more].concat();
        assert_eq!(logits(stored(&all).unwrap()), floats(0.3));
    }
    for (shape, value, says) in [(vec![2], 0.3, "[2]"), (vec![1], f32::NAN, "NaN")] {
        let error = stored(&[("scale", shape, value)]).err().unwrap().to_string();
        assert!(error.contains("blk.0.ffn_down.scale") && error.contains(says), "{error}");
    }
    // Of other formats nobody reads one.
    let mut all = tensors();
    all.push((format!("{NAME}.scale"), vec![1], 1f32.to_le_bytes().to_vec()));
    let error = load(&all).err().unwrap().to_string();
    assert!(error.contains("tensor `blk.0.ffn_down.scale`"), "{error}");
}

#[test]
fn one_bias_for_q_k_and_v_is_the_same_model() {
    let bias = |n: u64, start: usize| -> (Vec<u64>, Vec<u8>) {
        (vec![n], (start..).take(n as usize).flat_map(|i| (i as f32 / 50.0).to_le_bytes()).collect())
    };
    let (mut fused, mut separate) = (tensors(), tensors());
    let (shape, data) = bias(64, 0);
    fused.push(("blk.0.attn_qkv.bias".into(), shape, data));
    for (part, n, start) in [("q", 32, 0), ("k", 16, 32), ("v", 16, 48)] {
        let (shape, data) = bias(n, start);
        separate.push((format!("blk.0.attn_{part}.bias"), shape, data));
    }
    let with_bias = logits(load(&separate).unwrap());
    assert_ne!(with_bias, logits(load(&tensors()).unwrap()));
    assert_eq!(logits(load(&fused).unwrap()), with_bias);
}

#[test]
fn without_a_head_the_embedding_is_it() {
    let (mut tied, mut copied) = (tensors(), tensors());
    take(&mut tied, "output.weight");
    let embed = tied[0].2.clone();
    copied.iter_mut().find(|(n, ..)| n == "output.weight").unwrap().2 = embed;
    let (tied, copied) = (load(&tied).unwrap(), load(&copied).unwrap());
    assert_eq!(tied.bytes_per_token(), copied.bytes_per_token());
    assert_eq!(tied.weight_bytes() + 4 * 10 * 32, copied.weight_bytes());
    assert_eq!(logits(tied), logits(copied));
}

/// Models of random weights are sane: they load, and activations stay in range.
#[test]
fn synthetic_models_compute() {
    for quant in synthetic::quants() {
        let model: synthetic::Synthetic = format!("tiny:{quant}").parse().unwrap();
        let mut file = Vec::new();
        model.write(&mut file, |_| Ok(())).unwrap();
        let gguf = Gguf::from_bytes(file).unwrap();
        let logits = logits(kinfer_models::load(Candle::cpu(), &gguf, &mut |_, _| {}).unwrap());
        let rms = (logits.iter().map(|v| v * v).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((0.3..3.0).contains(&rms), "{quant}: root mean square of the logits {rms}");
    }
}

#[test]
fn missing_misshapen_and_unknown_tensors_are_named() {
    let mut missing = tensors();
    take(&mut missing, "blk.0.ffn_up.weight");
    let error = load(&missing).err().unwrap();
    assert!(matches!(&error, Error::MissingTensor { name, .. } if name == "blk.0.ffn_up.weight"), "{error}");

    let mut misshapen = tensors();
    misshapen.iter_mut().find(|(n, ..)| n == "blk.0.attn_k.weight").unwrap().1 = vec![32, 16];
    let error = load(&misshapen).err().unwrap().to_string();
    assert!(["blk.0.attn_k.weight", "[16, 32]", "[32, 16]"].iter().all(|p| error.contains(p)), "{error}");

    let mut unknown = tensors();
    unknown.push(("blk.0.attn_sinks.weight".into(), vec![4], vec![0; 16]));
    let error = load(&unknown).err().unwrap();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("attn_sinks")), "{error}");
}

#[test]
fn the_plan_is_what_loading_takes() {
    for tied in [false, true] {
        let mut tensors = tensors();
        if tied {
            take(&mut tensors, "output.weight");
        }
        let plan = kinfer_models::plan(&Candle::cpu(), &gguf(&tensors), &LIMITS).unwrap();
        let model = load(&tensors).unwrap();
        assert_eq!(plan.weights, model.weight_bytes());
        assert_eq!(vec![plan.clone()], model.memory(&LIMITS));
        assert_eq!(plan.kv, 2 * 32 * 16 * 4);
        assert_eq!(plan.total(), plan.weights + plan.kv + plan.scratch);
    }
}

/// A file that remembers which tensors were released.
struct Watched {
    gguf: Gguf,
    released: RefCell<Vec<String>>,
}

impl Source for Watched {
    fn value(&self, key: &str) -> Option<Value<'_>> {
        self.gguf.value(key)
    }
    fn keys(&self) -> Vec<&str> {
        self.gguf.keys()
    }
    fn tensors(&self) -> Vec<&str> {
        Source::tensors(&self.gguf)
    }
    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>> {
        let released = self.released.borrow();
        assert!(!released.iter().any(|n| n == name), "`{name}` is read after its release");
        Source::tensor(&self.gguf, name)
    }
    fn release(&self, name: &str) {
        self.released.borrow_mut().push(name.into());
    }
}

#[test]
fn every_matrix_is_released_and_progress_ends_at_the_total() {
    let tensors = tensors();
    let source = Watched { gguf: gguf(&tensors), released: RefCell::default() };
    let mut steps = Vec::new();
    kinfer_models::load(Candle::cpu(), &source, &mut |done, total| steps.push((done, total))).unwrap();
    let matrices: BTreeSet<String> =
        tensors.iter().filter(|(_, shape, _)| shape.len() == 2).map(|(n, ..)| n.clone()).collect();
    // Each matrix once it is packed, and at the end all tensors, whose pages small ones may have brought back.
    let released = source.released.into_inner();
    let (packed, all) = released.split_at(matrices.len());
    assert_eq!(packed.iter().cloned().collect::<BTreeSet<_>>(), matrices);
    assert_eq!(all.iter().collect::<BTreeSet<_>>(), tensors.iter().map(|(n, ..)| n).collect());
    let total: u64 = tensors.iter().map(|(_, _, data)| data.len() as u64).sum();
    assert!(steps.is_sorted() && steps.iter().all(|&(done, all)| done <= all && all == total), "{steps:?}");
    assert_eq!(steps.last(), Some(&(total, total)));
}

#[test]
fn a_step_beyond_the_limits_is_refused_and_the_next_one_works() {
    let model = load(&tensors()).unwrap();
    let expected = logits(model.clone());
    let mut runner = model.runner(LIMITS).unwrap();
    for (draws, what) in [
        (vec![Draw { temperature: -1.0, ..Draw::GREEDY }], "not in their ranges"),
        (vec![Draw { unit: 1.0, ..Draw::GREEDY }], "not in their ranges"),
        (vec![Draw { top_p: f32::NAN, ..Draw::GREEDY }], "not in their ranges"),
        (vec![Draw::GREEDY; 2], "2 draws from 1 output rows"),
    ] {
        let mut batch = Batch { draws, ..Batch::default() };
        batch.push(Role::Prompt, &[1], 0, &[0], true);
        let error = runner.step(&batch).unwrap_err();
        assert!(matches!(&error, Error::Batch(m) if m.contains(what)), "{error}");
    }
    let mut step = |tokens: &[u32], start: usize, blocks: &[u32]| {
        let mut batch = Batch::default();
        batch.push(Role::Prompt, tokens, start, blocks, true);
        runner.step(&batch).map(|l| l.data.to_vec())
    };
    for (tokens, start, blocks, what) in [
        (&[1; 9][..], 0, &[0][..], "9 rows"),
        (&[10], 0, &[0], "token id 10"),
        (&[1], 0, &[1], "block id 1"),
        (&[1], 32, &[0], "needs 2"),
        (&[1], usize::MAX, &[0], "needs"),
        (&[], 0, &[0], "0 rows"),
    ] {
        let error = step(tokens, start, blocks).unwrap_err();
        assert!(matches!(&error, Error::Batch(m) if m.contains(what)), "{error}");
    }
    assert_eq!(step(&[1, 2, 3, 9, 0], 0, &[0]).unwrap(), expected);
}
