//! What the architectures share: the shape that metadata gives in one way for all, and the plain decoder of that shape.

use super::{Blueprint, Names};
use crate::source::{Config, Value};
use kinfer_core::{
    Activation, AttnSpec, Error, ExpertGroups, ExpertSpec, FfnSpec, LatentSpec, LayerSpec, Mask, Mixer,
    ModelSpec, NormKind, NormSpec, Pooling, QkNorm, Result, RopeSpec, Routing, Scores,
};

/// Far beyond any model; keeps a corrupt file from asking for gigabytes of rotary frequencies.
pub(super) const MAX_HEAD_DIM: usize = 1 << 14;

/// What every decoder's metadata gives in the same way.
pub(super) struct Common {
    pub vocab: usize,
    pub dim: usize,
    pub context: usize,
    pub layers: usize,
    /// Per layer.
    pub heads: Vec<usize>,
    /// Per layer; 0 in one without attention, see [`Common::with_convolutions`].
    pub kv_heads: Vec<usize>,
    pub head_dim: usize,
    /// Elements of a head that turn.
    pub rope_dim: usize,
    /// Per layer.
    pub hidden: Vec<usize>,
    pub norm: NormSpec,
    /// Multiplier of the attention scores.
    pub scale: f32,
    /// Which keys a query sees; encoders whose files need not say so set it.
    pub mask: Mask,
    pooling: Option<Pooling>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Where keys and values are made of one vector.
    pub latent: Option<LatentSpec>,
    /// The mixture of experts that each layer but the first few is, see [`Common::experts`].
    experts: Option<ExpertSpec>,
    /// Those first few.
    dense: usize,
}

/// A layer as an architecture describes it.
pub(super) struct Layer {
    /// Its attention.
    pub attn: AttnSpec,
    /// What it has in place of attention.
    pub instead: Option<Mixer>,
    /// Its feed-forward.
    pub ffn: FfnSpec,
    /// [`LayerSpec::parallel`].
    pub parallel: bool,
    /// [`LayerSpec::renormed`].
    pub renormed: bool,
}

impl Common {
    /// Reads it; `kind` is the norms'.
    pub fn read(config: &Config<'_>, kind: NormKind) -> Result<Common> {
        Self::of(config, kind, false)
    }

    /// The same of an architecture in which layers without key/value heads are convolutions.
    pub fn with_convolutions(config: &Config<'_>, kind: NormKind) -> Result<Common> {
        Self::of(config, kind, true)
    }

