//! The blueprint of a model. An architecture is a function from metadata to a [`ModelSpec`]; everything that the
//! forward does is decided by these fields.

use crate::batch::BLOCK_LEN;
use crate::{Error, Result};
use kinfer_kernels::ops::Routing;
use std::sync::Arc;

/// The blueprint of a transformer: a decoder, or an encoder, which differs in its [`Mask`] and in having no output head.
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
    /// How the file makes one vector of a text's hidden states; `None`: it does not say.
    pub pooling: Option<Pooling>,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// The block in which a position takes in others.
    pub mixer: Mixer,
    /// Its feed-forward.
    pub ffn: FfnSpec,
    /// Both blocks read the layer's input: `x + attn(x) + ffn(x)` instead of `y + ffn(y)` with `y = x + attn(x)`.
    pub parallel: bool,
    /// After attention the residual stream is normed twice, the second time with what attention has read: `norm(norm(x + attn(x)) + x)`.
    pub renormed: bool,
}

/// The first block of a layer, in which a position takes in others.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Those that matter to it, however far away.
    Attention(AttnSpec),
    /// The few before it, by fixed weights.
    Convolution(ConvSpec),
    /// All of them, as far as a state of fixed size keeps them.
    DeltaNet(DeltaSpec),
}

impl Mixer {
    /// The attention, where it is one.
    pub fn attn(&self) -> Option<&AttnSpec> {
        match self {
            Mixer::Attention(attn) => Some(attn),
            Mixer::Convolution(_) | Mixer::DeltaNet(_) => None,
        }
    }
    /// The attention, where it is one.
    pub fn attn_mut(&mut self) -> Option<&mut AttnSpec> {
        match self {
            Mixer::Attention(attn) => Some(attn),
            Mixer::Convolution(_) | Mixer::DeltaNet(_) => None,
        }
    }
    /// The convolution, where it is one.
    pub fn conv(&self) -> Option<&ConvSpec> {
        match self {
            Mixer::Convolution(conv) => Some(conv),
            Mixer::Attention(_) | Mixer::DeltaNet(_) => None,
        }
    }
    /// The convolution, where it is one.
    pub fn conv_mut(&mut self) -> Option<&mut ConvSpec> {
        match self {
            Mixer::Convolution(conv) => Some(conv),
            Mixer::Attention(_) | Mixer::DeltaNet(_) => None,
        }
    }
    /// The delta net, where it is one.
    pub fn delta(&self) -> Option<&DeltaSpec> {
        match self {
            Mixer::DeltaNet(delta) => Some(delta),
            Mixer::Attention(_) | Mixer::Convolution(_) => None,
        }
    }
    /// The delta net, where it is one.
    pub fn delta_mut(&mut self) -> Option<&mut DeltaSpec> {
        match self {
            Mixer::DeltaNet(delta) => Some(delta),
            Mixer::Attention(_) | Mixer::Convolution(_) => None,
        }
    }
    /// The block's norms.
    pub fn norm(&self) -> NormSpec {
        match self {
            Mixer::Attention(attn) => attn.norm,
            Mixer::Convolution(conv) => conv.norm,
            Mixer::DeltaNet(delta) => delta.norm,
        }
    }
}

/// A gated short convolution (LFM2, Liquid AI 2025).
///
/// Of a position `p`, whose vectors `b | c | x` are a projection of the normed residual stream, it is
/// `c * (sum over j < taps of weight[j] * (b * x)[p - taps + 1 + j])`: each channel is convolved by itself, what lies before the
/// text is zero, and an output projection follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvSpec {
    /// Channels: the width of `b`, of `c` and of `x`.
    pub width: usize,
    /// Positions that one takes in, itself among them: 2 to [`BLOCK_LEN`].
    pub taps: usize,
    /// This block's norm.
    pub norm: NormSpec,
}

