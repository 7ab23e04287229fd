//! Small random models of every shape that a spec can have, for the backend suite.

use crate::common::Random;
use kinfer_core::{
    Activation, AttnSpec, Backend, FfnSpec, Format, LayerSpec, Model, ModelSpec, RopeSpec, dequantize,
};
use kinfer_load::gguf::{Gguf, write::Writer};
use kinfer_models::arch::{Blueprint, Names, QkRows};
use std::sync::Arc;

/// Width of everything that a weight's rows run along: one block of the largest format.
const DIM: usize = 256;

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
}

/// One model per feature of the specs, then one per stored format.
pub fn all() -> Vec<Toy> {
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
            tied: true,
            pairs: false,
            ..Shape::default()
        }
        .build(&[Format::Q8_0, Format::Q5_0, Format::Q4_K]),
    ];
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
    logit_softcap: Option<f32>,
    act: Activation,
    embed_scale: f32,
    bias: bool,
    /// q, k and post norms.
    norms: bool,
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
            logit_softcap: None,
            act: Activation::Silu,
            embed_scale: 1.0,
            bias: false,
            norms: false,
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
        let layer = |i: usize| LayerSpec {
            attn: AttnSpec {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                scale: 1.0 / (self.head_dim as f32).sqrt(),
                window: self.window.filter(|_| i.is_multiple_of(2)),
                softcap: self.softcap,
                rope: (!self.unturned_layer || i + 1 < LAYERS).then_some(i % 2),
                norm_eps: 1e-6,
            },
            ffn: FfnSpec { hidden: 512, act: self.act, norm_eps: 1e-6 },
        };
        let spec = ModelSpec {
            arch: "toy".into(),
            vocab: self.vocab,
            dim: DIM,
            context: 1024,
            embed_scale: self.embed_scale,
            norm_eps: 1e-5,
            logit_softcap: self.logit_softcap,
            ropes: vec![rope(10_000.0, 1.0), rope(500.0, 1.1)],
            layers: (0..LAYERS).map(layer).collect(),
        };
        let names = Names {
            qk_rows: if self.pairs { QkRows::Pairs } else { QkRows::Halves },
            qk_norm: self.norms.then_some(["attn_q_norm", "attn_k_norm"]),
            attn_post_norm: self.norms.then_some("post_attention_norm"),
            ffn_post_norm: self.norms.then_some("post_ffw_norm"),
            ..Names::GGUF
        };
        let name =
            format!("{} ({})", self.name, formats.iter().map(|f| f.name()).collect::<Vec<_>>().join(" "));
        let gguf = self.file(&spec, &names, formats);
        Toy { name, blueprint: Blueprint { spec, names }, gguf }
    }

    fn file(&self, spec: &ModelSpec, names: &Names, formats: &[Format]) -> Gguf {
        let mut file = File { writer: Writer::default(), data: Vec::new(), random: Random(1), formats };
        file.matrix(names.embed, spec.vocab, DIM, 1.0);
        if !self.tied {
            file.matrix(names.head, spec.vocab, DIM, 1.0);
        }
        file.vector(names.norm, DIM, 1.0);
        for (i, LayerSpec { attn, ffn }) in spec.layers.iter().enumerate() {
            let weight = |part: &str| format!("blk.{i}.{part}.weight");
            let bias = |part: &str| format!("blk.{i}.{part}.bias");
            for norm in
                [Some(names.attn_norm), Some(names.ffn_norm), names.attn_post_norm, names.ffn_post_norm]
            {
                norm.iter().for_each(|n| file.vector(&weight(n), DIM, 1.0));
            }
            names.qk_norm.iter().flatten().for_each(|n| file.vector(&weight(n), attn.head_dim, 1.0));
            for (part, rows) in names.qkv.into_iter().zip([attn.q_dim(), attn.kv_dim(), attn.kv_dim()]) {
                file.matrix(&weight(part), rows, DIM, 1.5);
                if self.bias {
                    file.vector(&bias(part), rows, 0.0);
                }
            }
            file.matrix(&weight(names.attn_out), DIM, attn.q_dim(), 1.0);
            if self.bias {
                file.vector(&bias(names.attn_out), DIM, 0.0);
            }
            names.gate_up.iter().for_each(|n| file.matrix(&weight(n), ffn.hidden, DIM, 1.0));
            file.matrix(&weight(names.down), DIM, ffn.hidden, 1.0);
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
        let format = self.formats[self.data.len() % self.formats.len()];
        let format = if cols.is_multiple_of(format.block_len()) { format } else { Format::F16 };
        self.writer.tensor(name, &[cols as u64, rows as u64], format.tensor_type()).unwrap();
        self.data.push(blocks(&mut self.random, format, rows * cols, gain / (cols as f32).sqrt()));
    }

    /// `[len]` of F32 around `mean`.
    fn vector(&mut self, name: &str, len: usize, mean: f32) {
        self.writer.tensor(name, &[len as u64], Format::F32.tensor_type()).unwrap();
        let values = (0..len).flat_map(|_| (mean + 0.3 * self.random.uniform()).to_le_bytes());
        self.data.push(values.collect());
    }

    fn finish(self) -> Gguf {
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, &self.data).unwrap();
        Gguf::from_bytes(bytes).unwrap()
    }
}

/// `len` elements of `format` with this root mean square: random codes and sub-block scales, and block scales that
/// fit.
fn blocks(random: &mut Random, format: Format, len: usize, rms: f32) -> Vec<u8> {
    if format.quant().is_none() {
        // A uniform variable has a root mean square of 1/sqrt(3).
        let values = (0..len).map(|_| 3f32.sqrt() * rms * random.uniform());
        return match format {
            Format::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Format::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
            _ => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        };
    }
    // Where the half-precision block scale and offset lie, and the offset that centres the codes at scale 1.
    let (scale_at, offset_at, offset) = match format {
        Format::Q4_1 => (0, Some(2), -7.5),
        Format::Q5_1 => (0, Some(2), -15.5),
        Format::Q2_K => (80, Some(82), 1.5),
        Format::Q3_K => (108, None, 0.0),
        Format::Q4_K => (0, Some(2), 7.5),
        Format::Q5_K => (0, Some(2), 15.5),
        Format::Q6_K => (208, None, 0.0),
        _ => (0, None, 0.0),
    };
    let mut bytes: Vec<u8> =
        (0..format.bytes_for(len).unwrap()).map(|_| (random.bits() >> 56) as u8).collect();
    let set_scales = |bytes: &mut [u8], scale: f32| {
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            let mut put = |at: usize, v: f32| {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
            };
            put(scale_at, scale);
            offset_at.iter().for_each(|&at| put(at, offset * scale));
        }
    };
    set_scales(&mut bytes, 1.0);
    let mut values = vec![0.0; len];
    dequantize(format, &bytes, &mut values);
    let unscaled = (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / len as f64).sqrt();
    set_scales(&mut bytes, rms / unscaled as f32);
    bytes
}