    fn of(config: &Config<'_>, kind: NormKind, convolutions: bool) -> Result<Common> {
        let embed = &format!("{}.weight", Names::GGUF.embed);
        let dim = config.size("embedding_length")?;
        let vocab = match config.source().tensor(embed)?.map(|t| t.shape) {
            Some(shape) if shape.len() == 2 && shape[1] == dim => shape[0],
            Some(shape) => {
                let expected = format!("[vocabulary, {dim}]");
                return Err(Error::Shape { name: embed.clone(), expected, got: format!("{shape:?}") });
            }
            None => {
                return Err(Error::MissingTensor { name: embed.clone(), arch: config.arch().into() });
            }
        };
        if let Some(n) = config.opt_size("vocab_size")?
            && n != vocab
        {
            return Err(config.error("vocab_size", format!("is {n}, but `{embed}` has {vocab} rows")));
        }
        let layers = config.size("block_count")?;
        let tensors = config.source().tensors().len();
        if layers > tensors {
            return Err(
                config.error("block_count", format!("is {layers}, but the file has {tensors} tensors"))
            );
        }
        let heads = config.sizes("attention.head_count", layers)?;
        const KV_HEADS: &str = "attention.head_count_kv";
        let kv_heads = match convolutions {
            true => config.opt_counts(KV_HEADS, layers)?,
            false => config.opt_sizes(KV_HEADS, layers)?,
        };
        let kv_heads = kv_heads.unwrap_or_else(|| heads.clone());
        let uneven = |(h, kv): &(&usize, &usize)| **kv > 0 && !h.is_multiple_of(**kv);
        if let Some((h, kv)) = heads.iter().zip(&kv_heads).find(uneven) {
            return Err(
                config.error(KV_HEADS, format!("{h} query heads cannot share {kv} key/value heads evenly"))
            );
        }
        let head_dim = match config.opt_size("attention.key_length")? {
            Some(n) => n,
            None if dim.is_multiple_of(heads[0]) => dim / heads[0],
            None => {
                return Err(config.error(
                    "attention.head_count",
                    format!("embedding length {dim} is no multiple of {} heads", heads[0]),
                ));
            }
        };
        if head_dim > MAX_HEAD_DIM {
            return Err(config.error(
                "attention.key_length",
                format!("heads of {head_dim} elements are not supported; at most {MAX_HEAD_DIM} are"),
            ));
        }
        let rope_dim = config.opt_size("rope.dimension_count")?.unwrap_or(head_dim);
        if rope_dim > head_dim {
            return Err(config.error(
                "rope.dimension_count",
                format!("is {rope_dim}, but a head has {head_dim} elements"),
            ));
        }
        let scale = config.opt_positive("attention.scale")?.unwrap_or(1.0 / (head_dim as f64).sqrt());
        // The kind is the architecture's; converters name the epsilon after either, some after both.
        let (rms, layer) = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon");
        let (own, other) = match kind {
            NormKind::Rms => (rms, layer),
            NormKind::Layer => (layer, rms),
        };
        let other = config.opt_positive(other)?;
        let eps = match (config.opt_positive(own)?, other) {
            (Some(eps), _) | (None, Some(eps)) => eps,
            (None, None) => config.positive(own)?,
        };
        Ok(Common {
            vocab,
            dim,
            context: config.size("context_length")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            hidden: hidden(config, layers)?,
            norm: NormSpec { kind, eps: eps as f32 },
            scale: scale as f32,
            mask: mask(config)?,
            pooling: pooling(config)?,
            qk_norm: None,
            latent: None,
            experts: None,
            dense: 0,
        })
    }

    /// Leaves out the last layers where they guess further tokens (multi-token prediction). Returns which they are, as in
    /// [`Names::guessing`].
    pub fn without_guessing(&mut self, config: &Config<'_>) -> Result<(usize, usize)> {
        const KEY: &str = "nextn_predict_layers";
        let guessing = config.opt_count(KEY)?.unwrap_or(0);
        if guessing >= self.layers {
            return Err(config.error(KEY, format!("is {guessing}, but there are {} layers", self.layers)));
        }
        self.layers -= guessing;
        Ok((self.layers, guessing))
    }

    /// Reads the mixture of experts, if there is one, in an architecture that may have one in every layer. `scores` and
    /// `renormalise` are the architecture's, for files that do not say.
    pub fn experts(&mut self, config: &Config<'_>, scores: Scores, renormalise: bool) -> Result<()> {
        let Some(count) = config.opt_count("expert_count")?.filter(|&n| n > 0) else { return Ok(()) };
        let used = config.size("expert_used_count")?;
        if used > count {
            return Err(
                config.error("expert_used_count", format!("is {used}, but there are {count} experts"))
            );
        }
        self.dense = config.opt_count("leading_dense_block_count")?.unwrap_or(0).min(self.layers);
        if let Some(hidden) = config.opt_sizes("expert_feed_forward_length", self.layers)? {
            self.hidden[self.dense..self.layers].copy_from_slice(&hidden[self.dense..]);
        }
        const SCORES: &str = "expert_gating_func";
        let (scores, renormalise) = match config.opt_count(SCORES)? {
            None | Some(0) => (scores, renormalise),
            Some(1) => (Scores::Softmax, renormalise),
            Some(2) => (Scores::Sigmoid, renormalise),
            // The softmax of the chosen ones' logits.
            Some(3) => (Scores::Softmax, true),
            Some(n) => return Err(config.error(SCORES, format!("{n} is not known; 0 to 3 are"))),
        };
        let renormalise = match config.opt_value("expert_weights_norm") {
            Some(_) => config.flag("expert_weights_norm")?,
            None => renormalise,
        };
        let scale = config.opt_positive("expert_weights_scale")?.unwrap_or(1.0) as f32;
        let groups = self.expert_groups(config, count, used, scores)?;
        let routing = Routing { used, scores, renormalise, scale, groups };
        self.experts = Some(ExpertSpec { count, routing, shared: self.shared_expert(config)? });
        Ok(())
    }

