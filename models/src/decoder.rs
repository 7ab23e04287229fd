//! The forward pass of every transformer, decoder or encoder: one function over any [`Backend`].

use kinfer_core::backend::{Ffn, HeadWeights, LatentScratch, Layer, NormWeights, Scratch};
use kinfer_core::{
    AttnSpec, Backend, Batch, Error, LatentSpec, Model, ModelSpec, NormSpec, Outputs, Result, Runner,
    RunnerLimits,
};
use std::sync::Arc;

/// A transformer's weights on a device.
pub struct Decoder<B: Backend> {
    pub(crate) backend: B,
    pub(crate) spec: ModelSpec,
    /// `[vocab, dim]`.
    pub(crate) embed: B::Weight,
    /// Added to each embedding, `[dim]`.
    pub(crate) embed_bias: Option<B::Vector>,
    /// Learned positions, `[context, dim]`.
    pub(crate) positions: Option<B::Vector>,
    pub(crate) layers: Vec<Layer<B>>,
    /// The final one.
    pub(crate) norm: NormWeights<B>,
    /// `[vocab, dim]`; `None` where the embedding table is the head too.
    pub(crate) head: Option<B::Weight>,
    /// `[vocab]`.
    pub(crate) head_bias: Option<B::Vector>,
    pub(crate) bytes_per_token: u64,
    pub(crate) weight_bytes: u64,
}

impl<B: Backend> Decoder<B> {
    /// The forward: embeds the batch's tokens, runs the layers, leaves the wanted rows' logits in `s.logits`; without a head
    /// (`logits` is false) their normed hidden states in `s.last_norm`.
    fn forward(
        &self,
        context: usize,
        logits: bool,
        batch: &Batch,
        step: &mut B::Step,
        kv: &mut B::Kv,
        s: &mut Scratch<B>,
    ) -> Result<()> {
        let b = &self.backend;
        b.begin(step, self.spec.ropes_for(context), batch)?;
        b.embed(step, &self.embed, self.spec.embed_scale, &mut s.x)?;
        if let Some(bias) = &self.embed_bias {
            b.add_bias(step, &mut s.x, bias)?;
        }
        if let Some(table) = &self.positions {
            b.add_positions(step, table, &mut s.x)?;
        }
        for (i, (spec, w)) in self.spec.layers.iter().zip(&self.layers).enumerate() {
            let [before_attn, before_ffn] = &w.stream_norms;
            norm_stream(b, step, spec.attn.norm, before_attn, s)?;
            b.attn_in(step, &spec.attn, &w.attn, kv, i, s)?;
            b.attend(step, kv, i, &spec.attn, w.attn.sinks.as_ref(), &s.qkv, &mut s.attn)?;
            let ffn = |step: &mut B::Step, s: &mut Scratch<B>| match &w.ffn {
                Ffn::Dense(w) => b.ffn(step, &spec.ffn, w, s),
                Ffn::Mixture(w) => b.moe(step, &spec.ffn, w, s),
            };
            // In a parallel layer both blocks read the same `x`: the second one to read it comes before the first adds to it.
            if spec.parallel {
                ffn(step, s)?;
                b.attn_out(step, &spec.attn, &w.attn, s)?;
            } else {
                b.attn_out(step, &spec.attn, &w.attn, s)?;
                norm_stream(b, step, spec.ffn.norm, before_ffn, s)?;
                ffn(step, s)?;
            }
        }
        if batch.outputs.is_empty() {
            return Ok(());
        }
        if !logits {
            b.gather(step, &s.x, &mut s.last)?;
            let NormWeights { weight, bias } = &self.norm;
            return b.norm(step, &s.last, self.spec.norm, weight, bias.as_ref(), &mut s.last_norm);
        }
        let head = HeadWeights {
            norm: &self.norm,
            head: self.head.as_ref().unwrap_or(&self.embed),
            bias: self.head_bias.as_ref(),
        };
        b.head(step, &self.spec, &head, s)
    }
}

/// `s.x = norm(s.x)`. The residual connection of a transformer with post-norms (Vaswani et al. 2017), `norm(x + block(x))`, is this at the
/// next block's beginning.
fn norm_stream<B: Backend>(
    b: &B,
    step: &B::Step,
    spec: NormSpec,
    w: &Option<NormWeights<B>>,
    s: &mut Scratch<B>,
) -> Result<()> {
    if let Some(NormWeights { weight, bias }) = w {
        b.norm(step, &s.x, spec, weight, bias.as_ref(), &mut s.norm)?;
        std::mem::swap(&mut s.x, &mut s.norm);
    }
    Ok(())
}