impl ConvSpec {
    /// Positions of a cache block whose `b * x` is cached: the last ones that were computed. The next one reads one fewer; with one
    /// more the newest can be computed again.
    pub fn tail(&self) -> usize {
        self.taps
    }
    /// Where position `p` lies among the rows of the tails, `[blocks, tail, width]`, of a sequence whose block table is `table`.
    pub fn tail_row(&self, table: &[u32], p: usize) -> usize {
        table[p / BLOCK_LEN] as usize * self.tail() + p % BLOCK_LEN % self.tail()
    }
    /// Whether a later position may read position `p` from the cache when positions before `end` are computed: it is among the
    /// last of its block that are.
    pub fn in_tail(&self, p: usize, end: usize) -> bool {
        end.min(p / BLOCK_LEN * BLOCK_LEN + BLOCK_LEN) - p <= self.tail()
    }
    /// Bytes of the tails of so many blocks; they are floats, whatever the type of keys and values.
    pub fn tail_bytes(&self, blocks: usize) -> usize {
        blocks.saturating_mul(self.tail() * self.width * size_of::<f32>())
    }
}

/// Linear attention by the gated delta rule (Gated DeltaNet, Yang et al. 2024, arXiv 2412.06464; as in Qwen3-Next).
///
/// A projection of the normed residual stream is laid out `q | k | v | z | b | a`. Of `q | k | v` each channel is convolved by itself
/// with those of the last `taps` positions and goes through SiLU; then the heads of `q` and `k` are brought to length 1, those of `q`
/// divided by `sqrt(key_dim)`. A value head has a state `S`, `[key_dim, value_dim]`, zero before the text. A position changes it to
/// `S' = g S + k (beta (v - k g S))`, where `beta = sigmoid(b)` and `g = exp(decay * softplus(a + dt_bias))`, and gives `q S'`: that is
/// RMS-normed, multiplied by `silu(z)`, and an output projection follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaSpec {
    /// Heads of queries and of keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of them.
    pub value_heads: usize,
    /// Width of a head of queries or keys.
    pub key_dim: usize,
    /// Width of a head of values.
    pub value_dim: usize,
    /// Which value heads have which key head.
    pub sharing: HeadSharing,
    /// Positions that the convolution takes in, the position itself among them; at least 2.
    pub taps: usize,
    /// This block's norm. That of the output is an RMS norm of each head, with this epsilon.
    pub norm: NormSpec,
}

/// Which value heads of a delta net have which key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadSharing {
    /// Those that follow one another have the same.
    Neighbours,
    /// They take turns: head `h` has key head `h % key_heads`.
    Turns,
}

impl DeltaSpec {
    /// Added to the sum of squares when a head of queries or keys is brought to length 1.
    pub const LENGTH_EPS: f32 = 1e-6;

