//! The seam between models and devices.
//!
//! A [`Backend`] offers *primitives*, which every device must implement, and *stages*, which are composed of
//! primitives here and which a fast device overrides by fused versions. An override must equal its default: the
//! adaptor [`Unfused`](crate::Unfused) runs the defaults of any backend, and the backend suite compares the two.
//!
//! Overrides destructure the specs with every field named, so that a new field in [`crate::spec`] is a compile
//! error in each fused path until it is dealt with.

use crate::{
    Activation, AttnSpec, Batch, ConvSpec, DeltaSpec, Drawn, ExpertSpec, FfnSpec, Format, KvTypes, ModelSpec,
    NormSpec, PartSpec, QkNorm, Result, RopeSpec,
};
use std::ops::Range;

pub use crate::latent::{latent_in, latent_out};
pub use crate::matrix::{Matrix, RowOrder};
pub use crate::weights::{
    AttnWeights, ConvWeights, DeltaVectors, DeltaWeights, ExpertWeights, Ffn, FfnWeights, HeadWeights,
    LatentScratch, LatentWeights, Layer, MixerWeights, MoeWeights, NormWeights, Scratch, SharedExpert,
};

/// Where the heads of a row lie in activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Head `h` of row `r` begins at `x[r][first + h * stride]`.
    Columns {
        /// Column of the first.
        first: usize,
        /// Columns from one to the next.
        stride: usize,
        /// Width of `x`.
        width: usize,
    },
    /// Head `h` of row `r` is row `h * rows + r`.
    Rows,
}

