//! The CPU backend: kinfer's own kernels on a thread team.
//!
//! A weight is packed at load ([`kinfer_kernels::pack`]); a stage of the forward is one entry of the [`Team`], inside which
//! the workers split output rows or heads, so that epilogues (bias, norms, rotary embedding, cache write, gate, residual)
//! need few barriers. Every output is computed in one order whatever the split, so results do not depend on the number
//! of threads, on batch mates, or on how a prompt is cut into chunks.

mod act;
mod conv;
mod delta;
mod inputs;
mod kv;
pub mod machine;
mod mem;
mod moe;
mod stages;
mod step;
mod team;
mod weight;

pub use act::Act;
pub use inputs::{Inputs, WeightInputs};
pub use kinfer_kernels::isa::Isa;
pub use kinfer_kernels::peak;
pub use kv::Kv;
pub use step::Step;
pub use team::{Team, Worker};
pub use weight::Weight;

use kinfer_core::backend::{
    AttnWeights, Backend, ConvWeights, DeltaVectors, DeltaWeights, ExpertWeights, FfnWeights, Heads, Matrix,
    Scratch, latent_in, latent_out,
};
use kinfer_core::batch::Role;
use kinfer_core::{
    Activation, AttnSpec, Batch, ConvSpec, DeltaSpec, Error, ExpertSpec, FfnSpec, Format, KvTypes, NormKind,
    NormSpec, PartSpec, Result, RopeSpec,
};
use kinfer_kernels::bf16::TileConvert;
use kinfer_kernels::ops::Ops;
use kinfer_kernels::pack::Quantize;
use mem::Arena;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use weight::Input;

/// How products with quantised weights are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Prompt rows in bf16 where the instruction set multiplies it: on AMX tiles, or those of 16-bit float weights by AVX-512's dot
    /// products; all else as [`Numerics::Int8`].
    #[default]
    Auto,
    /// Activations in 8-bit blocks, exact integer dot products: the same for prompt and generated rows, on every instruction set.
    Int8,
    /// Weights dequantised to f32 at load, f32 activations: the reference, eight times the memory of 4-bit weights.
    F32,
}

/// The CPU as a device.
pub struct Cpu {
    team: Team,
    isa: Isa,
    ops: &'static Ops,
    quantize: Quantize,
    /// Where prompt rows are rounded to bf16.
    convert: Option<TileConvert>,
    numerics: Numerics,
    arena: Arena,
    /// Where the inputs of products are recorded, if they are.
    inputs: Option<Arc<Inputs>>,
}

impl Cpu {
    /// A team of `threads` threads that computes with the kernels of `isa`.
    ///
    /// # Errors
    /// [`Error::Device`] when this machine lacks `isa` or refuses the threads.
    pub fn new(threads: usize, isa: Isa, numerics: Numerics) -> Result<Cpu> {
        let fail = |reason: String| Error::Device { device: "cpu".into(), reason };
        let missing = || fail(format!("this machine has no {isa}"));
        let ops = Ops::new(isa).ok_or_else(missing)?;
        let quantize = Quantize::new(isa).ok_or_else(missing)?;
        let team = Team::new(threads).map_err(|e| fail(format!("starting {threads} threads: {e}")))?;
        let convert = if numerics == Numerics::Auto { TileConvert::new(isa) } else { None };
        Ok(Cpu { team, isa, ops, quantize, convert, numerics, arena: Arena::default(), inputs: None })
    }
}

impl Backend for Cpu {
    type Weight = Weight;
    type Vector = Vec<f32>;
    type Act = Act;
    type Kv = Kv;
    type Step = Step;

    fn describe(&self) -> String {
        let threads = match self.team.threads() {
            1 => "1 thread".into(),
            n => format!("{n} threads"),
        };
        let numerics = match self.numerics {
            Numerics::Auto => "",
            Numerics::Int8 => ", int8",
            Numerics::F32 => ", f32",
        };
        format!("cpu ({}, {threads}{numerics})", self.isa)
    }

