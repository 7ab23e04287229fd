//! What a backend's stages work on: a layer's weights, and the activations of a step.

use crate::{AttnSpec, Backend, ConvSpec, DeltaSpec, ExpertSpec};

/// Weights of a norm.
pub struct NormWeights<B: Backend> {
    /// `[dim]`.
    pub weight: B::Vector,
    /// `[dim]`; layer norms only.
    pub bias: Option<B::Vector>,
}

/// Weights of an attention block.
pub struct AttnWeights<B: Backend> {
    /// Input norm.
    pub norm: Option<NormWeights<B>>,
    /// Fused projection, `[projection_dim, dim]`, see [`crate::AttnSpec::projection_dim`].
    pub qkv: B::Weight,
    /// Its bias, `[qkv_dim]`.
    pub qkv_bias: Option<B::Vector>,
    /// Norm of queries, `[head_dim]` or `[q_dim]`, see [`crate::QkNorm`].
    pub q_norm: Option<NormWeights<B>>,
    /// Norm of keys, `[head_dim]` or `[kv_dim]`.
    pub k_norm: Option<NormWeights<B>>,
    /// Attention sinks, `[heads]`: a score of each head that takes up a part of the softmax (Xiao et al. 2023, arXiv 2309.17453;
    /// learned as in gpt-oss).
    pub sinks: Option<B::Vector>,
    /// What latent attention has besides.
    pub latent: Option<LatentWeights<B>>,
    /// Output projection, `[dim, out_dim]`.
    pub out: B::Weight,
    /// Its bias, `[dim]`.
    pub out_bias: Option<B::Vector>,
    /// Norm of the block's output before the residual.
    pub post_norm: Option<NormWeights<B>>,
}

/// Weights of a gated short convolution.
pub struct ConvWeights<B: Backend> {
    /// Input norm.
    pub norm: Option<NormWeights<B>>,
    /// Fused projection `b | c | x`, `[3 * width, dim]`.
    pub bcx: B::Weight,
    /// The convolution's weights, `[taps, width]`, those of the position itself last.
    pub taps: B::Vector,
    /// Output projection, `[dim, width]`.
    pub out: B::Weight,
}

/// The first block of a layer.
pub enum MixerWeights<B: Backend> {
    /// Attention.
    Attention(AttnSpec, AttnWeights<B>),
    /// A gated short convolution.
    Convolution(ConvSpec, ConvWeights<B>),
    /// A delta net.
    DeltaNet(DeltaSpec, DeltaWeights<B>),
}

/// Weights of a delta net.
pub struct DeltaWeights<B: Backend> {
    /// Input norm.
    pub norm: Option<NormWeights<B>>,
    /// Fused projection `q | k | v | z | b | a`, `[projection_dim, dim]`, see [`DeltaSpec::projection_dim`].
    pub input: B::Weight,
    /// What is between the projections.
    pub rule: DeltaVectors<B::Vector>,
    /// Output projection, `[dim, all_values]`.
    pub out: B::Weight,
}

/// Weights of a delta net between its projections.
pub struct DeltaVectors<V> {
    /// The convolution's, `[taps, channels]`, those of the position itself last.
    pub taps: V,
    /// Rates of decay, negative, `[value_heads]`.
    pub decay: V,
    /// What is added to `a`, `[value_heads]`.
    pub dt_bias: V,
    /// Norm of each head of the output, `[value_dim]`.
    pub norm: V,
}

/// Weights of latent attention, see [`crate::LatentSpec`].
pub struct LatentWeights<B: Backend> {
    /// Norm of the queries' latent, `[q_rank]`, and the queries' projection, `[heads * (turned | plain), q_rank]`.
    pub q: Option<(B::Vector, B::Weight)>,
    /// Norm of the latent of keys and values, `[rank]`.
    pub kv_norm: B::Vector,
    /// Of each head, `[rank, plain]`.
    pub k_up: Vec<B::Weight>,
    /// Of each head, `[value, rank]`.
    pub v_up: Vec<B::Weight>,
}

/// Weights of a feed-forward block.
pub struct FfnWeights<B: Backend> {
    /// Input norm.
    pub norm: Option<NormWeights<B>>,
    /// Fused projection `gate | up`, or `up` alone, `[up_dim, dim]`.
    pub gate_up: B::Weight,
    /// Its bias, `[up_dim]`.
    pub gate_up_bias: Option<B::Vector>,
    /// `[dim, hidden]`.
    pub down: B::Weight,
    /// Its bias, `[dim]`.
    pub down_bias: Option<B::Vector>,
    /// Norm of the block's output before the residual.
    pub post_norm: Option<NormWeights<B>>,
}

