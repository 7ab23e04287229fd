//! A [`Backend`] on candle tensors: every device that candle knows, through the same code.
//!
//! On candle's CPU device this is the reference of the other backends: weights are dequantised to f32 once, and
//! all activations are f32, so what it computes is the model itself but for the order of sums. It implements the
//! primitives only; the stages are the definitions in [`kinfer_core::backend`].
#![forbid(unsafe_code)]

mod cache;
mod delta;
mod weight;

pub use cache::Kv;
pub use candle_core::Device;
pub use weight::Weight;

use candle_core::{D, Tensor};
use kinfer_core::backend::{DeltaVectors, ExpertWeights, Heads, Matrix};
use kinfer_core::{
    Activation, AttnSpec, Backend, Batch, ConvSpec, DeltaSpec, Error, ExpertSpec, FfnSpec, Format, KvTypes,
    NormKind, NormSpec, PartSpec, Result, RopeSpec, Run,
};
use kinfer_kernels::ops::choose_experts;
use std::ops::Range;

/// The backend: a candle device.
#[derive(Clone, Debug)]
pub struct Candle {
    device: Device,
    /// Weights stay quantised, where candle has products with their format.
    quantised: bool,
}

/// A slot for activations, `[rows, width]`; empty until an operation writes it.
#[derive(Default)]
pub struct Act(Option<Tensor>);

/// The state of a step.
#[derive(Default)]
pub struct Step {
    tokens: Option<Tensor>,
    positions: Option<Tensor>,
    outputs: Option<Tensor>,
    /// Cosine and sine of each rotary table, `[rows, 1, dim / 2]`.
    ropes: Vec<(Tensor, Tensor)>,
    runs: Vec<Run>,
    blocks: Vec<u32>,
    /// Row, expert and weight, ascending by row.
    routes: Vec<(u32, usize, f32)>,
    /// What [`Backend::read`] lends out.
    host: Vec<f32>,
}

impl Candle {
    /// A backend on `device`.
    pub fn new(device: Device) -> Self {
        Candle { device, quantised: false }
    }

    /// A backend on `device` whose weights stay quantised, as long as candle has products with their format: what a GPU has room for.
    /// On candle's CPU device these products round activations to 8 bits.
    pub fn quantised(device: Device) -> Self {
        Candle { device, quantised: true }
    }

    /// A backend on this machine's Apple GPU.
    ///
    /// # Errors
    /// [`Error::Device`] where there is none, or this build has no support for it.
    pub fn metal() -> Result<Self> {
        let fail = |e: candle_core::Error| Error::Device { device: "metal".into(), reason: e.to_string() };
        Ok(Candle::quantised(Device::new_metal(0).map_err(fail)?))
    }

    /// A backend on candle's CPU device.
    pub fn cpu() -> Self {
        Candle::new(Device::Cpu)
    }

    /// Turns candle's result into ours.
    fn run<T>(&self, result: candle_core::Result<T>) -> Result<T> {
        result.map_err(|e| Error::Backend { device: self.describe(), source: Box::new(e) })
    }

    /// Computes a tensor and puts it into a slot.
    fn put(&self, out: &mut Act, compute: impl FnOnce() -> candle_core::Result<Tensor>) -> Result<()> {
        out.0 = Some(self.run(compute())?);
        Ok(())
    }

    /// Replaces columns `cols` of a slot by a function of them.
    fn map_cols(
        &self,
        x: &mut Act,
        cols: Range<usize>,
        f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<()> {
        let old = x.get()?;
        let new = self.run((|| {
            let (rows, width) = old.dims2()?;
            let new = f(&old.narrow(1, cols.start, cols.len())?)?.reshape((rows, cols.len()))?;
            cat(&[old.narrow(1, 0, cols.start)?, new, old.narrow(1, cols.end, width - cols.end)?], 1)
        })())?;
        x.0 = Some(new);
        Ok(())
    }
}

impl Act {
    /// The tensor in the slot, `[rows, width]`.
    fn get(&self) -> Result<&Tensor> {
        self.0.as_ref().ok_or_else(|| Error::Batch("an activation is read before it was written".into()))
    }
}

/// The parts that are not empty, side by side.
fn cat(parts: &[Tensor], dim: usize) -> candle_core::Result<Tensor> {
    let parts: Vec<&Tensor> = parts.iter().filter(|t| t.elem_count() > 0).collect();
    Tensor::cat(&parts, dim)
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
fn norm(x: &Tensor, weight: &Tensor, eps: f32) -> candle_core::Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)
}

impl Backend for Candle {
    type Weight = Weight;
    type Vector = Tensor;
    type Act = Act;
    type Kv = Kv;
    type Step = Step;

