//! A [`Backend`] on NVIDIA GPUs, by kinfer's own kernels (`kernels/cuda`) and nothing of NVIDIA's but the driver.
//!
//! Weights have the packed layouts of the CPU, turned so that a lane reads a row. Generated rows are multiplied in 8-bit integers, prompt
//! rows in bf16 on tensor cores where the GPU has them, by the role of a row and never by what is computed beside it, so
//! that tokens depend on neither chunks nor batch mates. A decode step is recorded as a graph when its kind comes a second time.

mod act;
mod conv;
mod delta;
mod draw;
mod driver;
mod experts;
mod gemm;
mod kernels;
mod kv;
mod latent;
mod memory;
mod ops;
mod peak;
mod power;
mod ptx;
mod stages;
mod step;
mod weight;

pub use act::Act;
pub use kv::Kv;
pub use peak::{Peak, peak};
pub use power::Power;
pub use ptx::Level;
pub use step::Step;
pub use weight::Weight;

use driver::{Argument, Function, Gpu, Grid};
use kernels::Kernels;
use kinfer_core::backend::{
    AttnWeights, Backend, ConvWeights, DeltaVectors, DeltaWeights, ExpertWeights, FfnWeights, Heads, Matrix,
    Read, Scratch, latent_in, latent_out,
};
use kinfer_core::{
    Activation, AttnSpec, Batch, ConvSpec, DeltaSpec, ExpertSpec, FfnSpec, Format, KvTypes, NormKind,
    NormSpec, PartSpec, Result, RopeSpec,
};
use memory::Buffer;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use step::Mode;

/// How a GPU computes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which GPU, in the driver's order.
    pub ordinal: usize,
    /// Which kernels, instead of the best ones that the GPU runs and that have run on a GPU.
    pub level: Option<Level>,
    /// Whether prompt rows are computed in bf16 on tensor cores, where the GPU has them; otherwise in 8-bit integers as all others.
    pub tensor_cores: bool,
    /// Whether decode steps are recorded as graphs.
    pub graphs: bool,
    /// Threads that pack weights for the GPU.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { ordinal: 0, level: None, tensor_cores: true, graphs: true, threads: 1 }
    }
}

/// A GPU as a device.
pub struct Cuda {
    gpu: Arc<Gpu>,
    /// Loaded when something is first computed: asking how much memory a model would take needs none.
    kernels: OnceLock<Kernels>,
    options: Options,
}

/// A vector on the device.
pub struct Vector {
    data: Buffer,
    len: usize,
}

/// Why no NVIDIA GPU can be used; `None` where one can.
pub fn unavailable() -> Option<String> {
    driver::count().err()
}

impl Cuda {
    /// Opens a GPU.
    ///
    /// # Errors
    /// [`kinfer_core::Error::Device`] when there is no driver, no such GPU, or it is too old.
    pub fn new(options: Options) -> Result<Cuda> {
        let gpu = Gpu::open(options.ordinal, options.level)?;
        Ok(Cuda { gpu, kernels: OnceLock::new(), options })
    }

    fn kernels(&self) -> Result<&Kernels> {
        match self.kernels.get() {
            Some(kernels) => Ok(kernels),
            None => {
                let kernels = Kernels::new(&self.gpu)?;
                Ok(self.kernels.get_or_init(|| kernels))
            }
        }
    }

    fn tensor_cores(&self) -> bool {
        self.options.tensor_cores && self.gpu.has_bf16()
    }

    /// Puts a kernel on the stream, unless the step replays a graph.
    ///
    /// # Safety
    /// As for [`Gpu::launch`].
    unsafe fn launch(
        &self,
        step: &Step,
        kernel: &Function,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        if step.mode.get() == Mode::Replay {
            return Ok(());
        }
        // SAFETY: by this function's contract.
        unsafe { self.gpu.launch(step.stream(), kernel, grid, arguments) }
    }
}

impl Backend for Cuda {
    type Weight = Weight;
    type Vector = Vector;
    type Act = Act;
    type Kv = Kv;
    type Step = Step;

    fn describe(&self) -> String {
        let numerics = if self.tensor_cores() { "" } else { ", int8" };
        format!("cuda:{} ({}, {}{numerics})", self.options.ordinal, self.gpu.name, self.gpu.level.name())
    }

    fn available_memory(&self) -> Option<u64> {
        self.gpu.memory().ok().map(|m| m.0)
    }

