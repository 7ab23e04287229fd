//! Small random models of every shape that a spec can have, for the backend suite.
#![allow(dead_code)] // each test binary uses a part

use crate::common::Random;
use kinfer_core::{
    Activation, AttnSpec, Backend, ConvSpec, DeltaSpec, DeviceMemory, ExpertSpec, FfnSpec, Format,
    HeadSharing, LatentSpec, LayerSpec, Mask, Mixer, Model, ModelSpec, NormKind, NormSpec, QkNorm, RopeSpec,
    Routing, RunnerLimits, Scores, dequantize,
};
use kinfer_load::gguf::{Gguf, write::Writer};
use kinfer_models::arch::{Blueprint, Names, QkRows};
use kinfer_models::synthetic::Blocks;
use kinfer_models::{Place, Placement};
use std::sync::Arc;

/// Width of everything that a weight's rows run along: one block of the largest format.
const DIM: usize = 256;

/// Channels of a convolution: neither the width of the residual stream nor whole vectors.
const CHANNELS: usize = 320;

/// A random model with its file.
pub struct Toy {
    pub name: String,
    blueprint: Blueprint,
    gguf: Gguf,
}

impl Toy {
    /// The model on a backend.
    pub fn load<B: Backend>(&self, backend: B) -> Arc<dyn Model> {
        kinfer_models::build(backend, self.blueprint.clone(), &self.gguf, &mut |_, _| {}).unwrap()
    }

    /// What the model would take on a backend, by its metadata.
    pub fn plan<B: Backend>(&self, backend: B, limits: &RunnerLimits) -> DeviceMemory {
        let places = [Place::new(backend)];
        let placement = Placement::whole(self.blueprint.spec.layers.len());
        kinfer_models::plan_parts(&places, &placement, &self.blueprint, &self.gguf, limits).unwrap().remove(0)
    }

    /// The model on two devices, which take turns with its blocks.
    pub fn divide<B: Backend>(&self, first: B, second: B) -> Arc<dyn Model> {
        let layer = |(i, spec): (usize, &LayerSpec)| [i % 2, (i + usize::from(!spec.parallel)) % 2];
        let layers = self.blueprint.spec.layers.iter().enumerate().map(layer).collect();
        let placement = Placement { embed: 1, layers, head: 0 };
        let places = vec![Place::new(first), Place::new(second)];
        kinfer_models::build_parts(places, &placement, self.blueprint.clone(), &self.gguf, &mut |_, _| {})
            .unwrap()
    }

    /// The values of a tensor.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let tensor = self.gguf.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.elements() as usize];
        dequantize(tensor.format().unwrap(), tensor.data(), &mut values);
        values
    }
}

/// A mixture of experts whose first layer reads nothing but embeddings: its blocks are parallel.
pub fn parallel_experts() -> Toy {
    let routing = Routing { used: 2, scores: Scores::Softmax, renormalise: false, scale: 1.0, groups: None };
    let experts = Some(ExpertSpec { count: 5, routing, shared: None });
    Shape { name: "parallel experts", experts, parallel: true, ..Shape::default() }.build(&[Format::F32])
}