/// `(rows, width)` of each buffer of [`Scratch`], in the order of its fields.
pub(crate) fn scratch_shapes(spec: &ModelSpec, limits: &RunnerLimits) -> [(usize, usize); 18] {
    let (rows, outputs) = (limits.rows, limits.outputs.max(1));
    let widest = |f: fn(&kinfer_core::LayerSpec) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
    let shared = spec.layers.iter().any(|l| l.ffn.experts.is_some_and(|e| e.shared.is_some()));
    let latents = || spec.layers.iter().filter_map(|l| Some((&l.attn, l.attn.latent.as_ref()?)));
    let latent = |f: fn(&AttnSpec, &LatentSpec) -> usize| latents().map(|(a, l)| f(a, l)).max().unwrap_or(0);
    let heads = latents().map(|(a, _)| a.heads).max().unwrap_or(0);
    [
        (rows, spec.dim),
        (rows, spec.dim),
        (rows, widest(|l| l.attn.qkv_dim())),
        (rows, widest(|l| l.attn.q_dim())),
        (rows, spec.dim),
        (rows, widest(|l| if l.ffn.gated { 2 * l.ffn.for_all() } else { 0 })),
        (rows, widest(|l| l.ffn.for_all())),
        (rows, widest(|l| l.ffn.experts.map_or(0, |e| e.count))),
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

fn scratch<B: Backend>(backend: &B, spec: &ModelSpec, limits: &RunnerLimits) -> Result<Scratch<B>> {
    let shapes = scratch_shapes(spec, limits);
    let [
        x,
        norm,
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

/// Bytes of KV cache and scratch that a runner takes.
pub(crate) fn runner_bytes<B: Backend>(backend: &B, spec: &ModelSpec, limits: &RunnerLimits) -> (u64, u64) {
    let kv = backend.kv_bytes(spec, limits.blocks, limits.kv);
    let scratch = scratch_shapes(spec, limits).iter().map(|&(r, w)| backend.act_bytes(r, w)).sum();
    (kv, scratch)
}

impl<B: Backend> Model for Decoder<B> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn device(&self) -> String {
        self.backend.describe()
    }
    fn available_memory(&self) -> Option<u64> {
        self.backend.available_memory()
    }
    fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
    fn runner_bytes(&self, limits: &RunnerLimits) -> u64 {
        let (kv, scratch) = runner_bytes(&self.backend, &self.spec, limits);
        kv + scratch
    }
    fn runner(self: Arc<Self>, limits: RunnerLimits) -> Result<Box<dyn Runner>> {
        if limits.logits {
            self.spec.check_generates()?;
        }
        Ok(Box::new(DecoderRunner {
            kv: self.backend.kv(&self.spec, limits.blocks, limits.kv)?,
            step: self.backend.step(&self.spec, limits.rows, limits.blocks)?,
            scratch: scratch(&self.backend, &self.spec, &limits)?,
            limits,
            model: self,
        }))
    }
}

/// One engine's state of a [`Decoder`].
struct DecoderRunner<B: Backend> {
    model: Arc<Decoder<B>>,
    limits: RunnerLimits,
    kv: B::Kv,
    step: B::Step,
    scratch: Scratch<B>,
}

impl<B: Backend> Runner for DecoderRunner<B> {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }
    fn step(&mut self, batch: &Batch) -> Result<Outputs<'_>> {
        let RunnerLimits { rows, outputs, logits, blocks, context, kv: _ } = self.limits;
        let spec = &self.model.spec;
        batch.check(rows, outputs, blocks, spec.vocab).map_err(Error::Batch)?;
        if let Some(run) = batch.runs.iter().find(|r| r.start > 0 && !spec.generates()) {
            return Err(Error::Batch(format!(
                "run {:?} begins at position {}; every position of `{}` models sees the whole text, so all of it must be one run",
                run.rows, run.start, spec.arch
            )));
        }
        // Learned positions end with their table.
        let context = match &self.model.positions {
            Some(_) => context.min(spec.context),
            None => context,
        };
        let longest = batch.runs.iter().map(|r| r.start + r.rows.len()).max().unwrap_or(0);
        if longest > context {
            return Err(Error::Batch(format!("{longest} positions; this runner's context is {context}")));
        }
        self.model.forward(context, logits, batch, &mut self.step, &mut self.kv, &mut self.scratch)?;
        let (width, from) = match logits {
            true => (spec.vocab, &self.scratch.logits),
            false => (spec.dim, &self.scratch.last_norm),
        };
        if batch.outputs.is_empty() {
            return Ok(Outputs { data: &[], width });
        }
        let data = self.model.backend.read(&mut self.step, from)?;
        Ok(Outputs { data, width })
    }
}