    fn weight(&self, parts: &[Matrix<'_>]) -> Result<Weight> {
        Weight::upload(&self.gpu, parts, self.options.threads.max(1))
    }

    fn weight_bytes(&self, rows: usize, cols: usize, format: Format) -> u64 {
        weight::bytes(rows, cols, format)
    }

    fn vector(&self, values: &[f32]) -> Result<Vector> {
        Ok(Vector { data: self.gpu.upload(values, "weights")?, len: values.len() })
    }

    fn act(&self, rows: usize, width: usize) -> Result<Act> {
        Act::new(&self.gpu, rows, width)
    }

    fn act_bytes(&self, rows: usize, width: usize) -> u64 {
        Act::bytes(&self.gpu, rows, width)
    }

    fn kv(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> Result<Kv> {
        Kv::new(&self.gpu, part, blocks, states, types)
    }

    fn kv_bytes(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        Kv::bytes(part, blocks, states, types)
    }

    fn step(&self, part: &PartSpec, rows: usize, blocks: usize) -> Result<Step> {
        Step::new(&self.gpu, part, rows, blocks, self.options.graphs)
    }

    fn begin(&self, step: &mut Step, ropes: &[RopeSpec], batch: &Batch) -> Result<()> {
        step.begin(ropes, batch, self.tensor_cores())?;
        self.rope_tables(step)
    }

    fn embed(&self, step: &Step, table: &Weight, scale: f32, out: &mut Act) -> Result<()> {
        ops::embed(self, step, table, scale, out)
    }

    fn add_positions(&self, step: &Step, table: &Vector, x: &mut Act) -> Result<()> {
        ops::add_positions(self, step, table, x)
    }

    fn norm(
        &self,
        step: &Step,
        x: &Act,
        spec: NormSpec,
        weight: &Vector,
        bias: Option<&Vector>,
        out: &mut Act,
    ) -> Result<()> {
        ops::norm(self, step, x, spec, weight, bias, out, None)
    }

    fn rms_norm_heads(
        &self,
        step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        weight: &Vector,
        eps: f32,
    ) -> Result<()> {
        let spec = NormSpec { kind: NormKind::Rms, eps };
        ops::norm_heads(self, step, x, cols, weight.len, spec, weight, None)
    }

    fn layer_norm_heads(
        &self,
        step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        width: usize,
        weight: &Vector,
        bias: Option<&Vector>,
        eps: f32,
    ) -> Result<()> {
        let spec = NormSpec { kind: NormKind::Layer, eps };
        ops::norm_heads(self, step, x, cols, width, spec, weight, bias)
    }

    fn linear(&self, step: &Step, weight: &Weight, x: &Act, out: &mut Act) -> Result<()> {
        out.shape(x.rows(), weight.rows)?;
        ops::product(self, step, weight, x, out, None, false)
    }

    fn linear_heads(&self, step: &Step, weights: &[Weight], x: &Act, out: &mut Act) -> Result<()> {
        latent::linear_heads(self, step, weights, x, out)
    }

    fn rearrange(
        &self,
        step: &Step,
        x: &Act,
        from: Heads,
        out: &mut Act,
        to: Heads,
        heads: usize,
        width: usize,
    ) -> Result<()> {
        latent::rearrange(self, step, x, from, out, to, heads, width)
    }

    fn add_bias(&self, step: &Step, x: &mut Act, bias: &Vector) -> Result<()> {
        ops::add_bias(self, step, x, bias)
    }

    fn add(&self, step: &Step, x: &mut Act, y: &Act) -> Result<()> {
        ops::add(self, step, x, y)
    }

    fn rope(&self, step: &Step, x: &mut Act, cols: Range<usize>, head_dim: usize, rope: usize) -> Result<()> {
        ops::rope(self, step, x, cols, head_dim, rope)
    }

    fn kv_write(&self, step: &Step, kv: &mut Kv, layer: usize, spec: &AttnSpec, qkv: &Act) -> Result<()> {
        stages::kv_write(self, step, kv, layer, spec, qkv)
    }

    fn attend(
        &self,
        step: &mut Step,
        kv: &Kv,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Vector>,
        qkv: &Act,
        out: &mut Act,
    ) -> Result<()> {
        stages::attend(self, step, kv, layer, spec, sinks, qkv, out)
    }

    fn short_conv(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &ConvSpec,
        taps: &Vector,
        bcx: &Act,
        out: &mut Act,
    ) -> Result<()> {
        conv::short_conv(self, step, kv, layer, spec, taps, bcx, out, None)
    }

    fn delta_rule(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &DeltaSpec,
        w: &DeltaVectors<Vector>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        delta::delta_rule(self, step, kv, layer, spec, w, x, out, None)
    }

    fn gate_columns(&self, step: &Step, x: &mut Act, gate: &Act, first: usize) -> Result<()> {
        ops::gate_columns(self, step, x, gate, first, None)
    }

    fn glu(&self, step: &Step, act: Activation, x: &Act, out: &mut Act) -> Result<()> {
        out.shape(x.rows(), x.width() / 2)?;
        ops::activate(self, step, act, x.floats(), true, out, None)
    }

    fn activate(&self, step: &Step, act: Activation, x: &mut Act) -> Result<()> {
        ops::activate(self, step, act, x.floats(), false, x, None)
    }

    fn route(&self, step: &mut Step, spec: ExpertSpec, bias: Option<&Vector>, x: &Act) -> Result<()> {
        experts::route(self, step, spec, bias, x)
    }

    fn experts(
        &self,
        step: &mut Step,
        spec: &FfnSpec,
        w: &ExpertWeights<Weight, Vector>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        experts::experts(self, step, spec, w, x, out)
    }

    fn gate_rows(&self, step: &Step, x: &mut Act, gate: &Act) -> Result<()> {
        ops::gate_rows(self, step, x, gate)
    }

    fn gather(&self, step: &Step, x: &Act, out: &mut Act) -> Result<()> {
        ops::gather(self, step, x, out)
    }

    fn softcap(&self, step: &Step, x: &mut Act, cap: f32) -> Result<()> {
        ops::softcap(self, step, x, cap)
    }

    fn write(&self, step: &mut Step, rows: &[f32], width: usize, x: &mut Act) -> Result<()> {
        x.shape(rows.len() / width, width)?;
        step.write(rows, x)
    }

    fn read<'a>(&self, step: &'a mut Step, x: &'a Act) -> Result<&'a [f32]> {
        step.read(x)
    }

    fn read_drawn<'a>(&self, step: &'a mut Step, logits: &'a Act) -> Result<Read<'a>> {
        match step.candidates() {
            Some(k) => draw::read(self, step, logits, k.min(logits.width())).map(Read::Drawn),
            None => self.read(step, logits).map(Read::All),
        }
    }

    fn attn_in(
        &self,
        step: &mut Step,
        spec: &AttnSpec,
        w: &AttnWeights<Self>,
        kv: &mut Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        match (&spec.latent, &w.latent) {
            (Some(latent), Some(up)) => latent_in(self, step, spec, latent, w, up, kv, layer, s),
            _ => stages::attn_in(self, step, spec, w, kv, layer, s),
        }
    }

    fn attn_out(
        &self,
        step: &mut Step,
        spec: &AttnSpec,
        w: &AttnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        if let (Some(latent), Some(up)) = (&spec.latent, &w.latent) {
            return latent_out(self, step, spec, latent, w, up, s);
        }
        if spec.gated {
            ops::gate_columns(self, step, &mut s.attn, &s.qkv, spec.qkv_dim(), Some(&w.out))?;
        }
        stages::residual(
            self,
            step,
            &w.out,
            s,
            stages::From::Attention,
            w.out_bias.as_ref(),
            spec.norm,
            w.post_norm.as_ref(),
        )
    }

    fn conv_in(
        &self,
        step: &mut Step,
        spec: &ConvSpec,
        w: &ConvWeights<Self>,
        kv: &mut Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        conv::conv_in(self, step, spec, w, kv, layer, s)
    }

    fn conv_out(
        &self,
        step: &mut Step,
        spec: &ConvSpec,
        w: &ConvWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        stages::residual(self, step, &w.out, s, stages::From::Attention, None, spec.norm, None)
    }

    fn delta_in(
        &self,
        step: &mut Step,
        spec: &DeltaSpec,
        w: &DeltaWeights<Self>,
        kv: &mut Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        delta::delta_in(self, step, spec, w, kv, layer, s)
    }

    fn delta_out(
        &self,
        step: &mut Step,
        spec: &DeltaSpec,
        w: &DeltaWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        stages::residual(self, step, &w.out, s, stages::From::Attention, None, spec.norm, None)
    }

    fn ffn(
        &self,
        step: &mut Step,
        spec: &FfnSpec,
        w: &FfnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        stages::ffn(self, step, spec, w, s)
    }
}