/// One model per feature of the specs; with `KINFER_FEW_TOYS` set only the first, whose weights are K-quants: all that the emulator of a
/// GPU with a planted mistake has kernels for. `KINFER_TOYS` leaves those whose names contain it.
pub fn features() -> Vec<Toy> {
    let legacy = [Format::Q8_0, Format::Q4_1, Format::Q5_0];
    let k_quants = [Format::Q4_K, Format::Q6_K, Format::Q5_K];
    let mut toys = vec![
        Shape { name: "grouped queries", ..Shape::default() }.build(&k_quants),
        Shape { name: "one head", heads: 1, kv_heads: 1, head_dim: 256, ..Shape::default() }.build(&legacy),
        Shape {
            name: "narrow heads, odd vocabulary",
            heads: 9,
            kv_heads: 3,
            head_dim: 32,
            vocab: 101,
            ..Shape::default()
        }
        .build(&legacy),
        Shape { name: "window", window: Some(40), ..Shape::default() }.build(&k_quants),
        Shape { name: "window of one block", window: Some(32), ..Shape::default() }.build(&legacy),
        Shape { name: "soft caps", softcap: Some(2.0), logit_softcap: Some(3.0), ..Shape::default() }
            .build(&k_quants),
        Shape { name: "biases", bias: true, ..Shape::default() }.build(&k_quants),
        Shape { name: "turned in part", rope_dim: 32, ..Shape::default() }.build(&k_quants),
        Shape { name: "a layer without positions", unturned_layer: true, ..Shape::default() }
            .build(&k_quants),
        Shape {
            name: "gemma",
            kv_heads: 1,
            window: Some(40),
            act: Activation::GeluTanh,
            embed_scale: 16.0,
            norms: true,
            qk_norm: Some(QkNorm::Heads),
            tied: true,
            pairs: false,
            ..Shape::default()
        }
        .build(&[Format::Q8_0, Format::Q5_0, Format::Q4_K]),
    ];
    let experts = ExpertSpec {
        count: 5,
        // All of them: which are chosen is no matter of rounding then.
        routing: Routing { used: 5, scores: Scores::Softmax, renormalise: true, scale: 1.0, groups: None },
        shared: None,
    };
    toys.extend([
        Shape { name: "scales of matrices", bias: true, ..Shape::default() }.build(&[Format::NVFP4]),
        Shape { name: "scales of experts", experts: Some(experts), ..Shape::default() }
            .build(&[Format::NVFP4]),
        Shape {
            name: "post-norms only",
            norms: true,
            qk_norm: Some(QkNorm::Rows),
            pre_norms: false,
            ..Shape::default()
        }
        .build(&legacy),
        Shape {
            name: "layer norms, no gate, parallel blocks",
            norm: NormKind::Layer,
            bias: true,
            gated: false,
            act: Activation::Gelu,
            parallel: true,
            rope_dim: 32,
            ..Shape::default()
        }
        .build(&k_quants),
        Shape {
            name: "learned positions",
            norm: NormKind::Layer,
            gated: false,
            act: Activation::GeluTanh,
            positions: true,
            ..Shape::default()
        }
        .build(&legacy),
        Shape {
            name: "experts",
            experts: Some(ExpertSpec {
                count: 5,
                routing: Routing {
                    used: 2,
                    scores: Scores::Softmax,
                    renormalise: false,
                    scale: 1.0,
                    groups: None,
                },
                shared: None,
            }),
            ..Shape::default()
        }
        .build(&k_quants),
        Shape {
            name: "a shared expert, biases, sinks",
            // All of them are used: a row near a tie would go to another one, by rounding, and differ by far more than that.
            experts: Some(ExpertSpec {
                count: 5,
                routing: Routing {
                    used: 5,
                    scores: Scores::Sigmoid,
                    renormalise: true,
                    scale: 2.5,
                    groups: None,
                },
                shared: Some(256),
            }),
            act: Activation::SwigluOai,
            sinks: true,
            bias: true,
            window: Some(40),
            ..Shape::default()
        }
        .build(&k_quants),
    ]);
    let convolution = |name, taps, parallel| Shape { name, taps: Some(taps), parallel, ..Shape::default() };
    toys.push(convolution("convolutions of 3 taps", 3, false).build(&k_quants));
    toys.push(convolution("convolutions of 32 taps", 32, false).build(&[Format::Q8_0, Format::Q5_0]));
    toys.push(convolution("parallel convolutions", 2, true).build(&[Format::Q8_0]));
    let norms = |name, qk_norm| Shape { name, qk_norm: Some(qk_norm), alibi: true, ..Shape::default() };
    toys.push(norms("linear biases, layer norms of heads", QkNorm::LayerHeads).build(&k_quants));
    let narrow =
        Shape { head_dim: 32, heads: 6, kv_heads: 6, ..norms("layer norms of all heads", QkNorm::LayerRows) };
    toys.push(narrow.build(&[Format::Q8_0]));
    for (name, q_rank) in [("latent keys and values", None), ("latent queries, too", Some(128))] {
        let latent = Some(LatentSpec { rank: 256, q_rank, plain: 64, value: 32, eps: 1e-6 });
        let shape = Shape {
            name,
            kv_heads: 1,
            head_dim: 288,
            rope_dim: 32,
            latent,
            pairs: false,
            ..Shape::default()
        };
        toys.push(shape.build(&[Format::Q8_0, Format::Q4_0]));
    }
    // Value heads of whole vectors; and others, with weights that add no rounding to the activations'.
    let delta = |sharing, key_heads, value_dim, taps| DeltaSpec {
        key_heads,
        value_heads: 4,
        key_dim: 24,
        value_dim,
        sharing,
        taps,
        norm: NormSpec { kind: NormKind::Rms, eps: 1e-6 },
    };
    let net = |name, delta| Shape {
        name,
        delta: Some(delta),
        gated_attn: true,
        rope_dim: 32,
        pairs: false,
        ..Shape::default()
    };
    toys.push(net("delta nets", delta(HeadSharing::Turns, 2, 64, 4)).build(&k_quants));
    toys.push(
        net("delta nets of neighbours", delta(HeadSharing::Neighbours, 1, 40, 2)).build(&[Format::F16]),
    );
    if std::env::var_os("KINFER_FEW_TOYS").is_some() {
        toys.truncate(1);
    }
    if let Ok(part) = std::env::var("KINFER_TOYS") {
        toys.retain(|toy| toy.name.contains(&part));
    }
    toys
}