    /// The groups of experts, where there are several and a position does not go to all of them.
    fn expert_groups(
        &self,
        config: &Config<'_>,
        experts: usize,
        needed: usize,
        scores: Scores,
    ) -> Result<Option<ExpertGroups>> {
        const COUNT: &str = "expert_group_count";
        const USED: &str = "expert_group_used_count";
        let count = config.opt_count(COUNT)?.unwrap_or(1).max(1);
        let used = config.opt_count(USED)?.filter(|&n| n > 0).unwrap_or(count);
        if !experts.is_multiple_of(count) {
            return Err(config.error(COUNT, format!("is {count}, which does not divide {experts} experts")));
        }
        if used > count || used * (experts / count) < needed {
            let problem =
                format!("is {used} of {count} groups of {experts} experts, of which {needed} are needed");
            return Err(config.error(USED, problem));
        }
        // DeepSeek-V2 has a softmax and ranks a group by its best expert, V3 has a sigmoid and takes the two best.
        let judged_by = if scores == Scores::Softmax { 1 } else { 2 };
        Ok((used < count).then_some(ExpertGroups { count, used, judged_by }))
    }

    /// Width of the expert that every position goes to, by its weight; the file may repeat it.
    fn shared_expert(&self, config: &Config<'_>) -> Result<Option<usize>> {
        config.opt_count("expert_shared_count")?;
        let name = &format!("blk.{}.{}_shexp.weight", self.dense, Names::GGUF.gate_up[1]);
        let width = config.source().tensor(name)?.and_then(|t| t.shape.first().copied());
        const KEY: &str = "expert_shared_feed_forward_length";
        match config.opt_count(KEY)?.filter(|&n| n > 0) {
            Some(n) if width != Some(n) => {
                let got = width.map_or("is missing".into(), |w| format!("has {w} rows"));
                Err(config.error(KEY, format!("is {n}, but `{name}` {got}")))
            }
            _ => Ok(width),
        }
    }

    /// The sliding window, where the file has one; 0 says that there is none. Where queries see what follows them, it is as wide
    /// in all, so that half of it lies on either side.
    pub fn window(&self, config: &Config<'_>) -> Result<Option<usize>> {
        let window = config.opt_count("attention.sliding_window")?.filter(|&w| w > 0);
        Ok(match self.mask {
            Mask::Causal => window,
            Mask::Bidirectional => window.map(|w| w / 2 + 1),
        })
    }

    /// Which layers have the window: a flag for each, or a period whose last layer has none (`period` where the file
    /// is silent).
    pub fn windowed(&self, config: &Config<'_>, period: usize) -> Result<Vec<bool>> {
        const KEY: &str = "attention.sliding_window_pattern";
        let layers = self.layers;
        let period = match config.opt_value(KEY) {
            Some(Value::Bools(flags)) if flags.len() == layers => return Ok(flags),
            Some(Value::Int(n)) if n > 0 && n <= layers as i128 => n as usize,
            None => period,
            Some(v) => {
                return Err(config
                    .error(KEY, format!("expected a period of 1 to {layers} or {layers} flags, got {v}")));
            }
        };
        Ok((0..layers).map(|i| (i + 1) % period != 0).collect())
    }

