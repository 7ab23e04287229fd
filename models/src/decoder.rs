//! The forward pass of every transformer, decoder or encoder, block by block, over any [`Backend`].

use crate::parts::{Block, Has, Part, PartRunner};
use kinfer_core::backend::{
    Ffn, HeadWeights, Heads, LatentScratch, Layer, MixerWeights, NormWeights, Read, Scratch,
};
use kinfer_core::{
    AttnSpec, Backend, Batch, DeltaSpec, DeviceMemory, FfnSpec, LatentSpec, ModelSpec, NormSpec, Outputs,
    PartSpec, Result, RunnerLimits,
};
use std::ops::Range;
use std::sync::Arc;

/// The weights of a transformer, or of the part of it that one device computes.
pub struct Decoder<B: Backend> {
    pub(crate) backend: B,
    pub(crate) spec: Arc<ModelSpec>,
    pub(crate) has: Has,
    pub(crate) part: PartSpec,
    /// `[vocab, dim]`; the first block needs it, and a head that is tied to it.
    pub(crate) embed: Option<B::Weight>,
    /// Added to each embedding, `[dim]`.
    pub(crate) embed_bias: Option<B::Vector>,
    /// Learned positions, `[context, dim]`.
    pub(crate) positions: Option<B::Vector>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) head: Option<Head<B>>,
    pub(crate) bytes_per_token: u64,
    pub(crate) weight_bytes: u64,
}

/// Final norm and output head.
pub(crate) struct Head<B: Backend> {
    pub norm: NormWeights<B>,
    /// `[vocab, dim]`; `None` where the embedding table is the head too, or there is none.
    pub weight: Option<B::Weight>,
    /// `[vocab]`.
    pub bias: Option<B::Vector>,
}

/// One device's working state of its part: cache, step state and activations.
struct PartState<B: Backend> {
    decoder: Arc<Decoder<B>>,
    kv: B::Kv,
    step: B::Step,
    scratch: Scratch<B>,
    /// [`RunnerLimits::logits`].
    logits: bool,
}

impl<B: Backend> PartState<B> {
    /// Computes blocks `blocks` of layer `i`, whose mixer is number `cached` of its kind in the cache.
    fn layer(&mut self, i: usize, cached: usize, blocks: [bool; 2]) -> Result<()> {
        let Self { decoder, kv, step, scratch: s, .. } = self;
        let (b, spec, w) = (&decoder.backend, &decoder.spec.layers[i], &decoder.layers[i]);
        let Layer { stream_norms: [before_mixer, before_ffn], renorms, .. } = w;
        let ffn = |step: &mut B::Step, s: &mut Scratch<B>| match &w.ffn {
            Some(Ffn::Dense(w)) => b.ffn(step, &spec.ffn, w, s),
            Some(Ffn::Mixture(w)) => b.moe(step, &spec.ffn, w, s),
            None => Ok(()),
        };
        if let Some(w) = w.mixer.as_ref().filter(|_| blocks[0]) {
            if let Some(w) = before_mixer {
                norm_stream(b, step, spec.mixer.norm(), w, s)?;
            }
            if renorms.is_some() {
                let all = Heads::Columns { first: 0, stride: 0, width: decoder.spec.dim };
                b.rearrange(step, &s.x, all, &mut s.kept, all, 1, decoder.spec.dim)?;
            }
            match w {
                MixerWeights::Attention(spec, w) => {
                    b.attn_in(step, spec, w, kv, cached, s)?;
                    b.attend(step, kv, cached, spec, w.sinks.as_ref(), &s.qkv, &mut s.attn)?;
                }
                MixerWeights::Convolution(spec, w) => b.conv_in(step, spec, w, kv, cached, s)?,
                MixerWeights::DeltaNet(spec, w) => b.delta_in(step, spec, w, kv, cached, s)?,
            }
            // In a parallel layer both blocks read the same `x`: the second one to read it comes before the first adds to it.
            if spec.parallel {
                ffn(step, s)?;
            }
            match w {
                MixerWeights::Attention(spec, w) => b.attn_out(step, spec, w, s)?,
                MixerWeights::Convolution(spec, w) => b.conv_out(step, spec, w, s)?,
                MixerWeights::DeltaNet(spec, w) => b.delta_out(step, spec, w, s)?,
            }
            if let Some([first, second]) = renorms {
                norm_stream(b, step, spec.mixer.norm(), first, s)?;
                b.add(step, &mut s.x, &s.kept)?;
                norm_stream(b, step, spec.ffn.norm, second, s)?;
            }
        }
        if blocks[1] && !spec.parallel {
            if let Some(w) = before_ffn {
                norm_stream(b, step, spec.ffn.norm, w, s)?;
            }
            ffn(step, s)?;
        }
        Ok(())
    }
}