/// What is read of logits.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// All of them, `[rows, vocab]`.
    All(&'a [f32]),
    /// The token of each row, see [`crate::Outputs::drawn`].
    Drawn(&'a [Drawn]),
}

/// A device: makes weights and buffers, and computes on them.
///
/// All computing methods write into their `&mut` argument and act on the rows last set by [`Backend::begin`]. A
/// method that is provided here is always right for every device; it never answers "unsupported".
pub trait Backend: Send + Sync + Sized + 'static {
    /// A matrix prepared for [`Backend::linear`]: one or several stored matrices, their rows concatenated.
    type Weight: Send + Sync;
    /// A small vector of floats: norm weights, biases.
    type Vector: Send + Sync;
    /// A buffer of activations, `[rows, width]`.
    type Act: Send;
    /// The paged cache of all layers: keys and values of attention, tails of convolutions ([`ConvSpec::tail`]).
    type Kv: Send;
    /// The state of a step: positions, block tables, rotary tables, attention scratch.
    type Step: Send;

    /// The device for people, e.g. `cpu (avx512vnni, 2 threads)`.
    fn describe(&self) -> String;
    /// Bytes that can be allocated on the device now, where it has memory of its own; `None`: it uses the machine's.
    fn available_memory(&self) -> Option<u64> {
        None
    }

    // --- memory -----------------------------------------------------------------------------------------------

    /// Prepares a weight from stored matrices of equal `cols`, their rows concatenated in the given order.
    fn weight(&self, parts: &[Matrix<'_>]) -> Result<Self::Weight>;
    /// Bytes that [`Backend::weight`] of such a matrix takes on the device.
    fn weight_bytes(&self, rows: usize, cols: usize, format: Format) -> u64;
    /// Copies a vector to the device.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector>;
    /// Allocates activations for at most `rows` rows.
    fn act(&self, rows: usize, width: usize) -> Result<Self::Act>;
    /// Bytes of such activations.
    fn act_bytes(&self, rows: usize, width: usize) -> u64;
    /// Allocates a cache of `blocks` blocks for every attention and every convolution block of the part, and `states` states for every
    /// delta net.
    ///
    /// # Errors
    /// [`crate::Error::CacheType`] for a type that this device does not have, [`crate::Error::OutOfMemory`].
    fn kv(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> Result<Self::Kv>;
    /// Bytes of such a cache.
    fn kv_bytes(&self, part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64;
    /// Allocates the step state for at most `rows` rows and `blocks` cache blocks.
    fn step(&self, part: &PartSpec, rows: usize, blocks: usize) -> Result<Self::Step>;

    // --- primitives -------------------------------------------------------------------------------------------

    /// Takes over a checked batch: row count, positions, block tables; computes the cosines and sines of `ropes`.
    fn begin(&self, step: &mut Self::Step, ropes: &[RopeSpec], batch: &Batch) -> Result<()>;
    /// `out[r] = scale * table[tokens[r]]` for the batch's tokens.
    fn embed(&self, step: &Self::Step, table: &Self::Weight, scale: f32, out: &mut Self::Act) -> Result<()>;
    /// `x[r] += table[position of r]`; the table holds rows of the width of `x`, one after the other.
    fn add_positions(&self, step: &Self::Step, table: &Self::Vector, x: &mut Self::Act) -> Result<()>;
    /// `out[r] = norm(x[r])`, see [`crate::NormKind`].
    fn norm(
        &self,
        step: &Self::Step,
        x: &Self::Act,
        spec: NormSpec,
        weight: &Self::Vector,
        bias: Option<&Self::Vector>,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// RMS norm in place over each `n` elements of `x[r][cols]`, with one weight of `n` values: those of a head, or all.
    fn rms_norm_heads(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        weight: &Self::Vector,
        eps: f32,
    ) -> Result<()>;
    /// Layer norm in place over each `width` elements of `x[r][cols]`, which weight and bias are as long as.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm_heads(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        width: usize,
        weight: &Self::Vector,
        bias: Option<&Self::Vector>,
        eps: f32,
    ) -> Result<()>;
    /// `out[r] = weight * x[r]`.
    fn linear(
        &self,
        step: &Self::Step,
        weight: &Self::Weight,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// `out[h * rows + r] = weights[h] * x[h * rows + r]`: a product for each head, see [`Heads::Rows`].
    fn linear_heads(
        &self,
        step: &Self::Step,
        weights: &[Self::Weight],
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// Copies the first `width` elements of each of `heads` heads of every row. Other columns of `out` stay, if it had its shape.
    #[allow(clippy::too_many_arguments)]
    fn rearrange(
        &self,
        step: &Self::Step,
        x: &Self::Act,
        from: Heads,
        out: &mut Self::Act,
        to: Heads,
        heads: usize,
        width: usize,
    ) -> Result<()>;
    /// `x[r] += bias` for every row.
    fn add_bias(&self, step: &Self::Step, x: &mut Self::Act, bias: &Self::Vector) -> Result<()>;
    /// `x += y`.
    fn add(&self, step: &Self::Step, x: &mut Self::Act, y: &Self::Act) -> Result<()>;
    /// Turns each head of `x[r][cols]` by its row's position, with rotary table `rope`.
    fn rope(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        cols: Range<usize>,
        head_dim: usize,
        rope: usize,
    ) -> Result<()>;
    /// Writes the keys and values in `qkv[r]` (laid out `q | k | v` by `spec`) to the cache of attention block `layer` of the part,
    /// at each row's position.
    fn kv_write(
        &self,
        step: &Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Self::Act,
    ) -> Result<()>;
    /// `out[r] = softmax(scale * q.k) v` per head over the keys that the row may see; `q` is `qkv[r][..q_dim]`. `sinks`, `[heads]`,
    /// are scores that take part in the softmax and have no value, see [`AttnWeights::sinks`].
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &self,
        step: &mut Self::Step,
        kv: &Self::Kv,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Self::Vector>,
        qkv: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// The gated short convolution of [`ConvSpec`] without its projections: `bcx[r]` is laid out `b | c | x`, and `taps` are the
    /// weights, `[taps, width]`. Reads positions before a run from the tails of convolution block `layer` of the part, and writes
    /// those of the run that later ones may read.
    #[allow(clippy::too_many_arguments)]
    fn short_conv(
        &self,
        step: &mut Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &ConvSpec,
        taps: &Self::Vector,
        bcx: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// The gated delta rule of [`DeltaSpec`] without its projections: `x[r]` is laid out `q | k | v | z | b | a`. Of each run the state
    /// [`Run::state`](crate::Run::state) of delta net `layer` of the part goes on, a position at a time; from position 0 it is zeros before.
    #[allow(clippy::too_many_arguments)]
    fn delta_rule(
        &self,
        step: &mut Self::Step,
        kv: &mut Self::Kv,
        layer: usize,
        spec: &DeltaSpec,
        w: &DeltaVectors<Self::Vector>,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// `x[r] *= sigmoid(gate[r][first..])`, as many columns as `x` has.
    fn gate_columns(
        &self,
        step: &Self::Step,
        x: &mut Self::Act,
        gate: &Self::Act,
        first: usize,
    ) -> Result<()>;
    /// `out[r] = act(x[r][..hidden]) * x[r][hidden..]`; `x` is laid out `gate | up`. See [`Activation`] for what does more.
    fn glu(&self, step: &Self::Step, act: Activation, x: &Self::Act, out: &mut Self::Act) -> Result<()>;
    /// `x = act(x)`.
    fn activate(&self, step: &Self::Step, act: Activation, x: &mut Self::Act) -> Result<()>;
    /// Chooses the experts of every row by its router logits `x[r]`, `[experts]`, see [`Routing`](crate::Routing); `bias`,
    /// `[experts]`, is added for the choice alone. [`Backend::experts`] then knows them.
    fn route(
        &self,
        step: &mut Self::Step,
        spec: ExpertSpec,
        bias: Option<&Self::Vector>,
        x: &Self::Act,
    ) -> Result<()>;
    /// `out[r]` = the weighted sum of the outputs of `x[r]`'s experts.
    fn experts(
        &self,
        step: &mut Self::Step,
        spec: &FfnSpec,
        w: &ExpertWeights<Self::Weight, Self::Vector>,
        x: &Self::Act,
        out: &mut Self::Act,
    ) -> Result<()>;
    /// `x[r] *= sigmoid(gate[r])`; `gate` is `[rows, 1]`.
    fn gate_rows(&self, step: &Self::Step, x: &mut Self::Act, gate: &Self::Act) -> Result<()>;
    /// `out[i] = x[batch.outputs[i]]`. `out` then has one row per output, until the next [`Backend::begin`].
    fn gather(&self, step: &Self::Step, x: &Self::Act, out: &mut Self::Act) -> Result<()>;
    /// `x = cap * tanh(x / cap)`.
    fn softcap(&self, step: &Self::Step, x: &mut Self::Act, cap: f32) -> Result<()>;
    /// Copies `rows`, `[rows, width]`, to `x`: the residual stream, from another device. Ends what [`Backend::read`] began: between
    /// the two the device computes nothing.
    fn write(&self, step: &mut Self::Step, rows: &[f32], width: usize, x: &mut Self::Act) -> Result<()>;
    /// Waits for the device and returns the rows of `x`, `[rows, width]`.
    fn read<'a>(&self, step: &'a mut Self::Step, x: &'a Self::Act) -> Result<&'a [f32]>;
    /// Waits for the device and returns rows of logits, `[rows, vocab]`, or, if the device can, only the tokens that [`Batch::draws`] give: the
    /// same that the host would draw. Only for a batch that has draws.
    fn read_drawn<'a>(&self, step: &'a mut Self::Step, logits: &'a Self::Act) -> Result<Read<'a>> {
        self.read(step, logits).map(Read::All)
    }

    // --- stages -----------------------------------------------------------------------------------------------

    /// Norm where the block has one, fused q|k|v projection with bias, q and k norms, rotary embedding, cache write.
    /// Afterwards `s.qkv[r][..q_dim]` holds the queries.
    fn attn_in(
        &self,
        step: &mut Self::Step,
        spec: &AttnSpec,
        w: &AttnWeights<Self>,
        kv: &mut Self::Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        if let (Some(latent), Some(weights)) = (&spec.latent, &w.latent) {
            return latent_in(self, step, spec, latent, w, weights, kv, layer, s);
        }
        let input = input(self, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
        self.linear(step, &w.qkv, input, &mut s.qkv)?;
        if let Some(bias) = &w.qkv_bias {
            self.add_bias(step, &mut s.qkv, bias)?;
        }
        let (q, k) = (0..spec.q_dim(), spec.q_dim()..spec.q_dim() + spec.kv_dim());
        for (norm, cols) in [(&w.q_norm, q.clone()), (&w.k_norm, k.clone())] {
            let (Some(NormWeights { weight, bias }), Some(kind)) = (norm, spec.qk_norm) else { continue };
            match kind {
                QkNorm::Heads | QkNorm::Rows => {
                    self.rms_norm_heads(step, &mut s.qkv, cols, weight, spec.norm.eps)?;
                }
                QkNorm::LayerHeads | QkNorm::LayerRows => {
                    let (width, bias) = (spec.qk_norm_width(cols.len()), bias.as_ref());
                    self.layer_norm_heads(step, &mut s.qkv, cols, width, weight, bias, spec.norm.eps)?;
                }
            }
        }
        if let Some(rope) = spec.rope {
            self.rope(step, &mut s.qkv, q.start..k.end, spec.head_dim, rope)?;
        }
        self.kv_write(step, kv, layer, spec, &s.qkv)
    }

    /// Attention's gate where it has one, its output projection, its post-norm where the model has one, and the residual: `s.x += …(s.attn)`.
    fn attn_out(
        &self,
        step: &mut Self::Step,
        spec: &AttnSpec,
        w: &AttnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        if let (Some(latent), Some(weights)) = (&spec.latent, &w.latent) {
            return latent_out(self, step, spec, latent, w, weights, s);
        }
        if spec.gated {
            self.gate_columns(step, &mut s.attn, &s.qkv, spec.qkv_dim())?;
        }
        self.linear(step, &w.out, &s.attn, &mut s.proj)?;
        residual(self, step, &w.out_bias, spec.norm, &w.post_norm, s)
    }

    /// Norm where the block has one, fused b|c|x projection, and the convolution: `s.attn[r]` is what its output projection reads.
    fn conv_in(
        &self,
        step: &mut Self::Step,
        spec: &ConvSpec,
        w: &ConvWeights<Self>,
        kv: &mut Self::Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let input = input(self, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
        self.linear(step, &w.bcx, input, &mut s.qkv)?;
        self.short_conv(step, kv, layer, spec, &w.taps, &s.qkv, &mut s.attn)
    }

    /// A convolution's output projection and the residual: `s.x += …(s.attn)`.
    fn conv_out(
        &self,
        step: &mut Self::Step,
        spec: &ConvSpec,
        w: &ConvWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        self.linear(step, &w.out, &s.attn, &mut s.proj)?;
        residual(self, step, &None, spec.norm, &None, s)
    }

    /// Norm where the block has one, fused projection, and the delta rule: `s.attn[r]` is what its output projection reads.
    fn delta_in(
        &self,
        step: &mut Self::Step,
        spec: &DeltaSpec,
        w: &DeltaWeights<Self>,
        kv: &mut Self::Kv,
        layer: usize,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let input = input(self, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
        self.linear(step, &w.input, input, &mut s.qkv)?;
        self.delta_rule(step, kv, layer, spec, &w.rule, &s.qkv, &mut s.attn)
    }

    /// A delta net's output projection and the residual: `s.x += …(s.attn)`.
    fn delta_out(
        &self,
        step: &mut Self::Step,
        spec: &DeltaSpec,
        w: &DeltaWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        self.linear(step, &w.out, &s.attn, &mut s.proj)?;
        residual(self, step, &None, spec.norm, &None, s)
    }

    /// The whole feed-forward block with norms and residual: `s.x += …(s.x)`. Leaves `s.attn` as it is.
    fn ffn(
        &self,
        step: &mut Self::Step,
        spec: &FfnSpec,
        w: &FfnWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let input = input(self, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
        let up = if spec.gated { &mut s.gate_up } else { &mut s.hidden };
        self.linear(step, &w.gate_up, input, up)?;
        if let Some(bias) = &w.gate_up_bias {
            self.add_bias(step, up, bias)?;
        }
        match spec.gated {
            true => self.glu(step, spec.act, &s.gate_up, &mut s.hidden)?,
            false => self.activate(step, spec.act, &mut s.hidden)?,
        }
        self.linear(step, &w.down, &s.hidden, &mut s.proj)?;
        residual(self, step, &w.down_bias, spec.norm, &w.post_norm, s)
    }

    /// The feed-forward block where it is a mixture of experts: `s.x += …(s.x)`. Leaves `s.attn` as it is.
    fn moe(
        &self,
        step: &mut Self::Step,
        spec: &FfnSpec,
        w: &MoeWeights<Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        let input = input(self, step, spec.norm, &w.norm, &s.x, &mut s.norm)?;
        self.linear(step, &w.router, input, &mut s.router)?;
        if let Some(bias) = &w.router_bias {
            self.add_bias(step, &mut s.router, bias)?;
        }
        self.route(step, w.spec, w.choice_bias.as_ref(), &s.router)?;
        self.experts(step, spec, &w.experts, input, &mut s.proj)?;
        if let Some(w) = &w.shared {
            self.linear(step, &w.gate_up, input, &mut s.gate_up)?;
            self.glu(step, spec.act, &s.gate_up, &mut s.hidden)?;
            self.linear(step, &w.down, &s.hidden, &mut s.shared)?;
            if let Some(gate) = &w.gate {
                self.linear(step, gate, input, &mut s.shared_gate)?;
                self.gate_rows(step, &mut s.shared, &s.shared_gate)?;
            }
            self.add(step, &mut s.proj, &s.shared)?;
        }
        residual(self, step, &None, spec.norm, &w.post_norm, s)
    }

    /// Final norm and output head for the wanted rows: `s.logits = head(norm(gather(s.x)))`.
    fn head(
        &self,
        step: &mut Self::Step,
        spec: &ModelSpec,
        w: &HeadWeights<'_, Self>,
        s: &mut Scratch<Self>,
    ) -> Result<()> {
        self.gather(step, &s.x, &mut s.last)?;
        self.norm(step, &s.last, spec.norm, &w.norm.weight, w.norm.bias.as_ref(), &mut s.last_norm)?;
        self.linear(step, w.head, &s.last_norm, &mut s.logits)?;
        if let Some(bias) = w.bias {
            self.add_bias(step, &mut s.logits, bias)?;
        }
        match spec.logit_softcap {
            Some(cap) => self.softcap(step, &mut s.logits, cap),
            None => Ok(()),
        }
    }
}

/// What a block reads: the norm of `x`, or `x` itself.
pub(crate) fn input<'a, B: Backend>(
    b: &B,
    step: &B::Step,
    spec: NormSpec,
    w: &Option<NormWeights<B>>,
    x: &'a B::Act,
    norm: &'a mut B::Act,
) -> Result<&'a B::Act> {
    match w {
        Some(w) => b.norm(step, x, spec, &w.weight, w.bias.as_ref(), norm).map(|()| &*norm),
        None => Ok(x),
    }
}

/// The end of a block: `s.x += norm(s.proj + bias)`.
pub(crate) fn residual<B: Backend>(
    b: &B,
    step: &B::Step,
    bias: &Option<B::Vector>,
    spec: NormSpec,
    post_norm: &Option<NormWeights<B>>,
    s: &mut Scratch<B>,
) -> Result<()> {
    if let Some(bias) = bias {
        b.add_bias(step, &mut s.proj, bias)?;
    }
    match post_norm {
        Some(w) => {
            b.norm(step, &s.proj, spec, &w.weight, w.bias.as_ref(), &mut s.norm)?;
            b.add(step, &mut s.x, &s.norm)
        }
        None => b.add(step, &mut s.x, &s.proj),
    }
}
