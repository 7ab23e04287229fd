//! The CUDA backend kernel by kernel and on whole models, on a GPU or on the emulator: `tests/gpu/ladder` runs this.
#![cfg(feature = "gpu-tests")]

mod common;
#[path = "gpu/feed_forwards.rs"]
mod feed_forwards;
#[path = "gpu/mixers.rs"]
mod mixers;

use common::Random;
use kinfer::step::{Draw, Sampler};
use kinfer::{Device, KvType, LoadOptions, Model};
use kinfer_candle::Candle;
use kinfer_core::backend::{
    AttnWeights, DeltaVectors, ExpertWeights, FfnWeights, Heads, LatentScratch, Matrix, NormWeights, Read,
    RowOrder, Scratch,
};
use kinfer_core::{
    Activation, AttnSpec, Backend, Batch, ConvSpec, DeltaSpec, ExpertGroups, ExpertSpec, FfnSpec, Format,
    HeadSharing, KvTypes, LatentSpec, LayerSpec, Mask, Mixer, ModelSpec, NormKind, NormSpec, Role, RopeSpec,
    Routing, RunnerLimits, Scores,
};
use kinfer_cuda::{Cuda, Options};
use kinfer_models::synthetic::Blocks;
use std::sync::Arc;

const NORM: NormSpec = NormSpec { kind: NormKind::Rms, eps: 1e-6 };

/// A model of one layer, which says how large a step's buffers are.
fn spec(vocab: usize, dim: usize, heads: usize, head_dim: usize, experts: Option<ExpertSpec>) -> ModelSpec {
    let attn = AttnSpec {
        heads,
        kv_heads: 1,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        mask: Mask::Causal,
        window: None,
        softcap: None,
        alibi: None,
        qk_norm: None,
        rope: None,
        norm: NORM,
        gated: false,
        latent: None,
    };
    let ffn = FfnSpec { hidden: 256, gated: true, act: Activation::Silu, norm: NORM, experts };
    ModelSpec {
        arch: "test".into(),
        vocab,
        dim,
        context: 4096,
        embed_scale: 1.0,
        norm: NORM,
        logit_softcap: None,
        ropes: Vec::new(),
        long: None,
        layers: vec![LayerSpec { mixer: Mixer::Attention(attn), ffn, parallel: false, renormed: false }],
        pooling: None,
    }
}

/// A random stored matrix.
struct Stored {
    format: Format,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

impl Stored {
    fn new(format: Format, rows: usize, cols: usize, seed: u64) -> Stored {
        let mut data = vec![0; format.bytes_for(rows * cols).unwrap()];
        Blocks::new(format, 1.0 / (cols as f32).sqrt()).fill(&mut Random::new(seed), &mut data);
        Stored { format, rows, cols, data }
    }

    fn matrix(&self) -> Matrix<'_> {
        let Stored { format, rows, cols, .. } = *self;
        // Of whole matrices, of which two lie in one weight; powers of two, which no order of products rounds.
        let scale = match rows % 2 {
            _ if format != Format::NVFP4 => 1.0,
            0 => 2.0,
            _ => 0.5,
        };
        let order = RowOrder::AsStored;
        Matrix { name: "test", expert: 0, rows, cols, format, data: &self.data, scale, order }
    }
}

/// A batch of rows of one role, token `i` in row `i`.
fn batch(role: Role, rows: usize) -> Batch {
    let tokens: Vec<u32> = (0..rows as u32).collect();
    let blocks: Vec<u32> = (0..rows.div_ceil(32) as u32).collect();
    let mut batch = Batch::default();
    batch.push(role, &tokens, 0, &blocks, true);
    batch
}

fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    error / b.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

/// Room for a block's rows.
fn scratch<B: Backend>(b: &B, rows: usize, dim: usize, attn: usize, hidden: usize) -> Scratch<B> {
    let act = |width| b.act(rows, width).unwrap();
    Scratch {
        x: act(dim),
        norm: act(dim),
        kept: act(1),
        qkv: act(1),
        attn: act(attn),
        proj: act(dim),
        gate_up: act(2 * hidden),
        hidden: act(hidden),
        router: act(1),
        shared: act(1),
        shared_gate: act(1),
        latent: LatentScratch {
            down: act(1),
            q_down: act(1),
            queries: act(1),
            head_in: act(1),
            head_out: act(1),
        },
        last: act(1),
        last_norm: act(1),
        logits: act(1),
    }
}