/// Some of them, with formats of all kinds.
pub fn some() -> Vec<Toy> {
    features().into_iter().take(3).collect()
}

/// Those, one that has formats of each arithmetic side by side, and one per stored format.
pub fn all() -> Vec<Toy> {
    let mut toys = features();
    let formats = [Format::BF16, Format::Q8_0, Format::F32, Format::Q4_0, Format::F16];
    toys.push(Shape { name: "floats among blocks", ..Shape::default() }.build(&formats));
    toys.extend(Format::all().map(|f| Shape { name: f.name(), ..Shape::default() }.build(&[f])));
    toys
}

/// What a toy varies.
struct Shape {
    name: &'static str,
    vocab: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    /// Of the even layers.
    window: Option<usize>,
    softcap: Option<f32>,
    /// Linear biases.
    alibi: bool,
    logit_softcap: Option<f32>,
    act: Activation,
    embed_scale: f32,
    bias: bool,
    /// Norms of the blocks' outputs.
    norms: bool,
    norm: NormKind,
    qk_norm: Option<QkNorm>,
    /// Norms before the blocks.
    pre_norms: bool,
    gated: bool,
    parallel: bool,
    /// Learned ones.
    positions: bool,
    experts: Option<ExpertSpec>,
    sinks: bool,
    latent: Option<LatentSpec>,
    /// Of the even layers, which are convolutions then.
    taps: Option<usize>,
    /// Of the even layers, which are delta nets then.
    delta: Option<DeltaSpec>,
    /// Attention's output has a gate.
    gated_attn: bool,
    tied: bool,
    /// Rows of queries and keys stored as adjacent pairs.
    pairs: bool,
    /// The last layer has no rotary embedding.
    unturned_layer: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            name: "",
            vocab: 96,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            rope_dim: 0,
            window: None,
            softcap: None,
            alibi: false,
            logit_softcap: None,
            act: Activation::Silu,
            embed_scale: 1.0,
            bias: false,
            norms: false,
            norm: NormKind::Rms,
            qk_norm: None,
            pre_norms: true,
            gated: true,
            parallel: false,
            positions: false,
            experts: None,
            sinks: false,
            latent: None,
            taps: None,
            delta: None,
            gated_attn: false,
            tied: false,
            pairs: true,
            unturned_layer: false,
        }
    }
}

