//! The blueprint of a model. An architecture is a function from metadata to a [`ModelSpec`]; everything that the
//! forward does is decided by these fields.

use std::sync::Arc;

/// The blueprint of a decoder-only transformer.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Architecture name as in the file, e.g. `llama`.
    pub arch: String,
    /// Rows of the token embedding and of the output head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Context length the model was trained for, in tokens.
    pub context: usize,
    /// Embeddings are multiplied by this (Gemma: `sqrt(dim)`; others 1).
    pub embed_scale: f32,
    /// The final norm.
    pub norm: NormSpec,
    /// Final logits become `cap * tanh(logits / cap)` (Gemma 2).
    pub logit_softcap: Option<f32>,
    /// The distinct rotary tables; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    /// What replaces `ropes` in engines whose context is longer than some length (LongRoPE).
    pub long: Option<LongContext>,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Its attention.
    pub attn: AttnSpec,
    /// Its feed-forward.
    pub ffn: FfnSpec,
    /// Both blocks read the layer's input: `x + attn(x) + ffn(x)` instead of `y + ffn(y)` with `y = x + attn(x)`.
    pub parallel: bool,
}

/// A norm: how a vector is brought to a common size, before each element is multiplied by its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which one.
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
}

/// Kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias` (Ba et al. 2016); the bias may be absent.
    Layer,
}

/// Attention of one layer: `softmax(scale * q.k) v` over the visible keys.
#[derive(Clone, Debug, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `heads` is a multiple (grouped-query attention).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplier of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Sliding window: a query at position `p` sees keys at positions `> p - window`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(scores / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Index into [`ModelSpec::ropes`]; `None`: no position encoding in this layer.
    pub rope: Option<usize>,
    /// This block's norms. Those of q and k are always RMS norms, with this epsilon.
    pub norm: NormSpec,
}

impl ModelSpec {
    /// The rotary tables of an engine whose sequences have at most `context` tokens.
    pub fn ropes_for(&self, context: usize) -> &[RopeSpec] {
        match &self.long {
            Some(long) if context > long.beyond => &long.ropes,
            _ => &self.ropes,
        }
    }
}

impl AttnSpec {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Width of the fused projection, `q | k | v`.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
}

/// Feed-forward of one layer: `down(act(gate(x)) * up(x))`, or without a gate `down(act(up(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FfnSpec {
    /// Width of `gate(x)` and of `up(x)`.
    pub hidden: usize,
    /// Whether there is a gate.
    pub gated: bool,
    /// The activation.
    pub act: Activation,
    /// This block's norms.
    pub norm: NormSpec,
    /// A mixture of experts: `hidden` is then the width of each.
    pub experts: Option<ExpertSpec>,
}

/// How a mixture of experts is mixed: of the softmax of the router's logits, the largest few weigh their experts' outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSpec {
    /// Experts of the layer.
    pub count: usize,
    /// Experts that a position goes to.
    pub used: usize,
    /// Whether the weights of those are divided by their sum.
    pub renormalise: bool,
}

impl FfnSpec {
    /// Width of the fused projection `gate | up`, or of `up` alone.
    pub fn up_dim(&self) -> usize {
        if self.gated { 2 * self.hidden } else { self.hidden }
    }
}

/// Activation of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, the tanh form of GELU (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`, GELU itself.
    Gelu,
}

/// A rotary position embedding (Su et al. 2021) in the half-split convention: element `i` of a head turns with
/// element `i + dim/2` by the angle `position * inv_freq[i]`.
///
/// Every scaling kind (linear, Llama 3, YaRN) is folded into the two fields when the model is built.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Radians per position, `[dim / 2]`; `dim <= head_dim` elements of a head turn, the others stay.
    pub inv_freq: Arc<[f32]>,
    /// Multiplies both cosine and sine (YaRN's attention factor; otherwise 1).
    pub magnitude: f32,
}

/// Rotary tables for long contexts (LongRoPE, Ding et al. 2024).
///
/// A model that has them is another function of its input in an engine with a long context than in one with a short
/// one. Which of the two it is depends on the engine's context alone, never on how long a sequence has become.
#[derive(Clone, Debug, PartialEq)]
pub struct LongContext {
    /// Engines of at most this context, in tokens, use [`ModelSpec::ropes`].
    pub beyond: usize,
    /// The tables of the others, one for each of [`ModelSpec::ropes`].
    pub ropes: Vec<RopeSpec>,
}