/// The embedded rows and their product with `weights`, of which the rows are concatenated.
fn embed_and_multiply<B: Backend>(
    b: &B,
    table: &Stored,
    weights: &[Stored],
    role: Role,
    n: usize,
) -> [Vec<f32>; 2] {
    let spec = spec(table.rows, table.cols, 1, 64, None);
    let table = b.weight(&[table.matrix()]).unwrap();
    let weight = b.weight(&weights.iter().map(Stored::matrix).collect::<Vec<_>>()).unwrap();
    let rows = weights.iter().map(|w| w.rows).sum();
    let mut step = b.step(&spec.whole(), n, n.div_ceil(32)).unwrap();
    let (mut x, mut y) = (b.act(n, spec.dim).unwrap(), b.act(n, rows).unwrap());
    b.begin(&mut step, &[], &batch(role, n)).unwrap();
    b.embed(&step, &table, 1.5, &mut x).unwrap();
    b.linear(&step, &weight, &x, &mut y).unwrap();
    [b.read(&mut step, &x).unwrap().to_vec(), b.read(&mut step, &y).unwrap().to_vec()]
}

/// Every format through every product, with sizes that fill no group, no warp and no tile.
#[test]
fn products_and_embeddings_of_every_format() {
    let cuda = common::gpu();
    for format in Format::all() {
        // One-level layouts have units of two blocks: an odd number of blocks leaves half of one empty.
        let cols = match format.block_len() {
            256 => 768,
            64 => 320,
            _ => 224,
        };
        let table = Stored::new(Format::F32, 300, cols, 1);
        let weights = [
            Stored::new(format, 21, cols, 2),
            Stored::new(Format::Q8_0, 9, cols, 3),
            Stored::new(format, 130, cols, 4),
        ];
        let mut alone = Vec::new();
        for (role, n) in [1, 5, 11, 40].map(|n| (Role::Generated, n)).into_iter().chain([(Role::Prompt, 300)])
        {
            let [_, got] = embed_and_multiply(&cuda, &table, &weights, role, n);
            let [_, truth] = embed_and_multiply(&Candle::cpu(), &table, &weights, role, n);
            let error = nmse(&got, &truth);
            println!("{format}: {n} rows, {role:?}: NMSE {error:.1e}");
            assert!(error < 1e-4, "{format}: {n} rows, {role:?}: NMSE {error:.1e}");
            // A generated row has the bits that it has alone.
            match role {
                Role::Generated if n == 1 => alone = got,
                Role::Generated => assert_eq!(got[..alone.len()], alone, "{format}: one of {n} rows"),
                Role::Prompt => {}
            }
        }
        // A row of the table that is looked up has the bits of its definition.
        let table = Stored::new(format, 21, cols, 5);
        let [got, _] = embed_and_multiply(&cuda, &table, &weights, Role::Generated, 21);
        let [truth, _] = embed_and_multiply(&Candle::cpu(), &table, &weights, Role::Generated, 21);
        assert_eq!(got, truth, "{format}: embedding");
    }
}

/// Large products have larger tiles on some GPUs. A matrix of many rows has enough of them for any.
#[test]
fn a_row_has_the_same_bits_in_tiles_of_every_size() {
    let cuda = common::gpu();
    let table = Stored::new(Format::F32, 300, 256, 1);
    let weights = [Stored::new(Format::Q4_K, 8500, 256, 2)];
    let [_, many] = embed_and_multiply(&cuda, &table, &weights, Role::Prompt, 300);
    let [_, few] = embed_and_multiply(&cuda, &table, &weights, Role::Prompt, 100);
    assert!(many[..few.len()] == few);
    let [_, truth] = embed_and_multiply(&Candle::cpu(), &table, &weights, Role::Prompt, 300);
    assert!(nmse(&many, &truth) < 1e-4);
}

/// A batch of two rows, both of which are read, and how their tokens are drawn.
fn drawing(draws: [Draw; 2]) -> Batch {
    let mut batch = batch(Role::Prompt, 2);
    (batch.outputs, batch.draws) = (vec![0, 1], draws.to_vec());
    batch
}

