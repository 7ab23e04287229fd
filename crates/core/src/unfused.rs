//! A backend with every fused stage switched off.

use crate::backend::{Backend, DeltaVectors, ExpertWeights, Heads, Matrix, Read};
use crate::{
    Activation, AttnSpec, Batch, ConvSpec, DeltaSpec, ExpertSpec, FfnSpec, Format, KvTypes, NormSpec,
    PartSpec, Result, RopeSpec,
};
use std::ops::Range;

/// Runs the default stages of `B`: the definition that `B`'s fused stages must equal.
pub struct Unfused<B>(pub B);

impl<B: Backend> Backend for Unfused<B> {
    type Weight = B::Weight;
    type Vector = B::Vector;
    type Act = B::Act;
    type Kv = B::Kv;
    type Step = B::Step;

    fn describe(&self) -> String {
        self.0.describe()
    }
    fn available_memory(&self) -> Option<u64> {
        self.0.available_memory()
    }
    fn weight(&self, parts: &[Matrix<'_>]) -> Result<Self::Weight> {
        self.0.weight(parts)
    }
    fn weight_bytes(&self, rows: usize, cols: usize, format: Format) -> u64 {
        self.0.weight_bytes(rows, cols, format)
    }
    fn vector(&self, values: &[f32]) -> Result<Self::Vector> {
        self.0.vector(values)
    }
    fn act(&self, rows: usize, width: usize) -> Result<Self::Act> {
        self.0.act(rows, width)
    }
    fn act_bytes(&self, rows: usize, width: usize) -> u64 {
        self.0.act_bytes(rows, width)
    }
    fn kv(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> Result<Self::Kv> {
        self.0.kv(part, blocks, states, types)
    }
    fn kv_bytes(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        self.0.kv_bytes(part, blocks, states, types)
    }
    fn step(&self, part: &PartSpec, rows: usize, blocks: usize) -> Result<Self::Step> {
        self.0.step(part, rows, blocks)
    }
    fn begin(&self, step: &mut Self::Step, ropes: &[RopeSpec], batch: &Batch) -> Result<()> {
        self.0.begin(step, ropes, batch)
    }
    fn embed(&self, step: &Self::Step, table: &Self::Weight, scale: f32, out: &mut Self::Act) -> Result<()> {
        self.0.embed(step, table, scale, out)
    }
    fn add_positions(&self, step: &Self::Step, table: &Self::Vector, x: &mut Self::Act) -> Result<()> {
        self.0.add_positions(step, table, x)
    }
    fn norm(
        &self,
        step: &Self::Step,
        x: &Self::Act,
        spec: NormSpec,
        weight: &Self::Vector,
        bias: Option<&Self::Vector>,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.norm(step, x, spec, weight, bias, out)
    }
    fn rms_norm_heads(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        weight: &Self::Vector,
        eps: f32,
    ) -> Result<()> {
        self.0.rms_norm_heads(step, x, cols, weight, eps)
    }
    fn layer_norm_heads(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        width: usize,
        weight: &Self::Vector,
        bias: Option<&Self::Vector>,
        eps: f32,
    ) -> Result<()> {
        self.0.layer_norm_heads(step, x, cols, width, weight, bias, eps)
    }
    fn linear(
        &self,
        step: &Self::Step,
        weight: &Self::Weight,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.linear(step, weight, x, out)
    }
    fn linear_heads(
        &self,
        step: &Self::Step,
        weights: &[Self::Weight],
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.linear_heads(step, weights, x, out)
    }
    fn rearrange(
        &self,
        step: &Self::Step,
        x: &Self::Act,
        from: Heads,
        out: &mut Self::Act,
        to: Heads,
        heads: usize,
        width: usize,
    ) -> Result<()> {
        self.0.rearrange(step, x, from, out, to, heads, width)
    }
    fn add_bias(&self, step: &Self::Step, x: &mut Self::Act, bias: &Self::Vector) -> Result<()> {
        self.0.add_bias(step, x, bias)
    }
    fn add(&self, step: &Self::Step, x: &mut Self::Act, y: &Self::Act) -> Result<()> {
        self.0.add(step, x, y)
    }
    fn rope(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        head_dim: usize,
        rope: usize,
    ) -> Result<()> {
        self.0.rope(step, x, cols, head_dim, rope)
    }
    fn kv_write(
        &self,
        step: &Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Self::Act,
    ) -> Result<()> {
        self.0.kv_write(step, kv, layer, spec, qkv)
    }
    fn attend(
        &self,
        step: &mut Self::Step,
        kv: &Self::Kv,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Self::Vector>,
        qkv: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.attend(step, kv, layer, spec, sinks, qkv, out)
    }
    fn short_conv(
        &self,
        step: &mut Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &ConvSpec,
        taps: &Self::Vector,
        bcx: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.short_conv(step, kv, layer, spec, taps, bcx, out)
    }
    fn delta_rule(
        &self,
        step: &mut Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &DeltaSpec,
        w: &DeltaVectors<Self::Vector>,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.delta_rule(step, kv, layer, spec, w, x, out)
    }
    fn gate_columns(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        gate: &Self::Act,
        first: usize,
    ) -> Result<()> {
        self.0.gate_columns(step, x, gate, first)
    }
    fn glu(&self, step: &Self::Step, act: Activation, x: &Self::Act, out: &mut Self::Act) -> Result<()> {
        self.0.glu(step, act, x, out)
    }
    fn activate(&self, step: &Self::Step, act: Activation, x: &mut Self::Act) -> Result<()> {
        self.0.activate(step, act, x)
    }
    fn route(
        &self,
        step: &mut Self::Step,
        spec: ExpertSpec,
        bias: Option<&Self::Vector>,
        x: &Self::Act,
    ) -> Result<()> {
        self.0.route(step, spec, bias, x)
    }
    fn experts(
        &self,
        step: &mut Self::Step,
        spec: &FfnSpec,
        w: &ExpertWeights<Self::Weight, Self::Vector>,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()> {
        self.0.experts(step, spec, w, x, out)
    }
    fn gate_rows(&self, step: &Self::Step, x: &mut Self::Act, gate: &Self::Act) -> Result<()> {
        self.0.gate_rows(step, x, gate)
    }
    fn gather(&self, step: &Self::Step, x: &Self::Act, out: &mut Self::Act) -> Result<()> {
        self.0.gather(step, x, out)
    }
    fn softcap(&self, step: &Self::Step, x: &mut Self::Act, cap: f32) -> Result<()> {
        self.0.softcap(step, x, cap)
    }
    fn write(&self, step: &mut Self::Step, rows: &[f32], width: usize, x: &mut Self::Act) -> Result<()> {
        self.0.write(step, rows, width, x)
    }
    fn read<'a>(&self, step: &'a mut Self::Step, x: &'a Self::Act) -> Result<&'a [f32]> {
        self.0.read(step, x)
    }
    fn read_drawn<'a>(&self, step: &'a mut Self::Step, logits: &'a Self::Act) -> Result<Read<'a>> {
        self.0.read_drawn(step, logits)
    }
}
