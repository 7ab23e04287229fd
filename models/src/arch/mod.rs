//! Architectures as data: each file turns metadata into a [`Blueprint`] and computes nothing.

mod common;

pub use gemma_embedding::AFTER_POOLING;

use crate::source::{Config, Source, Value};
use kinfer_core::backend::RowOrder;
use kinfer_core::{Error, ModelSpec, Result};

/// Declares the architectures: the file that reads each, and what people know it by.
macro_rules! architectures {
    ($($name:literal: $module:ident, $models:literal;)*) => {
        $(mod $module;)*
        /// Every supported architecture, by its `general.architecture`.
        pub static ARCHITECTURES: &[Architecture] =
            &[$(Architecture { name: $name, models: $models, read: $module::read }),*];
    };
}

architectures! {
    "bert": bert, "BERT, RoBERTa, XLM-RoBERTa: BGE, E5, MiniLM, mxbai-embed";
    "bloom": bloom, "BLOOM, BLOOMZ";
    "cohere2": cohere2, "Command R7B";
    "command-r": command_r, "Command R and R+, Aya Expanse";
    "deepseek2": deepseek2, "DeepSeek V2 and V3, Kanana 2, Moonlight, GLM-4.7-Flash";
    "exaone": exaone, "EXAONE 3 and 3.5";
    "exaone4": exaone4, "EXAONE 4";
    "exaone-moe": exaone_moe, "K-EXAONE";
    "falcon": falcon, "Falcon 7B, 40B and 180B";
    "gemma": gemma, "Gemma, CodeGemma";
    "gemma2": gemma2, "Gemma 2";
    "gemma3": gemma3, "Gemma 3";
    "gemma-embedding": gemma_embedding, "EmbeddingGemma";
    "glm4": glm4, "GLM-4-0414";
    "glm4moe": glm4moe, "GLM-4.5, GLM-4.5-Air, GLM-4.6";
    "gpt-oss": gpt_oss, "gpt-oss 20B and 120B";
    "gpt2": gpt2, "GPT-2";
    "gptneox": gptneox, "Pythia, GPT-NeoX, Dolly";
    "granite": granite, "Granite 3 without experts";
    "granitemoe": granitemoe, "Granite 3 with experts";
    "hyperclovax": hyperclovax, "HyperCLOVA X SEED Think";
    "lfm2": lfm2, "LFM2 and LFM2.5, 350M to 2.6B";
    "lfm2moe": lfm2moe, "LFM2-8B-A1B";
    "jina-bert-v2": jina_bert_v2, "Jina Embeddings 2";
    "jina-bert-v3": jina_bert_v3, "Jina Embeddings 3";
    "llama": llama, "Llama 1 to 3, Mistral, Mixtral, SmolLM2, Yi, Vicuna";
    "modern-bert": modern_bert, "ModernBERT: gte-modernbert, granite-embedding-r2";
    "mpt": mpt, "MPT, SEA-LION 1";
    "nomic-bert": nomic_bert, "nomic-embed-text 1 and 1.5";
    "olmo2": olmo2, "OLMo 2 and 3";
    "olmoe": olmoe, "OLMoE";
    "phi2": phi2, "Phi-1, Phi-1.5, Phi-2";
    "phi3": phi3, "Phi-3, Phi-3.5-mini, Phi-4";
    "qwen2": qwen2, "Qwen 1.5, 2 and 2.5, DeepSeek-R1-Distill-Qwen";
    "qwen2moe": qwen2moe, "Qwen 1.5 and 2 with experts";
    "qwen3": qwen3, "Qwen 3";
    "qwen3moe": qwen3moe, "Qwen 3 with experts";
    "qwen3next": qwen3next, "Qwen3-Next";
    "qwen35": qwen35, "Qwen 3.5";
    "qwen35moe": qwen35moe, "Qwen 3.5 with experts";
    "smollm3": smollm3, "SmolLM3";
    "stablelm": stablelm, "StableLM";
    "starcoder2": starcoder2, "StarCoder2";
}

/// A supported architecture.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Its name in model files.
    pub name: &'static str,
    /// Models that have it, for people.
    pub models: &'static str,
    /// Reads its metadata.
    pub read: Reader,
}

/// Turns an architecture's metadata into its blueprint.
pub type Reader = fn(&Config<'_>) -> Result<Blueprint>;

/// A model's shape and where its weights lie in the file.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// What the forward computes.
    pub spec: ModelSpec,
    /// Where the weights are.
    pub names: Names,
    /// Logits are multiplied by this (others 1); folded into the final norm when the model is built.
    pub logit_scale: f32,
    /// Weights of the norms of blocks' outputs are multiplied by this (others 1) when the model is built.
    pub post_norm_scale: f32,
}