/// Weights of a mixture of experts.
pub struct MoeWeights<B: Backend> {
    /// How it is mixed.
    pub spec: ExpertSpec,
    /// Input norm.
    pub norm: Option<NormWeights<B>>,
    /// `[experts, dim]`.
    pub router: B::Weight,
    /// Its bias, `[experts]`.
    pub router_bias: Option<B::Vector>,
    /// What is added to the experts' scores for the choice alone, `[experts]`.
    pub choice_bias: Option<B::Vector>,
    /// The experts.
    pub experts: ExpertWeights<B::Weight, B::Vector>,
    /// The expert that every position goes to.
    pub shared: Option<SharedExpert<B>>,
    /// Norm of the block's output before the residual.
    pub post_norm: Option<NormWeights<B>>,
}

/// Weights of the experts of a layer, in a backend's weights and vectors.
pub struct ExpertWeights<W, V> {
    /// Of each `gate | up`, `[up_dim, dim]`, and `down`, `[dim, hidden]`.
    pub products: Vec<[W; 2]>,
    /// Biases of the first, `[experts, up_dim]`.
    pub gate_up_bias: Option<V>,
    /// Biases of the second, `[experts, dim]`.
    pub down_bias: Option<V>,
}

/// Weights of the expert that every position goes to; it has a gate as the others have.
pub struct SharedExpert<B: Backend> {
    /// `gate | up`, `[2 * shared hidden, dim]`.
    pub gate_up: B::Weight,
    /// `[dim, shared hidden]`.
    pub down: B::Weight,
    /// `[1, dim]`: the expert's output is multiplied by the sigmoid of this product.
    pub gate: Option<B::Weight>,
}

/// The final norm and the output head; a tied head is the embedding table itself.
pub struct HeadWeights<'a, B: Backend> {
    /// Final norm.
    pub norm: &'a NormWeights<B>,
    /// `[vocab, dim]`.
    pub head: &'a B::Weight,
    /// `[vocab]`.
    pub bias: Option<&'a B::Vector>,
}

/// One layer's weights; `None`: another device computes that block.
pub struct Layer<B: Backend> {
    /// Norms that the residual stream itself goes through, before the mixer and before the feed-forward.
    pub stream_norms: [Option<NormWeights<B>>; 2],
    /// The two after the mixer where [`crate::LayerSpec::renormed`] says so, in place of the one before the feed-forward.
    pub renorms: Option<[NormWeights<B>; 2]>,
    /// Its kind, and its weights.
    pub mixer: Option<MixerWeights<B>>,
    /// Feed-forward.
    pub ffn: Option<Ffn<B>>,
}

/// The second block of a layer.
pub enum Ffn<B: Backend> {
    /// One feed-forward for all.
    Dense(FfnWeights<B>),
    /// A mixture of experts.
    Mixture(MoeWeights<B>),
}

/// All activations of a step, allocated once for the largest batch.
pub struct Scratch<B: Backend> {
    /// Residual stream, `[rows, dim]`.
    pub x: B::Act,
    /// Output of a norm, `[rows, dim]`.
    pub norm: B::Act,
    /// Residual stream as a mixer has read it, `[rows, dim]`, where a layer needs it again.
    pub kept: B::Act,
    /// Fused projection of the mixer, `[rows, max projection_dim or 3 * width]`.
    pub qkv: B::Act,
    /// Output of the mixer before its output projection, `[rows, max q_dim, width or all_values]`.
    pub attn: B::Act,
    /// Output of a block before the residual, `[rows, dim]`.
    pub proj: B::Act,
    /// `gate | up`, `[rows, 2 * max hidden]`.
    pub gate_up: B::Act,
    /// Gated hidden activations, `[rows, max hidden]`.
    pub hidden: B::Act,
    /// Router logits of mixtures of experts, `[rows, max experts]`.
    pub router: B::Act,
    /// Output of a shared expert, `[rows, dim]`.
    pub shared: B::Act,
    /// What gates it, `[rows, 1]`.
    pub shared_gate: B::Act,
    /// What latent attention needs.
    pub latent: LatentScratch<B>,
    /// Residual stream of the wanted rows, `[outputs, dim]`.
    pub last: B::Act,
    /// Its norm, `[outputs, dim]`.
    pub last_norm: B::Act,
    /// `[outputs, vocab]`.
    pub logits: B::Act,
}

/// Activations of latent attention, empty where no layer has it.
pub struct LatentScratch<B: Backend> {
    /// Fused projection, `[rows, projection_dim]`.
    pub down: B::Act,
    /// The queries' latent, `[rows, q_rank]`.
    pub q_down: B::Act,
    /// Projected queries, `[rows, projected_q_dim]`; later the heads' values, `[rows, out_dim]`.
    pub queries: B::Act,
    /// What goes into a product of each head, `[heads * rows, plain or rank]`.
    pub head_in: B::Act,
    /// What comes out, `[heads * rows, rank or value]`.
    pub head_out: B::Act,
}