/// From vocabularies that take one to three passes, with logits that are equal, infinite and none.
#[test]
fn tokens_are_drawn_as_by_the_host() {
    let cuda = common::gpu();
    let spec = spec(16, 192, 1, 64, None);
    for vocab in [100, 5003, 270_000] {
        let mut random = Random::new(vocab as u64);
        let mut logits: Vec<f32> = (0..2 * vocab).map(|_| (random.uniform() * 40.0).round() / 4.0).collect();
        (logits[3], logits[vocab + 7]) = (-0.0, f32::NEG_INFINITY);
        let mut step = cuda.step(&spec.whole(), 2, 1).unwrap();
        let mut x = cuda.act(2, vocab).unwrap();
        let mut host = Sampler::new(vocab);
        let mut draw = |logits: &[f32], draws: [Draw; 2]| {
            cuda.begin(&mut step, &[], &drawing(draws)).unwrap();
            cuda.write(&mut step, logits, vocab, &mut x).unwrap();
            match cuda.read_drawn(&mut step, &x).unwrap() {
                Read::Drawn(drawn) => Some(drawn.to_vec()),
                Read::All(all) => {
                    assert_eq!(all, logits);
                    None
                }
            }
        };
        let mut same = |logits: &[f32], draws: [Draw; 2]| {
            let rows = logits.chunks(vocab).zip(&draws);
            let wanted: Vec<_> = rows.map(|(row, d)| host.draw_unchanged(row, d)).collect();
            assert_eq!(draw(logits, draws), Some(wanted.clone()), "{draws:?}");
            wanted
        };
        let mut drawn = std::collections::BTreeSet::new();
        for top_k in [1, 2, 40, 64, 100, 256] {
            for (top_p, min_p) in [(1.0, 0.0), (0.95, 0.05), (0.5, 0.0), (1.0, 0.3), (1e-6, 0.0), (1.0, 1.0)]
            {
                for temperature in [0.8, 1e-30, 30.0] {
                    let draws = [0.0, 1.0 - f64::EPSILON / 2.0].map(|edge| {
                        let unit = match random.bits() {
                            n if n % 5 == 0 => edge,
                            n => (n >> 11) as f64 / (1u64 << 53) as f64,
                        };
                        Draw { temperature, top_k, top_p, min_p, unit }
                    });
                    drawn.extend(same(&logits, draws));
                }
            }
        }
        assert!(drawn.len() > 20, "only {} tokens were drawn", drawn.len());
        // Rows that want different things, and the likeliest alone.
        let usual = Draw { temperature: 1.0, top_k: 40, top_p: 0.9, min_p: 0.0, unit: 0.5 };
        same(&logits, [Draw::GREEDY, usual]);
        same(&logits, [Draw { top_k: 3, ..usual }, usual]);
        same(&logits, [Draw::GREEDY; 2]);
        let zeros: Vec<f32> = (0..2 * vocab).map(|i| if i % 3 == 1 { 0.0 } else { -0.0 }).collect();
        same(&zeros, [Draw::GREEDY, usual]);
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
            let mut logits = logits.clone();
            logits[5] = wrong;
            logits[vocab..].fill(f32::NEG_INFINITY);
            for d in [usual, Draw::GREEDY] {
                let drawn = same(&logits, [d, d]);
                assert!(drawn.iter().all(Result::is_err) && drawn[0] != drawn[1]);
            }
        }
        // More tokens than it finds, and all.
        for top_k in [257, 0] {
            assert_eq!(draw(&logits, [Draw { top_k, ..usual }, usual]), None);
        }
    }
}