    fn weight(&self, parts: &[Matrix<'_>]) -> Result<Weight> {
        Weight::pack(parts, self)
    }

    fn weight_bytes(&self, rows: usize, cols: usize, format: Format) -> u64 {
        weight::packed_bytes(rows, cols, format, self.numerics == Numerics::F32)
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn act(&self, rows: usize, width: usize) -> Result<Act> {
        Ok(Act::new(rows, width, self.convert.is_some()))
    }

    fn act_bytes(&self, rows: usize, width: usize) -> u64 {
        Act::bytes(rows, width, self.convert.is_some())
    }

    fn kv(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> Result<Kv> {
        Kv::new(part, blocks, states, types, &self.arena)
    }

    fn kv_bytes(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        Kv::bytes(part, blocks, states, types)
    }

    fn step(&self, part: &PartSpec, rows: usize, blocks: usize) -> Result<Step> {
        Ok(Step::new(part, rows, blocks, self))
    }

    fn begin(&self, step: &mut Step, ropes: &[RopeSpec], batch: &Batch) -> Result<()> {
        step.begin(ropes, batch, self);
        Ok(())
    }

    fn embed(&self, step: &Step, table: &Weight, scale: f32, out: &mut Act) -> Result<()> {
        out.shape(step.rows(), table.cols());
        let view = out.view_mut();
        self.team.run(|w| {
            for r in w.share(step.rows()) {
                // SAFETY: row `r` is this worker's.
                let row = unsafe { view.row_mut(r, 0..view.width) };
                table.dequantise_row(step.tokens[r] as usize, row);
                self.ops.scale(row, scale);
            }
        });
        Ok(())
    }

    fn add_positions(&self, step: &Step, table: &Vec<f32>, x: &mut Act) -> Result<()> {
        let width = x.width();
        self.rows_mut(x, 0..width, |row, r| {
            let at = step.positions[r] as usize * width;
            self.ops.add(row, &table[at..at + width]);
        });
        Ok(())
    }

    fn norm(
        &self,
        _step: &Step,
        x: &Act,
        spec: NormSpec,
        weight: &Vec<f32>,
        bias: Option<&Vec<f32>>,
        out: &mut Act,
    ) -> Result<()> {
        out.shape(x.rows(), x.width());
        let (width, bias) = (x.width(), bias.map(Vec::as_slice));
        self.rows_mut(out, 0..width, |row, r| self.norm_row(spec, x.row(r), weight, bias, row));
        Ok(())
    }

    fn rms_norm_heads(
        &self,
        _step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        weight: &Vec<f32>,
        eps: f32,
    ) -> Result<()> {
        self.rows_mut(x, cols, |row, _| self.ops.rms_norm_heads(row, weight, eps));
        Ok(())
    }

    fn layer_norm_heads(
        &self,
        _step: &Step,
        x: &mut Act,
        cols: Range<usize>,
        width: usize,
        weight: &Vec<f32>,
        bias: Option<&Vec<f32>>,
        eps: f32,
    ) -> Result<()> {
        let bias = bias.map(Vec::as_slice);
        self.rows_mut(x, cols, |row, _| self.ops.layer_norm_heads(row, width, weight, bias, eps));
        Ok(())
    }

    fn linear(&self, step: &Step, weight: &Weight, x: &Act, out: &mut Act) -> Result<()> {
        self.product(weight, x, step.roles_of(x.rows()), out);
        Ok(())
    }

    fn linear_heads(&self, step: &Step, weights: &[Weight], x: &Act, out: &mut Act) -> Result<()> {
        self.product_heads(weights, x, step.roles_of(x.rows() / weights.len().max(1)), out);
        Ok(())
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
        let rows = if from == Heads::Rows { x.rows() / heads } else { x.rows() };
        match to {
            Heads::Columns { width, .. } => out.shape(rows, width),
            Heads::Rows => out.shape(heads * rows, width),
        }
        // Row and first column of a head.
        let place = |heads: Heads, h: usize, r: usize| match heads {
            Heads::Columns { first, stride, width: _ } => (r, first + h * stride),
            Heads::Rows => (h * rows + r, 0),
        };
        let view = out.view_mut();
        self.team.run(|w| {
            for unit in w.share(heads * rows) {
                let (h, r) = (unit / rows, unit % rows);
                let ((r_in, c_in), (r_out, c_out)) = (place(from, h, r), place(to, h, r));
                // SAFETY: each head of each row is one worker's, and heads do not overlap.
                let head = unsafe { view.row_mut(r_out, c_out..c_out + width) };
                head.copy_from_slice(&x.row(r_in)[c_in..c_in + width]);
            }
        });
        Ok(())
    }

    fn add_bias(&self, _step: &Step, x: &mut Act, bias: &Vec<f32>) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, _| self.ops.add(row, bias));
        Ok(())
    }

    fn add(&self, _step: &Step, x: &mut Act, y: &Act) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, r| self.ops.add(row, y.row(r)));
        Ok(())
    }

    fn rope(&self, step: &Step, x: &mut Act, cols: Range<usize>, head_dim: usize, rope: usize) -> Result<()> {
        self.rows_mut(x, cols, |row, r| {
            let (cos, sin) = step.rope(rope, r);
            self.ops.rope(row, head_dim, cos, sin);
        });
        Ok(())
    }

    fn kv_write(&self, step: &Step, kv: &mut Kv, layer: usize, spec: &AttnSpec, qkv: &Act) -> Result<()> {
        stages::kv_write(self, step, kv, layer, spec, qkv);
        Ok(())
    }

    fn attend(
        &self,
        step: &mut Step,
        kv: &Kv,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Vec<f32>>,
        qkv: &Act,
        out: &mut Act,
    ) -> Result<()> {
        stages::attend(self, step, kv, layer, spec, sinks.map(Vec::as_slice), qkv, out);
        Ok(())
    }

    fn short_conv(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &ConvSpec,
        taps: &Vec<f32>,
        bcx: &Act,
        out: &mut Act,
    ) -> Result<()> {
        conv::short_conv(self, step, kv, layer, spec, taps, bcx, out);
        Ok(())
    }

    fn delta_rule(
        &self,
        step: &mut Step,
        kv: &mut Kv,
        layer: usize,
        spec: &DeltaSpec,
        w: &DeltaVectors<Vec<f32>>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        delta::delta_rule(self, step, kv, layer, spec, w, x, out);
        Ok(())
    }

    fn gate_columns(&self, _step: &Step, x: &mut Act, gate: &Act, first: usize) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, r| self.ops.sigmoid_mul(&gate.row(r)[first..first + row.len()], row));
        Ok(())
    }

    fn glu(&self, _step: &Step, act: Activation, x: &Act, out: &mut Act) -> Result<()> {
        let hidden = x.width() / 2;
        out.shape(x.rows(), hidden);
        self.rows_mut(out, 0..hidden, |row, r| {
            let (gate, up) = x.row(r).split_at(hidden);
            self.activate_slices(act, gate, Some(up), row);
        });
        Ok(())
    }

    fn activate(&self, _step: &Step, act: Activation, x: &mut Act) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, _| self.activate_row(act, row));
        Ok(())
    }

    fn route(&self, step: &mut Step, spec: ExpertSpec, bias: Option<&Vec<f32>>, x: &Act) -> Result<()> {
        moe::route(step, spec, bias.map(Vec::as_slice), x);
        Ok(())
    }

    fn experts(
        &self,
        step: &mut Step,
        spec: &FfnSpec,
        w: &ExpertWeights<Weight, Vec<f32>>,
        x: &Act,
        out: &mut Act,
    ) -> Result<()> {
        moe::experts(self, step, spec, w, x, out);
        Ok(())
    }

    fn gate_rows(&self, _step: &Step, x: &mut Act, gate: &Act) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, r| self.ops.scale(row, 1.0 / (1.0 + (-gate.row(r)[0]).exp())));
        Ok(())
    }

    fn gather(&self, step: &Step, x: &Act, out: &mut Act) -> Result<()> {
        out.shape(step.outputs.len(), x.width());
        self.rows_mut(out, 0..x.width(), |row, r| row.copy_from_slice(x.row(step.outputs[r] as usize)));
        Ok(())
    }

    fn softcap(&self, _step: &Step, x: &mut Act, cap: f32) -> Result<()> {
        let cols = 0..x.width();
        self.rows_mut(x, cols, |row, _| self.ops.softcap(row, cap));
        Ok(())
    }

    fn write(&self, _step: &mut Step, rows: &[f32], width: usize, x: &mut Act) -> Result<()> {
        x.shape(rows.len() / width, width);
        self.rows_mut(x, 0..width, |row, r| row.copy_from_slice(&rows[r * width..(r + 1) * width]));
        Ok(())
    }

    fn read<'a>(&self, step: &'a mut Step, x: &'a Act) -> Result<&'a [f32]> {
        if x.width() == x.stride() {
            return Ok(&x.data()[..x.rows() * x.width()]);
        }
        step.compact.clear();
        for r in 0..x.rows() {
            step.compact.extend_from_slice(x.row(r));
        }
        Ok(&step.compact)
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
            (Some(latent), Some(up)) => latent_in(self, step, spec, latent, w, up, kv, layer, s)?,
            _ => stages::attn_in(self, step, spec, w, kv, layer, s),
        }
        Ok(())
    }

    fn attn_out(
        &self,
        step: &mut Step,
        spec: &AttnSpec,
        w: &AttnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        match (&spec.latent, &w.latent) {
            (Some(latent), Some(up)) => latent_out(self, step, spec, latent, w, up, s)?,
            _ => {
                if spec.gated {
                    self.gate_columns(step, &mut s.attn, &s.qkv, spec.qkv_dim())?;
                }
                stages::attn_out(self, step, spec, w, s);
            }
        }
        Ok(())
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
        conv::conv_in(self, step, spec, w, kv, layer, s);
        Ok(())
    }

    fn conv_out(
        &self,
        step: &mut Step,
        spec: &ConvSpec,
        w: &ConvWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let ConvWeights { norm: _, bcx: _, taps: _, out } = w;
        stages::mixer_out(self, step, spec.norm, out, None, None, s);
        Ok(())
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
        delta::delta_in(self, step, spec, w, kv, layer, s);
        Ok(())
    }

    fn delta_out(
        &self,
        step: &mut Step,
        spec: &DeltaSpec,
        w: &DeltaWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let DeltaWeights { norm: _, input: _, rule: _, out } = w;
        stages::mixer_out(self, step, spec.norm, out, None, None, s);
        Ok(())
    }

    fn ffn(
        &self,
        step: &mut Step,
        spec: &FfnSpec,
        w: &FfnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        stages::ffn(self, step, spec, w, s);
        Ok(())
    }
}