/// Tensor names, without the `.weight` or `.bias` that they end in. Those of a layer stand behind `blk.{i}.`; any but those
/// of RMS norms may have a bias.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Token embedding, `[vocab, dim]`.
    pub embed: &'static str,
    /// Embeddings of token types, `[types, dim]`, of which the first is added to the embeddings.
    pub token_types: Option<&'static str>,
    /// Learned positions, `[context, dim]`, added to the embeddings.
    pub positions: Option<&'static str>,
    /// Norm of the embeddings. The first layer may then go without a norm before attention.
    pub embed_norm: Option<&'static str>,
    /// Norms of the residual stream itself, after attention and after the feed-forward; the last layer's takes the final norm's place.
    pub stream_norms: Option<[&'static str; 2]>,
    /// Whole names of the tensors of per-frequency rotary divisors.
    pub rope_factors: &'static [&'static str],
    /// Final norm, `[dim]`.
    pub norm: &'static str,
    /// Output head, `[vocab, dim]`; the embedding where the file has no such tensor.
    pub head: &'static str,
    /// Norm before attention.
    pub attn_norm: Option<&'static str>,
    /// Query, key and value projections.
    pub qkv: [&'static str; 3],
    /// The three in one tensor, which a file may have instead.
    pub fused_qkv: &'static str,
    /// How the rows of query and key heads are stored.
    pub qk_rows: QkRows,
    /// Attention sinks, `[heads]`.
    pub attn_sinks: Option<&'static str>,
    /// Attention's output projection.
    pub attn_out: &'static str,
    /// Norm of attention's output.
    pub attn_post_norm: Option<&'static str>,
    /// Norm before the feed-forward.
    pub ffn_norm: Option<&'static str>,
    /// Gate and up projections; a file without the first may have both in the second.
    pub gate_up: [&'static str; 2],
    /// Down projection.
    pub down: &'static str,
    /// Norm of the feed-forward's output.
    pub ffn_post_norm: Option<&'static str>,
    /// Beginnings of tensor names that belong to other parts of the file, such as an image encoder.
    pub ignored: &'static [&'static str],
    /// First and number of the layers that the file says guess further tokens, and that are ignored.
    pub guessing: (usize, usize),
}

/// How the rows of a query or key head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkRows {
    /// For the half-split rotary convention.
    Halves,
    /// For rotary pairs of adjacent rows.
    Pairs {
        /// The first rows of a head, which turn.
        turned: usize,
    },
}

impl QkRows {
    /// The order in which the rows of heads of `head_dim` rows are to be taken.
    pub fn order(self, head_dim: usize) -> RowOrder {
        match self {
            QkRows::Halves => RowOrder::AsStored,
            QkRows::Pairs { turned } => RowOrder::AdjacentPairs { head_dim, turned },
        }
    }
}

/// The tensor of per-frequency rotary divisors that most files with such have.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Names {
    /// The names that GGUF files use, without optional parts.
    pub const GGUF: Names = Names {
        embed: "token_embd",
        token_types: None,
        positions: None,
        embed_norm: None,
        stream_norms: None,
        rope_factors: &[ROPE_FACTORS],
        norm: "output_norm",
        head: "output",
        attn_norm: Some("attn_norm"),
        qkv: ["attn_q", "attn_k", "attn_v"],
        fused_qkv: "attn_qkv",
        qk_rows: QkRows::Halves,
        attn_sinks: None,
        attn_out: "attn_output",
        attn_post_norm: None,
        ffn_norm: Some("ffn_norm"),
        gate_up: ["ffn_gate", "ffn_up"],
        down: "ffn_down",
        ffn_post_norm: None,
        ignored: &[],
        guessing: (0, 0),
    };

    /// [`Names::GGUF`] where blocks read the residual stream as it is, and their outputs are normed.
    pub const POST_NORMED: Names = Names {
        attn_norm: None,
        attn_post_norm: Some("post_attention_norm"),
        ffn_norm: None,
        ffn_post_norm: Some("post_ffw_norm"),
        ..Names::GGUF
    };

    /// [`Names::GGUF`] where the residual stream is normed after each block, as in BERT.
    pub const STREAM_NORMED: Names = Names {
        token_types: Some("token_types"),
        embed_norm: Some("token_embd_norm"),
        stream_norms: Some(["attn_output_norm", "layer_output_norm"]),
        attn_norm: None,
        ffn_norm: None,
        ..Names::GGUF
    };

    /// Whether tensor `name` belongs to another part of the file.
    pub fn ignores(&self, name: &str) -> bool {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let (first, count) = self.guessing;
        self.ignored.iter().any(|prefix| name.starts_with(prefix))
            || layer.is_some_and(|i: usize| i >= first && i - first < count)
    }
}

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
    let Some(known) = ARCHITECTURES.iter().find(|known| known.name == arch) else {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        return Err(Error::Unsupported {
            what: format!("the model architecture `{arch}`"),
            supported: names.join(", "),
        });
    };
    (known.read)(&Config::new(source, arch))
}

fn metadata(key: &str, problem: String) -> Error {
    Error::Metadata { key: key.into(), problem }
}