/// The last random number with which the host draws the first of two tokens, and the first one with which it does not, tell weights to their last bit.
#[test]
fn weights_of_tokens_are_the_hosts() {
    let cuda = common::gpu();
    let spec = spec(16, 192, 1, 64, None);
    let mut host = Sampler::new(2);
    let mut step = cuda.step(&spec.whole(), 2, 1).unwrap();
    let mut x = cuda.act(2, 2).unwrap();
    for i in 0..100 {
        let row = [3.0, 3.0 - 0.03 * i as f32];
        let draw = |unit| Draw { temperature: 0.7, top_k: 2, top_p: 1.0, min_p: 0.0, unit };
        let (mut first, mut second) = (0u64, 1 << 53);
        let unit = |n: u64| n as f64 / (1u64 << 53) as f64;
        while second - first > 1 {
            let middle = (first + second) / 2;
            match host.draw_unchanged(&row, &draw(unit(middle))) {
                Ok(0) => first = middle,
                _ => second = middle,
            }
        }
        cuda.begin(&mut step, &[], &drawing([first, second].map(|n| draw(unit(n))))).unwrap();
        cuda.write(&mut step, &[row, row].concat(), 2, &mut x).unwrap();
        let Read::Drawn(drawn) = cuda.read_drawn(&mut step, &x).unwrap() else { panic!("all logits") };
        assert_eq!(drawn, [Ok(0), Ok(1)], "{row:?}");
    }
}

/// Norms of rows that one warp takes, several do, and that are wider than a block keeps; of widths that are no multiple of four, too.
#[test]
fn norms_of_narrow_and_wide_rows() {
    fn run<B: Backend>(b: &B, dim: usize) -> Vec<Vec<f32>> {
        let spec = spec(16, dim, 1, 64, None);
        let table = b.weight(&[Stored::new(Format::F32, 16, dim, 1).matrix()]).unwrap();
        let vector = |seed, n| {
            let mut random = Random::new(seed);
            b.vector(&(0..n).map(|_| 0.5 + random.uniform()).collect::<Vec<f32>>()).unwrap()
        };
        let (weight, bias, head) = (vector(2, dim), vector(3, dim), vector(4, dim - 3));
        let (mut x, mut y) = (b.act(3, dim).unwrap(), b.act(3, dim).unwrap());
        let mut step = b.step(&spec.whole(), 3, 2).unwrap();
        let mut batch = Batch::default();
        batch.push(Role::Prompt, &[1, 2], 20, &[1], true);
        batch.push(Role::Generated, &[4], 40, &[0, 1], true);
        b.begin(&mut step, &[], &batch).unwrap();
        b.embed(&step, &table, 20.0, &mut x).unwrap();
        let mut all = Vec::new();
        for (kind, bias) in [(NormKind::Rms, None), (NormKind::Layer, Some(&bias))] {
            b.norm(&step, &x, NormSpec { kind, eps: 1e-5 }, &weight, bias, &mut y).unwrap();
            all.push(b.read(&mut step, &y).unwrap().to_vec());
        }
        b.rms_norm_heads(&step, &mut x, 2..dim - 1, &head, 1e-6).unwrap();
        all.push(b.read(&mut step, &x).unwrap().to_vec());
        all
    }
    for dim in [33, 700, 9001] {
        let cuda = run(&Cuda::new(Options::default()).unwrap(), dim);
        for (got, truth) in cuda.iter().zip(&run(&Candle::cpu(), dim)) {
            let error = nmse(got, truth);
            assert!(got.len() == truth.len() && error < 1e-10, "{dim} columns: NMSE {error:.1e}");
        }
    }
}