impl Cpu {
    /// `out[r] = weight * x[r]`, a row per role.
    fn product(&self, weight: &Weight, x: &Act, roles: &[Role], out: &mut Act) {
        self.product_heads(std::slice::from_ref(weight), x, roles, out);
    }

    /// `out[h * rows + r] = weights[h] * x[h * rows + r]`, a row per role; the weights are alike in shape and format.
    fn product_heads(&self, weights: &[Weight], x: &Act, roles: &[Role], out: &mut Act) {
        let (Some(first), n) = (weights.first(), roles.len()) else { return };
        if let Some(inputs) = &self.inputs {
            for (h, weight) in weights.iter().enumerate() {
                weight.recorded().into_iter().for_each(|number| inputs.add(number, x, h * n..(h + 1) * n));
            }
        }
        out.shape(x.rows(), first.rows());
        let mut guard = x.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        let input = Input { float: x.view(), rounded: guard.view(x.width()) };
        let out = out.view_mut();
        self.team.run(|w| {
            // SAFETY: rows are rounded each by one worker before the barrier, read after it; each output column is
            // written by the one worker that has its group.
            unsafe {
                if first.wants_rounded() {
                    for r in w.share(x.rows()) {
                        first.put(self, x.row(r), input, roles[r % n], r, 0..x.width());
                    }
                    w.barrier();
                }
                for (h, weight) in weights.iter().enumerate() {
                    for rows in weight.passes(roles) {
                        let role = roles[rows.start];
                        weight.multiply(
                            weight.share(w),
                            input,
                            role,
                            h * n + rows.start..h * n + rows.end,
                            out,
                        );
                    }
                }
            }
        });
    }