impl Shape {
    fn build(self, formats: &[Format]) -> Toy {
        const LAYERS: usize = 3;
        let rope_dim = if self.rope_dim == 0 { self.head_dim } else { self.rope_dim };
        let rope = |base: f32, magnitude| RopeSpec {
            inv_freq: (0..rope_dim / 2).map(|i| base.powf(-2.0 * i as f32 / rope_dim as f32)).collect(),
            magnitude,
        };
        let conv = |taps| ConvSpec { width: CHANNELS, taps, norm: NormSpec { kind: self.norm, eps: 1e-6 } };
        let even = |i: usize| i.is_multiple_of(2);
        let mixer = |i: usize| match (self.taps.filter(|_| even(i)), self.delta.filter(|_| even(i))) {
            (Some(taps), _) => Mixer::Convolution(conv(taps)),
            (None, Some(delta)) => Mixer::DeltaNet(delta),
            (None, None) => Mixer::Attention(AttnSpec {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                scale: 1.0 / (self.head_dim as f32).sqrt(),
                mask: Mask::Causal,
                window: self.window.filter(|_| i.is_multiple_of(2)),
                softcap: self.softcap,
                alibi: self.alibi.then(|| (0..self.heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect()),
                qk_norm: self.qk_norm,
                rope: (!self.unturned_layer || i + 1 < LAYERS).then_some(i % 2),
                norm: NormSpec { kind: self.norm, eps: 1e-6 },
                gated: self.gated_attn,
                latent: self.latent,
            }),
        };
        let layer = |i: usize| LayerSpec {
            mixer: mixer(i),
            ffn: FfnSpec {
                hidden: 512,
                gated: self.gated,
                act: self.act,
                norm: NormSpec { kind: self.norm, eps: 1e-6 },
                experts: self.experts,
            },
            parallel: self.parallel,
            renormed: false,
        };
        let spec = ModelSpec {
            arch: "toy".into(),
            vocab: self.vocab,
            dim: DIM,
            context: 1024,
            embed_scale: self.embed_scale,
            norm: NormSpec { kind: self.norm, eps: 1e-5 },
            logit_softcap: self.logit_softcap,
            ropes: vec![rope(10_000.0, 1.0), rope(500.0, 1.1)],
            long: None,
            layers: (0..LAYERS).map(layer).collect(),
            pooling: None,
        };
        let names = Names {
            qk_rows: if self.pairs { QkRows::Pairs { turned: rope_dim } } else { QkRows::Halves },
            positions: self.positions.then_some("position_embd"),
            attn_norm: self.pre_norms.then_some("attn_norm"),
            ffn_norm: self.pre_norms.then_some("ffn_norm"),
            attn_sinks: self.sinks.then_some("attn_sinks"),
            attn_post_norm: self.norms.then_some("post_attention_norm"),
            ffn_post_norm: self.norms.then_some("post_ffw_norm"),
            ..Names::GGUF
        };
        let name =
            format!("{} ({})", self.name, formats.iter().map(|f| f.name()).collect::<Vec<_>>().join(" "));
        let gguf = self.file(&spec, &names, formats);
        Toy { name, blueprint: Blueprint { spec, names, logit_scale: 1.0, post_norm_scale: 1.0 }, gguf }
    }

    fn file(&self, spec: &ModelSpec, names: &Names, formats: &[Format]) -> Gguf {
        let mut file = File { writer: Writer::default(), data: Vec::new(), random: Random::new(1), formats };
        let layer_norms = self.norm == NormKind::Layer;
        let norm = |file: &mut File, name: &str| {
            file.vector(&format!("{name}.weight"), DIM, 1.0);
            if layer_norms && self.bias {
                file.vector(&format!("{name}.bias"), DIM, 0.0);
            }
        };
        let product = |file: &mut File, name: &str, rows, cols, gain| {
            file.matrix(&format!("{name}.weight"), rows, cols, gain);
            if self.bias {
                file.vector(&format!("{name}.bias"), rows, 0.0);
            }
        };
        file.matrix("token_embd.weight", spec.vocab, DIM, 1.0);
        if let Some(name) = names.positions {
            file.matrix(&format!("{name}.weight"), spec.context, DIM, 1.0);
        }
        if !self.tied {
            product(&mut file, names.head, spec.vocab, DIM, 1.0);
        }
        norm(&mut file, names.norm);
        for (i, LayerSpec { mixer, ffn, .. }) in spec.layers.iter().enumerate() {
            let name = |part: &str| format!("blk.{i}.{part}");
            for part in [names.attn_norm, names.ffn_norm, names.attn_post_norm, names.ffn_post_norm] {
                part.iter().for_each(|part| norm(&mut file, &name(part)));
            }
            match mixer {
                Mixer::Convolution(conv) => {
                    file.vectors(&format!("{}.weight", name("shortconv.conv")), conv.width, conv.taps);
                    product(&mut file, &name("shortconv.in_proj"), 3 * conv.width, DIM, 1.5);
                    product(&mut file, &name("shortconv.out_proj"), DIM, conv.width, 1.0);
                }
                Mixer::DeltaNet(delta) => {
                    let (heads, channels, values) = (delta.value_heads, delta.channels(), delta.all_values());
                    product(&mut file, &name("attn_qkv"), channels, DIM, 1.5);
                    product(&mut file, &name("attn_gate"), values, DIM, 1.5);
                    match delta.sharing {
                        HeadSharing::Neighbours => product(&mut file, &name("ssm_ba"), 2 * heads, DIM, 1.5),
                        HeadSharing::Turns => ["ssm_beta", "ssm_alpha"]
                            .iter()
                            .for_each(|part| product(&mut file, &name(part), heads, DIM, 1.5)),
                    }
                    file.vectors(&format!("{}.weight", name("ssm_conv1d")), channels, delta.taps);
                    file.vector(&name("ssm_a"), heads, -0.5);
                    file.vector(&format!("{}.bias", name("ssm_dt")), heads, 0.0);
                    file.vector(&format!("{}.weight", name("ssm_norm")), delta.value_dim, 1.0);
                    product(&mut file, &name("ssm_out"), DIM, values, 1.0);
                }
                Mixer::Attention(attn) => {
                    for (part, heads) in [("attn_q_norm", attn.heads), ("attn_k_norm", attn.kv_heads)] {
                        let (all, weight) = (heads * attn.head_dim, format!("{}.weight", name(part)));
                        match attn.qk_norm {
                            Some(QkNorm::Heads) => file.vector(&weight, attn.head_dim, 1.0),
                            Some(QkNorm::Rows) => file.vector(&weight, all, 1.0),
                            Some(QkNorm::LayerHeads) => file.vectors(&weight, heads, attn.head_dim),
                            Some(QkNorm::LayerRows) => {
                                file.vector(&weight, all, 1.0);
                                file.vector(&format!("{}.bias", name(part)), all, 0.0);
                            }
                            None => {}
                        }
                    }
                    if let Some(latent) = attn.latent {
                        let q = if latent.q_rank.is_some() { "attn_q_a" } else { "attn_q" };
                        product(&mut file, &name(q), attn.projection_dim() - attn.head_dim, DIM, 1.5);
                        if let Some(rank) = latent.q_rank {
                            file.vector(&format!("{}.weight", name("attn_q_a_norm")), rank, 1.0);
                            product(&mut file, &name("attn_q_b"), attn.projected_q_dim(), rank, 1.5);
                        }
                        product(&mut file, &name("attn_kv_a_mqa"), attn.head_dim, DIM, 1.5);
                        file.vector(&format!("{}.weight", name("attn_kv_a_norm")), latent.rank, 1.0);
                        let (k, v) =
                            (format!("{}.weight", name("attn_k_b")), format!("{}.weight", name("attn_v_b")));
                        file.stack(&k, attn.heads, latent.rank, latent.plain);
                        file.stack(&v, attn.heads, latent.value, latent.rank);
                    } else {
                        let gate = if attn.gated { attn.q_dim() } else { 0 };
                        let rows = [attn.q_dim() + gate, attn.kv_dim(), attn.kv_dim()];
                        for (part, rows) in names.qkv.into_iter().zip(rows) {
                            product(&mut file, &name(part), rows, DIM, 1.5);
                        }
                    }
                    product(&mut file, &name(names.attn_out), DIM, attn.out_dim(), 1.0);
                    if let Some(part) = names.attn_sinks {
                        file.vector(&format!("{}.weight", name(part)), attn.heads, 1.0);
                    }
                }
            }
            if let Some(experts) = ffn.experts {
                let matrices =
                    |hidden| [("ffn_gate", hidden, DIM), ("ffn_up", hidden, DIM), ("ffn_down", DIM, hidden)];
                product(&mut file, &name("ffn_gate_inp"), experts.count, DIM, 1.0);
                for (part, rows, cols) in matrices(ffn.hidden) {
                    file.stack(&format!("{}_exps.weight", name(part)), experts.count, rows, cols);
                    if self.bias {
                        file.vectors(&format!("{}_exps.bias", name(part)), experts.count, rows);
                    }
                }
                let Some(hidden) = experts.shared else { continue };
                file.vector(&format!("{}.bias", name("exp_probs_b")), experts.count, 0.0);
                file.vector(&format!("{}.weight", name("ffn_gate_inp_shexp")), DIM, 0.0);
                for (part, rows, cols) in matrices(hidden) {
                    file.matrix(&format!("{}_shexp.weight", name(part)), rows, cols, 1.0);
                }
                continue;
            }
            let up = if ffn.gated { &names.gate_up[..] } else { &names.gate_up[1..] };
            up.iter().for_each(|part| product(&mut file, &name(part), ffn.hidden, DIM, 1.0));
            product(&mut file, &name(names.down), DIM, ffn.hidden, 1.0);
        }
        file.finish()
    }
}

/// A file that grows by random tensors.
struct File<'a> {
    writer: Writer,
    data: Vec<Vec<u8>>,
    random: Random,
    /// Matrices take these in turn.
    formats: &'a [Format],
}