    /// Width of all heads of queries, and of all heads of keys.
    pub fn all_keys(&self) -> usize {
        self.key_heads * self.key_dim
    }
    /// Width of all heads of values, of `z`, and of what the output projection reads.
    pub fn all_values(&self) -> usize {
        self.value_heads * self.value_dim
    }
    /// Width of `q | k | v`, which is convolved.
    pub fn channels(&self) -> usize {
        2 * self.all_keys() + self.all_values()
    }
    /// Width of the fused projection `q | k | v | z | b | a`.
    pub fn projection_dim(&self) -> usize {
        self.channels() + self.all_values() + 2 * self.value_heads
    }
    /// Value heads of a key head.
    pub fn group(&self) -> usize {
        self.value_heads / self.key_heads.max(1)
    }
    /// Value head `i` of key head `key`.
    pub fn value_head(&self, key: usize, i: usize) -> usize {
        match self.sharing {
            HeadSharing::Neighbours => key * self.group() + i,
            HeadSharing::Turns => i * self.key_heads + key,
        }
    }
    /// Floats of the state of a sequence that belong to one key head: what the convolution reads of the last `taps - 1` positions, and
    /// the states of its value heads.
    pub fn head_state(&self) -> usize {
        let channels = 2 * self.key_dim + self.group() * self.value_dim;
        (self.taps - 1) * channels + self.group() * self.key_dim * self.value_dim
    }
    /// Bytes of the states of so many sequences.
    pub fn state_bytes(&self, sequences: usize) -> usize {
        sequences.saturating_mul(self.key_heads * self.head_state() * size_of::<f32>())
    }
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
    /// Which keys a query sees.
    pub mask: Mask,
    /// Sliding window: a query at position `p` sees keys at positions `> p - window`, and where the mask lets it see those behind it,
    /// at positions `< p + window`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(scores / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Index into [`ModelSpec::ropes`]; `None`: no position encoding in this layer.
    pub rope: Option<usize>,
    /// ALiBi (Press et al. 2021, arXiv 2108.12409): a score of head `h` loses `alibi[h]`, of `[heads]`, for each position between query
    /// and key, whichever comes first.
    pub alibi: Option<Arc<[f32]>>,
    /// This block's norms. Those of q and k have its epsilon, too.
    pub norm: NormSpec,
    /// Norms of q and k, before they turn.
    pub qk_norm: Option<QkNorm>,
    /// The output is multiplied by the sigmoid of a gate, which is projected beside queries, keys and values (Qwen3-Next).
    pub gated: bool,
    /// Keys and values are made of one vector per position; `kv_heads` is then 1, and `head_dim` that vector's width.
    pub latent: Option<LatentSpec>,
}

/// A norm of queries or of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// An RMS norm of each head by itself, by one weight, `[head_dim]`.
    Heads,
    /// An RMS norm of all heads of a position together, `[heads * head_dim]`.
    Rows,
    /// A layer norm of each head by itself, by a weight of its own, `[heads, head_dim]`.
    LayerHeads,
    /// A layer norm of all heads of a position together, `[heads * head_dim]`; it may have a bias.
    LayerRows,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// Those up to its own: the text can be continued.
    #[default]
    Causal,
    /// Those of the whole sequence, which therefore is one run of one step.
    Bidirectional,
}

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one, of the token `[CLS]`.
    Cls,
    /// The last one.
    Last,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with the keys' projection absorbed in the queries.
///
/// Of a position the cache has one vector `k = turned | latent`, of `head_dim` elements, whose first `head_dim - rank` turn. A head's
/// query is `turned | k_up q`, so that its product with `k` is the one of the projected key; its output is `v_up` of the weighted
/// sum of the latents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// Width of the latent of keys and values.
    pub rank: usize,
    /// Width of the latent of queries; `None`: queries are projected at once.
    pub q_rank: Option<usize>,
    /// Elements of a projected query head that do not turn.
    pub plain: usize,
    /// Width of a projected value head.
    pub value: usize,
    /// Added to the mean square in the norms of the latents.
    pub eps: f32,
}

/// What of a model is computed on one device: all of it, or some of its blocks.
#[derive(Clone, Debug)]
pub struct PartSpec {
    /// [`ModelSpec::dim`].
    pub dim: usize,
    /// [`ModelSpec::ropes`].
    pub ropes: Vec<RopeSpec>,
    /// The attention blocks, in order; a cache counts them from 0.
    pub attn: Vec<AttnSpec>,
    /// The convolution blocks, in order; a cache counts them from 0, too.
    pub conv: Vec<ConvSpec>,
    /// The delta nets, in order; a cache counts them from 0, too.
    pub delta: Vec<DeltaSpec>,
    /// The feed-forward blocks, in order.
    pub ffn: Vec<FfnSpec>,
}