    /// `x[to(r)] += y[r]`; no two rows go to the same one.
    fn add_rows(&self, x: &mut Act, y: &Act, to: impl Fn(usize) -> usize + Sync) {
        let (rows, view) = (y.rows(), x.view_mut());
        self.team.run(|w| {
            for r in w.share(rows) {
                // SAFETY: row `to(r)` is this worker's, as row `r` is.
                self.ops.add(unsafe { view.row_mut(to(r), 0..view.width) }, y.row(r));
            }
        });
    }

    /// Calls `f` on columns `cols` of every row of `x`, rows split over the team.
    fn rows_mut(&self, x: &mut Act, cols: Range<usize>, f: impl Fn(&mut [f32], usize) + Sync) {
        let (rows, view) = (x.rows(), x.view_mut());
        self.team.run(|w| {
            for r in w.share(rows) {
                // SAFETY: row `r` is this worker's.
                f(unsafe { view.row_mut(r, cols.clone()) }, r);
            }
        });
    }

    /// `out = act(gate) * up`, or `act(gate)` without `up`.
    fn activate_slices(&self, act: Activation, gate: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
        match (act, up) {
            (Activation::Silu, Some(up)) => self.ops.silu_mul(gate, up, out),
            (Activation::GeluTanh, Some(up)) => self.ops.gelu_tanh_mul(gate, up, out),
            (Activation::Gelu, Some(up)) => self.ops.gelu_mul(gate, up, out),
            (Activation::SwigluOai, Some(up)) => self.ops.swiglu_oai_mul(gate, up, out),
            (act, None) => {
                out.copy_from_slice(gate);
                self.activate_row(act, out);
            }
        }
    }

    fn activate_row(&self, act: Activation, x: &mut [f32]) {
        match act {
            Activation::Silu => self.ops.silu(x),
            Activation::GeluTanh => self.ops.gelu_tanh(x),
            Activation::Gelu => self.ops.gelu(x),
            Activation::SwigluOai => self.ops.swiglu_oai(x),
        }
    }

    fn norm_row(&self, spec: NormSpec, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        match spec.kind {
            NormKind::Rms => self.ops.rms_norm(x, weight, spec.eps, out),
            NormKind::Layer => self.ops.layer_norm(x, weight, bias, spec.eps, out),
        }
    }
}