    /// The blueprint of a model whose layers see everything, have the first rotary table and a gate with SiLU, but for
    /// what `detail` changes about layer `i`. Fails on metadata that nobody has read.
    pub fn blueprint(
        self,
        config: &Config<'_>,
        ropes: Vec<RopeSpec>,
        names: Names,
        detail: impl Fn(usize, &mut Layer),
    ) -> Result<Blueprint> {
        if self.experts.is_none() {
            config.refuse("expert_count", "a mixture of experts")?;
            config.refuse("expert_used_count", "a mixture of experts")?;
        }
        if let (None, Some(n)) = (self.latent, config.opt_size("attention.value_length")?)
            && n != self.head_dim
        {
            let problem =
                format!("values of width {n} beside keys of width {} are not supported", self.head_dim);
            return Err(config.error("attention.value_length", problem));
        }
        config.finish(&DESCRIPTIVE)?;
        let layer = |i: usize| {
            let mut layer = Layer {
                attn: AttnSpec {
                    heads: self.heads[i],
                    kv_heads: self.kv_heads[i],
                    head_dim: self.head_dim,
                    scale: self.scale,
                    mask: self.mask,
                    window: None,
                    softcap: None,
                    alibi: None,
                    rope: (!ropes.is_empty()).then_some(0),
                    norm: self.norm,
                    qk_norm: self.qk_norm,
                    gated: false,
                    latent: self.latent,
                },
                instead: None,
                ffn: FfnSpec {
                    hidden: self.hidden[i],
                    gated: true,
                    act: Activation::Silu,
                    norm: self.norm,
                    experts: self.experts.filter(|_| i >= self.dense),
                },
                parallel: false,
                renormed: false,
            };
            detail(i, &mut layer);
            let Layer { attn, instead, ffn, parallel, renormed } = layer;
            LayerSpec { mixer: instead.unwrap_or(Mixer::Attention(attn)), ffn, parallel, renormed }
        };
        let layers = (0..self.layers).map(layer).collect();
        let spec = ModelSpec {
            arch: config.arch().into(),
            vocab: self.vocab,
            dim: self.dim,
            context: self.context,
            embed_scale: 1.0,
            norm: self.norm,
            logit_softcap: None,
            ropes,
            long: None,
            layers,
            pooling: self.pooling,
        };
        Ok(Blueprint { spec, names, logit_scale: 1.0, post_norm_scale: 1.0 })
    }
}

/// Widths of the feed-forwards. A file in which all of them are mixtures of experts may give those of the experts only.
fn hidden(config: &Config<'_>, layers: usize) -> Result<Vec<usize>> {
    const KEY: &str = "feed_forward_length";
    if let Some(hidden) = config.opt_sizes(KEY, layers)? {
        return Ok(hidden);
    }
    let all_experts = config.opt_count("leading_dense_block_count")?.unwrap_or(0) == 0;
    match config.opt_sizes(&format!("expert_{KEY}"), layers)? {
        Some(hidden) if all_experts => Ok(hidden),
        _ => config.sizes(KEY, layers),
    }
}

fn mask(config: &Config<'_>) -> Result<Mask> {
    const KEY: &str = "attention.causal";
    Ok(match config.opt_value(KEY) {
        Some(_) if !config.flag(KEY)? => Mask::Bidirectional,
        _ => Mask::Causal,
    })
}

fn pooling(config: &Config<'_>) -> Result<Option<Pooling>> {
    const KEY: &str = "pooling_type";
    match config.opt_count(KEY)? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::Cls)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(4) => Err(config.error(
            KEY,
            "`rank` (4) is a reranker's, which kinfer cannot run; it knows none, mean, cls and last",
        )),
        Some(n) => Err(config.error(KEY, format!("{n} is not known; 0 to 3 are: none, mean, cls and last"))),
    }
}

/// Keys that describe the file and change nothing that is computed.
const DESCRIPTIVE: [&str; 2] = ["tensor_data_layout", "rope.scaling.finetuned"];