/// Every operation on rows, of a width that fills no warp.
#[test]
fn operations_on_rows() {
    const DIM: usize = 200;
    const ROWS: usize = 5;
    fn run<B: Backend>(b: &B) -> Vec<(&'static str, Vec<f32>)> {
        let spec = spec(16, DIM, 1, 64, None);
        let table = b.weight(&[Stored::new(Format::F32, 16, DIM, 1).matrix()]).unwrap();
        let vector = |seed, n| {
            let mut random = Random::new(seed);
            b.vector(&(0..n).map(|_| 0.5 + random.uniform()).collect::<Vec<f32>>()).unwrap()
        };
        let (weight, bias, head) = (vector(2, DIM), vector(3, DIM), vector(4, 40));
        let positions = vector(5, 64 * DIM);
        let act = || b.act(ROWS, DIM).unwrap();
        let (mut x, mut y, mut half) = (act(), act(), b.act(ROWS, DIM / 2).unwrap());
        let mut step = b.step(&spec.whole(), ROWS, 2).unwrap();
        let rope = RopeSpec { inv_freq: (0..16).map(|i| 0.7f32.powi(i)).collect(), magnitude: 1.1 };
        let mut batch = Batch::default();
        batch.push(Role::Prompt, &[1, 2, 3], 20, &[1], true);
        batch.push(Role::Generated, &[4], 40, &[0, 1], true);
        batch.push(Role::Generated, &[5], 7, &[1], false);
        b.begin(&mut step, &[rope], &batch).unwrap();
        let mut all = Vec::new();
        macro_rules! op {
            ($name:literal, $act:ident, $do:expr) => {
                b.embed(&step, &table, 20.0, &mut x).unwrap();
                $do.unwrap();
                all.push(($name, b.read(&mut step, &$act).unwrap().to_vec()));
            };
        }
        let layer = NormSpec { kind: NormKind::Layer, eps: 1e-5 };
        op!("rms norm", y, b.norm(&step, &x, NORM, &weight, None, &mut y));
        op!("layer norm", y, b.norm(&step, &x, layer, &weight, Some(&bias), &mut y));
        op!("norm of heads", x, b.rms_norm_heads(&step, &mut x, 40..160, &head, 1e-6));
        let (each, shift) = (vector(13, 120), vector(14, 120));
        op!(
            "layer norm of heads",
            x,
            b.layer_norm_heads(&step, &mut x, 40..160, 40, &each, Some(&shift), 1e-5)
        );
        op!("layer norm of all", x, b.layer_norm_heads(&step, &mut x, 40..160, 120, &each, None, 1e-5));
        op!("rotary embedding", x, b.rope(&step, &mut x, 40..200, 80, 0));
        op!("bias", x, b.add_bias(&step, &mut x, &bias));
        op!("positions", x, b.add_positions(&step, &positions, &mut x));
        op!("sum", x, b.add(&step, &mut x, &y));
        op!("soft cap", x, b.softcap(&step, &mut x, 3.0));
        op!("gather", y, b.gather(&step, &x, &mut y));
        let one = b.weight(&[Stored::new(Format::F32, 1, DIM, 12).matrix()]).unwrap();
        let mut gate = b.act(ROWS, 1).unwrap();
        op!("gate of rows", x, {
            b.linear(&step, &one, &x, &mut gate).unwrap();
            b.gate_rows(&step, &mut x, &gate)
        });
        op!("gate of columns", half, {
            b.glu(&step, Activation::Silu, &x, &mut half).unwrap();
            b.gate_columns(&step, &mut half, &x, DIM / 2 - 1)
        });
        for act in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::SwigluOai] {
            op!("gate", half, b.glu(&step, act, &x, &mut half));
            op!("activation", x, b.activate(&step, act, &mut x));
        }
        // The end of a block that norms its output, and one that does not.
        for post_norm in [None, Some(vector(6, DIM))] {
            let out = b.weight(&[Stored::new(Format::Q8_0, DIM, 64, 7).matrix()]).unwrap();
            let wide = b.weight(&[Stored::new(Format::F32, 16, 64, 8).matrix()]).unwrap();
            let empty = || b.weight(&[Stored::new(Format::F32, 1, 32, 9).matrix()]).unwrap();
            let post_norm = post_norm.map(|weight| NormWeights { weight, bias: Some(vector(10, DIM)) });
            let weights = AttnWeights {
                norm: None,
                qkv: empty(),
                qkv_bias: None,
                q_norm: None,
                k_norm: None,
                sinks: None,
                latent: None,
                out,
                out_bias: Some(vector(11, DIM)),
                post_norm,
            };
            let mut s = scratch(b, ROWS, DIM, 64, 1);
            b.embed(&step, &table, 2.0, &mut s.x).unwrap();
            b.embed(&step, &wide, 2.0, &mut s.attn).unwrap();
            b.attn_out(&mut step, &spec.whole().attn[0], &weights, &mut s).unwrap();
            all.push(("end of a block", b.read(&mut step, &s.x).unwrap().to_vec()));
        }
        all
    }
    let cuda = run(&common::gpu());
    for ((name, got), (_, truth)) in cuda.into_iter().zip(run(&Candle::cpu())) {
        let error = nmse(&got, &truth);
        let bound = if name == "end of a block" { 1e-4 } else { 1e-10 };
        println!("{name}: NMSE {error:.1e}");
        assert!(got.len() == truth.len() && error < bound, "{name}: NMSE {error:.1e}");
    }
}

