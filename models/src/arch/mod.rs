//! Architectures as data: each file turns metadata into a [`Blueprint`] and computes nothing.

mod gemma3;
mod llama;

use crate::source::{Config, Source, Value};
use kinfer_core::backend::RowOrder;
use kinfer_core::{Error, ModelSpec, Result};

/// Every supported architecture, by its `general.architecture`.
pub static ARCHITECTURES: &[(&str, Reader)] = &[("gemma3", gemma3::read), ("llama", llama::read)];

/// Turns an architecture's metadata into its blueprint.
pub type Reader = fn(&Config<'_>) -> Result<Blueprint>;

/// A model's shape and where its weights lie in the file.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// What the forward computes.
    pub spec: ModelSpec,
    /// Where the weights are.
    pub names: Names,
}

/// Tensor names. Those of a layer stand between `blk.{i}.` and `.weight`.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Token embedding, `[vocab, dim]`.
    pub embed: &'static str,
    /// Final norm, `[dim]`.
    pub norm: &'static str,
    /// Output head, `[vocab, dim]`; the embedding where the file has no such tensor.
    pub head: &'static str,
    /// Norm before attention.
    pub attn_norm: &'static str,
    /// Query, key and value projections; each may have a `.bias`.
    pub qkv: [&'static str; 3],
    /// The three in one tensor, which a file may have instead.
    pub fused_qkv: &'static str,
    /// How the rows of query and key heads are stored.
    pub qk_rows: QkRows,
    /// Per-head norms of queries and keys.
    pub qk_norm: Option<[&'static str; 2]>,
    /// Attention's output projection; it may have a `.bias`.
    pub attn_out: &'static str,
    /// Norm of attention's output.
    pub attn_post_norm: Option<&'static str>,
    /// Norm before the feed-forward.
    pub ffn_norm: &'static str,
    /// Gate and up projections.
    pub gate_up: [&'static str; 2],
    /// Down projection.
    pub down: &'static str,
    /// Norm of the feed-forward's output.
    pub ffn_post_norm: Option<&'static str>,
    /// Beginnings of tensor names that belong to other parts of the file, such as an image encoder.
    pub ignored: &'static [&'static str],
}

/// How the rows of a query or key head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkRows {
    /// For the half-split rotary convention.
    Halves,
    /// For rotary pairs of adjacent rows.
    Pairs,
}

impl QkRows {
    /// The order in which the rows of heads of `head_dim` rows are to be taken.
    pub fn order(self, head_dim: usize) -> RowOrder {
        match self {
            QkRows::Halves => RowOrder::AsStored,
            QkRows::Pairs => RowOrder::AdjacentPairs { head_dim },
        }
    }
}

impl Names {
    /// The names that GGUF files use, without optional parts.
    pub const GGUF: Names = Names {
        embed: "token_embd.weight",
        norm: "output_norm.weight",
        head: "output.weight",
        attn_norm: "attn_norm",
        qkv: ["attn_q", "attn_k", "attn_v"],
        fused_qkv: "attn_qkv",
        qk_rows: QkRows::Halves,
        qk_norm: None,
        attn_out: "attn_output",
        attn_post_norm: None,
        ffn_norm: "ffn_norm",
        gate_up: ["ffn_gate", "ffn_up"],
        down: "ffn_down",
        ffn_post_norm: None,
        ignored: &[],
    };

    /// Whether tensor `name` belongs to another part of the file.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// The tensor of per-frequency rotary divisors.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Reads the architecture of a file.
///
/// # Errors
/// [`Error::Unsupported`] for an unknown architecture; [`Error::Metadata`] for a key that is missing, has a wrong
/// value, or is not known.
pub fn read(source: &dyn Source) -> Result<Blueprint> {
    const KEY: &str = "general.architecture";
    let arch = match source.value(KEY) {
        Some(Value::Str(arch)) => arch,
        Some(v) => return Err(metadata(KEY, format!("expected a string, got {v}"))),
        None => return Err(metadata(KEY, "is missing from the model file".into())),
    };
    let Some((_, reader)) = ARCHITECTURES.iter().find(|(name, _)| *name == arch) else {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        return Err(Error::Unsupported {
            what: format!("the model architecture `{arch}`"),
            supported: names.join(", "),
        });
    };
    reader(&Config::new(source, arch))
}

fn metadata(key: &str, problem: String) -> Error {
    Error::Metadata { key: key.into(), problem }
}

/// Far beyond any model; keeps a corrupt file from asking for gigabytes of rotary frequencies.
const MAX_HEAD_DIM: usize = 1 << 14;

/// What every decoder's metadata gives in the same way.
struct Common {
    vocab: usize,
    dim: usize,
    context: usize,
    layers: usize,
    /// Per layer.
    heads: Vec<usize>,
    /// Per layer.
    kv_heads: Vec<usize>,
    head_dim: usize,
    /// Elements of a head that turn.
    rope_dim: usize,
    /// Per layer.
    hidden: Vec<usize>,
    norm_eps: f32,
}

impl Common {
    fn read(config: &Config<'_>) -> Result<Common> {
        let embed = Names::GGUF.embed;
        let dim = config.size("embedding_length")?;
        let vocab = match config.source().tensor(embed)?.map(|t| t.shape) {
            Some(shape) if shape.len() == 2 && shape[1] == dim => shape[0],
            Some(shape) => {
                let expected = format!("[vocabulary, {dim}]");
                return Err(Error::Shape { name: embed.into(), expected, got: format!("{shape:?}") });
            }
            None => {
                return Err(Error::MissingTensor { name: embed.into(), arch: config.arch().into() });
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
        let kv_heads = config.opt_sizes("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        if let Some((h, kv)) = heads.iter().zip(&kv_heads).find(|(h, kv)| !h.is_multiple_of(**kv)) {
            return Err(config.error(
                "attention.head_count_kv",
                format!("{h} query heads cannot share {kv} key/value heads evenly"),
            ));
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
        if let Some(n) = config.opt_size("attention.value_length")?
            && n != head_dim
        {
            return Err(config.error(
                "attention.value_length",
                format!("values of width {n} beside keys of width {head_dim} are not supported"),
            ));
        }
        let rope_dim = config.opt_size("rope.dimension_count")?.unwrap_or(head_dim);
        if rope_dim > head_dim {
            return Err(config.error(
                "rope.dimension_count",
                format!("is {rope_dim}, but a head has {head_dim} elements"),
            ));
        }
        config.refuse("expert_count", "a mixture of experts")?;
        config.refuse("expert_used_count", "a mixture of experts")?;
        Ok(Common {
            vocab,
            dim,
            context: config.size("context_length")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            hidden: config.sizes("feed_forward_length", layers)?,
            norm_eps: config.positive("attention.layer_norm_rms_epsilon")? as f32,
        })
    }
}

/// Keys that describe the file and change nothing that is computed.
const DESCRIPTIVE: [&str; 2] = ["tensor_data_layout", "rope.scaling.finetuned"];