impl ModelSpec {
    /// The part that has the blocks for which `has` says so: it is asked for each layer, whether the mixer, whether the feed-forward.
    pub fn part(&self, has: impl Fn(usize) -> [bool; 2]) -> PartSpec {
        let layers = || self.layers.iter().enumerate().map(|(i, layer)| (has(i), layer));
        let mixers = || layers().filter(|(has, _)| has[0]).map(|(_, l)| &l.mixer);
        PartSpec {
            dim: self.dim,
            ropes: self.ropes.clone(),
            attn: mixers().filter_map(Mixer::attn).cloned().collect(),
            conv: mixers().filter_map(Mixer::conv).copied().collect(),
            delta: mixers().filter_map(Mixer::delta).copied().collect(),
            ffn: layers().filter(|(has, _)| has[1]).map(|(_, l)| l.ffn.clone()).collect(),
        }
    }

    /// The part that is the whole model.
    pub fn whole(&self) -> PartSpec {
        self.part(|_| [true; 2])
    }

    /// Whether the model says what comes next. An encoder does not: its positions have seen what follows them.
    pub fn generates(&self) -> bool {
        self.layers.iter().filter_map(|l| l.mixer.attn()).all(|a| a.mask == Mask::Causal)
    }

    /// Whether layers have states that only the end of a sequence has, see [`crate::Run::state`].
    pub fn has_states(&self) -> bool {
        self.layers.iter().any(|l| l.mixer.delta().is_some())
    }

    /// # Errors
    /// [`Error::Unsupported`] where it does not generate.
    pub fn check_generates(&self) -> Result<()> {
        match self.generates() {
            true => Ok(()),
            false => Err(Error::Unsupported {
                what: format!(
                    "generating or scoring text with an encoder such as this `{}` model",
                    self.arch
                ),
                supported: "embeddings, by `kinfer embed` or `Model::embed`".into(),
            }),
        }
    }

    /// The rotary tables of an engine whose sequences have at most `context` tokens.
    pub fn ropes_for(&self, context: usize) -> &[RopeSpec] {
        match &self.long {
            Some(long) if context > long.beyond => &long.ropes,
            _ => &self.ropes,
        }
    }
}

impl AttnSpec {
    /// What a norm runs over, of queries or keys that are `width` wide.
    pub fn qk_norm_width(&self, width: usize) -> usize {
        match self.qk_norm {
            Some(QkNorm::Rows | QkNorm::LayerRows) => width,
            Some(QkNorm::Heads | QkNorm::LayerHeads) | None => self.head_dim,
        }
    }
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Width of `q | k | v`.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
    /// Width of the fused projection: `q | k | v`, or `q | k | v | gate`; or, of latent attention, `queries or their latent | k`.
    pub fn projection_dim(&self) -> usize {
        match self.latent {
            Some(l) => l.q_rank.unwrap_or(self.projected_q_dim()) + self.head_dim,
            None if self.gated => self.qkv_dim() + self.q_dim(),
            None => self.qkv_dim(),
        }
    }
    /// Width of all query heads as they are projected.
    pub fn projected_q_dim(&self) -> usize {
        match self.latent {
            Some(l) => self.heads * (self.head_dim - l.rank + l.plain),
            None => self.q_dim(),
        }
    }
    /// Width of what the output projection reads.
    pub fn out_dim(&self) -> usize {
        self.latent.map_or(self.q_dim(), |l| self.heads * l.value)
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

/// A mixture of experts: the outputs of the few that a position's router chooses, each times its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertSpec {
    /// Experts of the layer.
    pub count: usize,
    /// Which of them a position goes to, and their weights.
    pub routing: Routing,
    /// Width of `gate(x)` of one more expert that every position goes to; `None`: there is none.
    pub shared: Option<usize>,
}

impl FfnSpec {
    /// Width of `gate(x)` in what every position goes through: the block itself, or the shared one beside experts.
    pub fn for_all(&self) -> usize {
        self.experts.map_or(self.hidden, |experts| experts.shared.unwrap_or(0))
    }
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
    /// `min(x, 7) * sigmoid(1.702 min(x, 7))`; what it gates, `up`, counts as `clamp(up, -7, 7) + 1` (gpt-oss, arXiv 2508.10925).
    SwigluOai,
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