impl File<'_> {
    /// `[rows, cols]` with a root mean square of `gain / sqrt(cols)`. A row that is no multiple of the format's block
    /// is stored as F16.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize, gain: f32) {
        self.tensor(name, &[cols as u64, rows as u64], gain);
    }

    /// `count` such matrices in one tensor.
    fn stack(&mut self, name: &str, count: usize, rows: usize, cols: usize) {
        self.tensor(name, &[cols as u64, rows as u64, count as u64], 1.0);
    }

    fn tensor(&mut self, name: &str, dims: &[u64], gain: f32) {
        let (cols, elements) = (dims[0] as usize, dims.iter().product::<u64>() as usize);
        let format = self.formats[self.data.len() % self.formats.len()];
        let format = if cols.is_multiple_of(format.block_len()) { format } else { Format::F16 };
        self.writer.tensor(name, dims, format.tensor_type()).unwrap();
        let mut data = vec![0; format.bytes_for(elements).unwrap()];
        let (base, rms) = (name.trim_end_matches(".weight"), gain / (cols as f32).sqrt());
        // Numbers of the size that checkpoints in NVFP4 have.
        let scale = if format == Format::NVFP4 { 3e-4 } else { 1.0 };
        Blocks::new(format, rms / scale).fill(&mut self.random, &mut data);
        self.data.push(data);
        if scale != 1.0 {
            let count = dims.get(2).copied().unwrap_or(1);
            let values = (0..count).flat_map(|i| (scale * (1.0 + 0.1 * i as f32)).to_le_bytes());
            self.writer.tensor(format!("{base}.scale"), &[count], Format::F32.tensor_type()).unwrap();
            self.data.push(values.collect());
        }
    }

    /// `[len]` of F32 around `mean`.
    fn vector(&mut self, name: &str, len: usize, mean: f32) {
        self.writer.tensor(name, &[len as u64], Format::F32.tensor_type()).unwrap();
        let values = (0..len).flat_map(|_| (mean + 0.3 * self.random.uniform()).to_le_bytes());
        self.data.push(values.collect());
    }

    /// `[count, len]` of F32 around 0.
    fn vectors(&mut self, name: &str, count: usize, len: usize) {
        self.writer.tensor(name, &[len as u64, count as u64], Format::F32.tensor_type()).unwrap();
        let values = (0..count * len).flat_map(|_| (0.3 * self.random.uniform()).to_le_bytes());
        self.data.push(values.collect());
    }

    fn finish(self) -> Gguf {
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, &self.data).unwrap();
        Gguf::from_bytes(bytes).unwrap()
    }
}