impl<B: Backend> PartRunner for PartState<B> {
    fn begin(&mut self, context: usize, batch: &Batch) -> Result<()> {
        let Self { decoder, step, .. } = self;
        let ropes = if decoder.part.attn.is_empty() { &[] } else { decoder.spec.ropes_for(context) };
        decoder.backend.begin(step, ropes, batch)
    }

    fn run(&mut self, blocks: Range<usize>, stream: Option<&[f32]>) -> Result<()> {
        let decoder = self.decoder.clone();
        let (b, spec) = (&decoder.backend, &decoder.spec);
        if let Some(rows) = stream {
            b.write(&mut self.step, rows, spec.dim, &mut self.scratch.x)?;
        }
        for block in Block::of(blocks, spec.layers.len()) {
            let Self { step, scratch: s, .. } = self;
            match block {
                Block::Embed => {
                    if let Some(table) = &decoder.embed {
                        b.embed(step, table, spec.embed_scale, &mut s.x)?;
                    }
                    if let Some(bias) = &decoder.embed_bias {
                        b.add_bias(step, &mut s.x, bias)?;
                    }
                    if let Some(table) = &decoder.positions {
                        b.add_positions(step, table, &mut s.x)?;
                    }
                }
                Block::Layer(i, blocks) => self.layer(i, decoder.has.cached(spec, i), blocks)?,
                Block::Head => {
                    let Some(head) = &decoder.head else { continue };
                    if !self.logits {
                        b.gather(step, &s.x, &mut s.last)?;
                        let NormWeights { weight, bias } = &head.norm;
                        b.norm(step, &s.last, spec.norm, weight, bias.as_ref(), &mut s.last_norm)?;
                        continue;
                    }
                    let Some(weight) = head.weight.as_ref().or(decoder.embed.as_ref()) else { continue };
                    let weights = HeadWeights { norm: &head.norm, head: weight, bias: head.bias.as_ref() };
                    b.head(step, spec, &weights, s)?;
                }
            }
        }
        Ok(())
    }

    fn stream(&mut self) -> Result<&[f32]> {
        self.decoder.backend.read(&mut self.step, &self.scratch.x)
    }

    fn outputs(&mut self, draw: bool) -> Result<Outputs<'_>> {
        let Self { decoder, step, scratch: Scratch { logits, last_norm, .. }, .. } = self;
        if !self.logits {
            let data = decoder.backend.read(step, last_norm)?;
            return Ok(Outputs { data, width: decoder.spec.dim, drawn: &[] });
        }
        let read = match draw {
            false => Read::All(decoder.backend.read(step, logits)?),
            true => decoder.backend.read_drawn(step, logits)?,
        };
        let width = decoder.spec.vocab;
        Ok(match read {
            Read::All(data) => Outputs { data, width, drawn: &[] },
            Read::Drawn(drawn) => Outputs { data: &[], width, drawn },
        })
    }
}

impl<B: Backend> Part for Decoder<B> {
    fn has(&self) -> &Has {
        &self.has
    }
    fn device(&self) -> String {
        self.backend.describe()
    }
    fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
    fn memory(&self, limits: &RunnerLimits) -> DeviceMemory {
        runner_memory(&self.backend, &self.spec, &self.has, self.weight_bytes, limits)
    }
    fn runner(self: Arc<Self>, limits: RunnerLimits) -> Result<Box<dyn PartRunner>> {
        Ok(Box::new(PartState {
            kv: self.backend.kv(&self.part, limits.blocks, limits.states, limits.kv)?,
            step: self.backend.step(&self.part, limits.rows, limits.blocks)?,
            scratch: scratch(&self.backend, &self.spec, &self.has, &limits)?,
            logits: limits.logits,
            decoder: self,
        }))
    }
}

/// `s.x = norm(s.x)`. The residual connection of a transformer with post-norms (Vaswani et al. 2017), `norm(x + block(x))`, is this at the
/// next block's beginning.
fn norm_stream<B: Backend>(
    b: &B,
    step: &B::Step,
    spec: NormSpec,
    NormWeights { weight, bias }: &NormWeights<B>,
    s: &mut Scratch<B>,
) -> Result<()> {
    b.norm(step, &s.x, spec, weight, bias.as_ref(), &mut s.norm)?;
    std::mem::swap(&mut s.x, &mut s.norm);
    Ok(())
}