/// Two real models choose the CPU backend's tokens; where two are nearly as likely, either.
#[test]
fn whole_models_generate_the_tokens_of_the_cpu() {
    for (file, prompt) in [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "The capital of France is"),
        ("gemma-3-270m-q4_k_m.gguf", "대한민국의 수도는"),
    ] {
        const TOKENS: usize = 32;
        const TIE: f32 = 0.15;
        let load = |device| {
            Model::load(common::model(file), LoadOptions { device, ..LoadOptions::default() }).unwrap()
        };
        let (cpu, cuda) = (load(Device::Cpu), load(Device::Cuda(0)));
        let limits = RunnerLimits {
            rows: 32,
            outputs: 1,
            logits: true,
            blocks: 4,
            states: 1,
            context: 128,
            kv: KvTypes::default(),
        };
        let (mut on_cpu, mut on_cuda) = (cpu.runner(limits).unwrap(), cuda.runner(limits).unwrap());
        let mut tokens = cpu.encode(prompt).unwrap();
        let (mut start, mut equal, mut ties, mut worst) = (0, 0, 0, 0f64);
        let best =
            |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        for _ in 0..TOKENS {
            let mut batch = Batch::default();
            batch.push(Role::Generated, &tokens[start..], start, &[3, 1, 0, 2], true);
            let truth = on_cpu.step(&batch).unwrap().data.to_vec();
            let logits = on_cuda.step(&batch).unwrap().data;
            let (wanted, got) = (best(&truth), best(logits));
            worst = worst.max(nmse(logits, &truth));
            if wanted == got {
                equal += 1;
            } else {
                let gap = truth[wanted] - truth[got];
                assert!(gap < TIE, "{file}: token {} is {got}, not {wanted}, by {gap}", tokens.len());
                ties += 1;
            }
            start = tokens.len();
            tokens.push(wanted as u32);
        }
        println!("{file}: {equal} of {TOKENS} tokens equal, {ties} near-ties; logits NMSE {worst:.1e}");
        // 8-bit activations of the same model in another order of sums: each is as far from the exact logits as from the other.
        assert!(equal >= TOKENS - 4, "{file}: {ties} near-ties");
    }
}

#[test]
fn bounds_are_measured() {
    let bounds = kinfer_cuda::peak(0).unwrap();
    println!("{bounds:?}");
    assert!(bounds.gb_per_s > 0.0 && bounds.int8_gops > 0.0 && bounds.bf16_gops != Some(0.0));
}

#[test]
fn what_a_gpu_cannot_do_is_said() {
    let Err(error) = Cuda::new(Options { ordinal: 7, ..Options::default() }) else {
        panic!("there are eight GPUs")
    };
    assert!(error.to_string().contains("cuda:7"), "{error}");
    let cuda = common::gpu();
    let types = KvTypes { k: KvType::Q4_0, v: KvType::F16 };
    let Err(error) = cuda.kv(&spec(8, 192, 1, 64, None).whole(), 1, 0, types) else { panic!("a q4_0 cache") };
    assert!(error.to_string().contains("f32, f16, bf16 and q8_0"), "{error}");
    let Err(error) = cuda.step(&spec(8, 192, 1, 512, None).whole(), 1, 1) else { panic!("heads of 512") };
    assert!(error.to_string().contains("512"), "{error}");
    let mut spec = spec(8, 192, 1, 64, None);
    let delta = DeltaSpec {
        key_heads: 2,
        value_heads: 4,
        key_dim: 512,
        value_dim: 16,
        sharing: HeadSharing::Turns,
        taps: 4,
        norm: NORM,
    };
    spec.layers[0].mixer = Mixer::DeltaNet(delta);
    let Err(error) = cuda.step(&spec.whole(), 1, 1) else { panic!("wide delta nets") };
    assert!(error.to_string().contains("512 and 16 wide"), "{error}");
    spec.layers[0].mixer = self::spec(8, 192, 1, 700, None).layers.remove(0).mixer;
    spec.layers[0].mixer.attn_mut().unwrap().latent =
        Some(LatentSpec { rank: 640, q_rank: None, plain: 32, value: 32, eps: 1e-6 });
    let Err(error) = cuda.step(&spec.whole(), 1, 1) else { panic!("latents of 700") };
    assert!(error.to_string().contains("up to 640"), "{error}");
}