    fn describe(&self) -> String {
        match &self.device {
            Device::Cpu if self.quantised => "candle (cpu, quantised)".into(),
            Device::Cpu => "candle (cpu, f32)".into(),
            Device::Cuda(_) => "candle (cuda, f32)".into(),
            Device::Metal(_) => "candle (metal)".into(),
        }
    }

    fn weight(&self, parts: &[Matrix<'_>]) -> Result<Weight> {
        self.run(Weight::new(parts, &self.device, self.quantised))
    }

    fn weight_bytes(&self, rows: usize, cols: usize, format: Format) -> u64 {
        weight::bytes(rows, cols, format, self.quantised)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        self.run(Tensor::new(values, &self.device))
    }

    fn act(&self, _rows: usize, _width: usize) -> Result<Act> {
        Ok(Act::default())
    }

    fn act_bytes(&self, rows: usize, width: usize) -> u64 {
        4 * rows as u64 * width as u64
    }

    fn kv(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> Result<Kv> {
        self.run(Kv::new(part, blocks, states, types, &self.device)?)
    }

    fn kv_bytes(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        Kv::bytes(part, blocks, states, types)
    }

    fn step(&self, _part: &PartSpec, _rows: usize, _blocks: usize) -> Result<Step> {
        Ok(Step::default())
    }

    fn begin(&self, step: &mut Step, ropes: &[RopeSpec], batch: &Batch) -> Result<()> {
        let positions: Vec<usize> = batch.runs.iter().flat_map(|r| r.start..r.start + r.rows.len()).collect();
        let table = |rope: &RopeSpec| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for &p in &positions {
                for &f in rope.inv_freq.iter() {
                    // f64: an f32 product is off by 1e-3 rad at position 16384, as much as a small rotation.
                    let (s, c) = (p as f64 * f64::from(f)).sin_cos();
                    cos.push(c as f32 * rope.magnitude);
                    sin.push(s as f32 * rope.magnitude);
                }
            }
            let shape = (positions.len(), 1, rope.inv_freq.len());
            Ok((Tensor::from_vec(cos, shape, &self.device)?, Tensor::from_vec(sin, shape, &self.device)?))
        };
        step.ropes = self.run(ropes.iter().map(table).collect())?;
        let places: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        step.positions = Some(self.run(Tensor::new(places, &self.device))?);
        step.tokens = Some(self.run(Tensor::new(batch.tokens.as_slice(), &self.device))?);
        step.outputs = match batch.outputs.is_empty() {
            true => None,
            false => Some(self.run(Tensor::new(batch.outputs.as_slice(), &self.device))?),
        };
        step.runs.clone_from(&batch.runs);
        step.blocks.clone_from(&batch.blocks);
        Ok(())
    }

    fn embed(&self, step: &Step, table: &Weight, scale: f32, out: &mut Act) -> Result<()> {
        let Some(tokens) = &step.tokens else { return Err(no_batch()) };
        self.put(out, || table.embed(tokens)? * f64::from(scale))
    }

    fn add_positions(&self, step: &Step, table: &Tensor, x: &mut Act) -> Result<()> {
        let Some(positions) = &step.positions else { return Err(no_batch()) };
        let old = x.get()?;
        let sum = self.run((|| {
            let width = old.dim(1)?;
            old + table.reshape((table.elem_count() / width, width))?.index_select(positions, 0)?
        })())?;
        x.0 = Some(sum);
        Ok(())
    }

    fn norm(
        &self,
        _step: &Step,
        x: &Act,
        spec: NormSpec,
        weight: &Tensor,
        bias: Option<&Tensor>,
        out: &mut Act,
    ) -> Result<()> {
        let x = x.get()?;
        self.put(out, || {
            let y = match spec.kind {
                NormKind::Rms => norm(x, weight, spec.eps)?,
                NormKind::Layer => norm(&x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, weight, spec.eps)?,
            };
            match bias {
                Some(bias) => y.broadcast_add(bias),
                None => Ok(y),
            }
        })
    }

    fn rms_norm_heads(
        &self,
        _step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        weight: &Tensor,
        eps: f32,
    ) -> Result<()> {
        self.map_cols(x, cols, |x| {
            let (rows, width) = x.dims2()?;
            let head_dim = weight.dims1()?;
            norm(&x.contiguous()?.reshape((rows, width / head_dim, head_dim))?, weight, eps)
        })
    }

    fn layer_norm_heads(
        &self,
        _step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        width: usize,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<()> {
        self.map_cols(x, cols, |x| {
            let (rows, all) = x.dims2()?;
            let heads = |t: &Tensor| t.reshape((all / width, width));
            let x = x.contiguous()?.reshape((rows, all / width, width))?;
            let y = norm(&x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, &heads(weight)?, eps)?;
            match bias {
                Some(bias) => y.broadcast_add(&heads(bias)?),
                None => Ok(y),
            }
        })
    }

    fn linear(&self, _step: &Step, weight: &Weight, x: &Act, out: &mut Act) -> Result<()> {
        let x = x.get()?;
        self.put(out, || weight.product(x))
    }

    fn linear_heads(&self, _step: &Step, weights: &[Weight], x: &Act, out: &mut Act) -> Result<()> {
        let x = x.get()?;
        self.put(out, || {
            let rows = x.dim(0)? / weights.len().max(1);
            let products = weights.iter().enumerate();
            let products = products.map(|(h, w)| w.product(&x.narrow(0, h * rows, rows)?));
            Tensor::cat(&products.collect::<candle_core::Result<Vec<_>>>()?, 0)
        })
    }

    fn rearrange(
        &self,
        _step: &Step,
        x: &Act,
        from: Heads,
        out: &mut Act,
        to: Heads,
        heads: usize,
        width: usize,
    ) -> Result<()> {
        let x = x.get()?;
        let rows = self.run(x.dim(0))? / if from == Heads::Rows { heads } else { 1 };
        let head = |h: usize| match from {
            Heads::Columns { first, stride, width: _ } => x.narrow(1, first + h * stride, width),
            Heads::Rows => x.narrow(0, h * rows, rows)?.narrow(1, 0, width),
        };
        let all = self.run((0..heads).map(head).collect::<candle_core::Result<Vec<_>>>())?;
        let Heads::Columns { first, stride, width: of } = to else {
            return self.put(out, || Tensor::cat(&all, 0));
        };
        if !matches!(&out.0, Some(old) if old.dims() == [rows, of]) {
            out.0 = Some(self.run(Tensor::zeros((rows, of), candle_core::DType::F32, &self.device))?);
        }
        for (h, head) in all.into_iter().enumerate() {
            let at = first + h * stride;
            self.map_cols(out, at..at + width, |_| Ok(head))?;
        }
        Ok(())
    }

    fn add_bias(&self, _step: &Step, x: &mut Act, bias: &Tensor) -> Result<()> {
        let sum = self.run(x.get()?.broadcast_add(bias))?;
        x.0 = Some(sum);
        Ok(())
    }

    fn add(&self, _step: &Step, x: &mut Act, y: &Act) -> Result<()> {
        let sum = self.run(x.get()? + y.get()?)?;
        x.0 = Some(sum);
        Ok(())
    }

    fn rope(&self, step: &Step, x: &mut Act, cols: Range<usize>, head_dim: usize, rope: usize) -> Result<()> {
        let (cos, sin) = step.ropes.get(rope).ok_or_else(no_batch)?;
        self.map_cols(x, cols, |x| {
            let (rows, width) = x.dims2()?;
            let x = x.contiguous()?.reshape((rows, width / head_dim, head_dim))?;
            let half = cos.dim(2)?;
            let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
            let turned_a = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
            let turned_b = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
            cat(&[turned_a, turned_b, x.narrow(2, 2 * half, head_dim - 2 * half)?], 2)
        })
    }

    fn kv_write(&self, step: &Step, kv: &mut Kv, layer: usize, spec: &AttnSpec, qkv: &Act) -> Result<()> {
        self.run(kv.write(layer, spec, &step.runs, &step.blocks, qkv.get()?))
    }

    fn attend(
        &self,
        step: &mut Step,
        kv: &Kv,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Tensor>,
        qkv: &Act,
        out: &mut Act,
    ) -> Result<()> {
        let qkv = qkv.get()?;
        self.put(out, || kv.attend(layer, spec, sinks, &step.runs, &step.blocks, qkv))
    }

    fn short_conv(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &ConvSpec,
        taps: &Tensor,
        bcx: &Act,
        out: &mut Act,
    ) -> Result<()> {
        let bcx = bcx.get()?;
        self.put(out, || kv.short_conv(layer, spec, taps, &step.runs, &step.blocks, bcx))
    }

    fn delta_rule(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &DeltaSpec,
        w: &DeltaVectors<Tensor>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        let x = x.get()?;
        self.put(out, || kv.states[layer].rule(spec, w, &step.runs, x))
    }

    fn gate_columns(&self, _step: &Step, x: &mut Act, gate: &Act, first: usize) -> Result<()> {
        let (rows, gate) = (x.get()?, gate.get()?);
        let y = self.run((|| rows * sigmoid(&gate.narrow(1, first, rows.dim(1)?)?)?)())?;
        x.0 = Some(y);
        Ok(())
    }

    fn glu(&self, _step: &Step, act: Activation, x: &Act, out: &mut Act) -> Result<()> {
        let x = x.get()?;
        self.put(out, || {
            let hidden = x.dim(1)? / 2;
            gated(act, &x.narrow(1, 0, hidden)?, &x.narrow(1, hidden, hidden)?)
        })
    }

    fn activate(&self, _step: &Step, act: Activation, x: &mut Act) -> Result<()> {
        let y = self.run(activated(act, x.get()?))?;
        x.0 = Some(y);
        Ok(())
    }

    fn route(&self, step: &mut Step, spec: ExpertSpec, bias: Option<&Tensor>, x: &Act) -> Result<()> {
        let logits: Vec<Vec<f32>> = self.run(x.get()?.to_vec2())?;
        let bias: Option<Vec<f32>> = self.run(bias.map(Tensor::to_vec1).transpose())?;
        step.routes.clear();
        for (row, logits) in (0..).zip(&logits) {
            let take = |expert, weight| step.routes.push((row, expert, weight));
            choose_experts(logits, bias.as_deref(), &spec.routing, take);
        }
        Ok(())
    }

    fn experts(
        &self,
        step: &mut Step,
        spec: &FfnSpec,
        w: &ExpertWeights<Weight, Tensor>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        let x = x.get()?;
        self.put(out, || {
            let mut sum = x.zeros_like()?;
            for (e, [gate_up, down]) in w.products.iter().enumerate() {
                let mine = step.routes.iter().filter(|route| route.1 == e);
                let (rows, weights): (Vec<u32>, Vec<f32>) = mine.map(|&(r, _, weight)| (r, weight)).unzip();
                if rows.is_empty() {
                    continue;
                }
                let weights = Tensor::from_vec(weights, (rows.len(), 1), &self.device)?;
                let rows = Tensor::new(rows, &self.device)?;
                let product = |x: &Tensor, w: &Weight, biases: &Option<Tensor>| {
                    let y = w.product(x)?;
                    match biases {
                        Some(all) => y.broadcast_add(&all.narrow(0, e * y.dim(1)?, y.dim(1)?)?),
                        None => Ok(y),
                    }
                };
                let up = product(&x.index_select(&rows, 0)?, gate_up, &w.gate_up_bias)?;
                let hidden = match spec.gated {
                    true => {
                        let gate = up.narrow(1, 0, spec.hidden)?;
                        gated(spec.act, &gate, &up.narrow(1, spec.hidden, spec.hidden)?)?
                    }
                    false => activated(spec.act, &up)?,
                };
                let y = product(&hidden, down, &w.down_bias)?.broadcast_mul(&weights)?;
                sum = sum.index_add(&rows, &y, 0)?;
            }
            Ok(sum)
        })
    }

    fn gate_rows(&self, _step: &Step, x: &mut Act, gate: &Act) -> Result<()> {
        let (rows, gate) = (x.get()?, gate.get()?);
        let y = self.run(sigmoid(gate).and_then(|factor| rows.broadcast_mul(&factor)))?;
        x.0 = Some(y);
        Ok(())
    }

    fn gather(&self, step: &Step, x: &Act, out: &mut Act) -> Result<()> {
        let x = x.get()?;
        let Some(outputs) = &step.outputs else {
            return Err(Error::Batch("the batch asks for no logits".into()));
        };
        self.put(out, || x.index_select(outputs, 0))
    }

    fn softcap(&self, _step: &Step, x: &mut Act, cap: f32) -> Result<()> {
        let capped = self.run(softcap(x.get()?, cap))?;
        x.0 = Some(capped);
        Ok(())
    }

    fn write(&self, _step: &mut Step, rows: &[f32], width: usize, x: &mut Act) -> Result<()> {
        self.put(x, || Tensor::from_slice(rows, (rows.len() / width, width), &self.device))
    }

    fn read<'a>(&self, step: &'a mut Step, x: &'a Act) -> Result<&'a [f32]> {
        step.host = self.run(x.get()?.flatten_all().and_then(|t| t.to_vec1()))?;
        Ok(&step.host)
    }
}

fn activated(act: Activation, x: &Tensor) -> candle_core::Result<Tensor> {
    match act {
        Activation::Silu => x.silu(),
        // candle's `gelu` is the tanh form; `gelu_erf` is the other.
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::SwigluOai => {
            let x = x.minimum(7f64)?;
            &x * sigmoid(&(&x * 1.702)?)?
        }
    }
}

/// `act(gate) * up`, but for what an activation does with `up`.
fn gated(act: Activation, gate: &Tensor, up: &Tensor) -> candle_core::Result<Tensor> {
    let gate = activated(act, &gate.contiguous()?)?;
    match act {
        Activation::SwigluOai => gate * (up.clamp(-7f64, 7f64)? + 1.0)?,
        _ => gate * up,
    }
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `cap * tanh(x / cap)`.
fn softcap(x: &Tensor, cap: f32) -> candle_core::Result<Tensor> {
    (x / f64::from(cap))?.tanh()? * f64::from(cap)
}

fn no_batch() -> Error {
    Error::Batch("an operation came before `begin`".into())
}