/// `(rows, width)` of each buffer of [`Scratch`], in the order of its fields, for the blocks that a part has.
fn scratch_shapes(spec: &ModelSpec, has: &Has, limits: &RunnerLimits) -> [(usize, usize); 19] {
    let rows = limits.rows;
    let outputs = if has.head { limits.outputs.max(1) } else { 0 };
    let part = has.part(spec);
    let attn = |f: fn(&AttnSpec) -> usize| part.attn.iter().map(f).max().unwrap_or(0);
    let ffn = |f: fn(&FfnSpec) -> usize| part.ffn.iter().map(f).max().unwrap_or(0);
    let shared = part.ffn.iter().any(|f| f.experts.is_some_and(|e| e.shared.is_some()));
    let conv = part.conv.iter().map(|c| c.width).max().unwrap_or(0);
    let delta = |f: fn(&DeltaSpec) -> usize| part.delta.iter().map(f).max().unwrap_or(0);
    // Latent attention has its projection elsewhere.
    let attn_in = |a: &AttnSpec| if a.latent.is_some() { a.qkv_dim() } else { a.projection_dim() };
    let latents = || part.attn.iter().filter_map(|a| Some((a, a.latent.as_ref()?)));
    let latent = |f: fn(&AttnSpec, &LatentSpec) -> usize| latents().map(|(a, l)| f(a, l)).max().unwrap_or(0);
    let heads = latents().map(|(a, _)| a.heads).max().unwrap_or(0);
    let kept = spec.layers.iter().any(|layer| layer.renormed);
    [
        (rows, spec.dim),
        (rows, spec.dim),
        (rows, if kept { spec.dim } else { 0 }),
        (rows, attn(attn_in).max(3 * conv).max(delta(DeltaSpec::projection_dim))),
        (rows, attn(AttnSpec::q_dim).max(conv).max(delta(DeltaSpec::all_values))),
        (rows, spec.dim),
        (rows, ffn(|f| if f.gated { 2 * f.for_all() } else { 0 })),
        (rows, ffn(FfnSpec::for_all)),
        (rows, ffn(|f| f.experts.map_or(0, |e| e.count))),
        (rows, if shared { spec.dim } else { 0 }),
        (rows, usize::from(shared)),
        (rows, latent(|a, _| a.projection_dim())),
        (rows, latent(|_, l| l.q_rank.unwrap_or(0))),
        (rows, latent(|a, _| a.projected_q_dim().max(a.out_dim()))),
        (rows * heads, latent(|_, l| l.plain.max(l.rank))),
        (rows * heads, latent(|_, l| l.rank.max(l.value))),
        (outputs, spec.dim),
        (outputs, spec.dim),
        (outputs, if limits.logits { spec.vocab } else { 0 }),
    ]
}

fn scratch<B: Backend>(
    backend: &B,
    spec: &ModelSpec,
    has: &Has,
    limits: &RunnerLimits,
) -> Result<Scratch<B>> {
    let shapes = scratch_shapes(spec, has, limits);
    let [
        x,
        norm,
        kept,
        qkv,
        attn,
        proj,
        gate_up,
        hidden,
        router,
        shared,
        shared_gate,
        latent @ ..,
        last,
        last_norm,
        logits,
    ] = shapes;
    let [down, q_down, queries, head_in, head_out] = latent;
    let act = |(rows, width)| backend.act(rows, width);
    Ok(Scratch {
        x: act(x)?,
        norm: act(norm)?,
        kept: act(kept)?,
        qkv: act(qkv)?,
        attn: act(attn)?,
        proj: act(proj)?,
        gate_up: act(gate_up)?,
        hidden: act(hidden)?,
        router: act(router)?,
        shared: act(shared)?,
        shared_gate: act(shared_gate)?,
        latent: LatentScratch {
            down: act(down)?,
            q_down: act(q_down)?,
            queries: act(queries)?,
            head_in: act(head_in)?,
            head_out: act(head_out)?,
        },
        last: act(last)?,
        last_norm: act(last_norm)?,
        logits: act(logits)?,
    })
}

/// Memory of a part with weights of `weights` bytes.
pub(crate) fn runner_memory<B: Backend>(
    backend: &B,
    spec: &ModelSpec,
    has: &Has,
    weights: u64,
    limits: &RunnerLimits,
) -> DeviceMemory {
    let shapes = scratch_shapes(spec, has, limits);
    DeviceMemory {
        device: backend.describe(),
        weights,
        kv: backend.kv_bytes(&has.part(spec), limits.blocks, limits.states, limits.kv),
        scratch: shapes.iter().map(|&(rows, width)| backend.act_bytes(rows, width)).sum(),
        available: backend.available_memory(),
    }
}
