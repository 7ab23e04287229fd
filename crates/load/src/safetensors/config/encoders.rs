//! Settings of encoders that are no decoders with another mask: BERT and what came of it.

use super::{Config, Family, Json, Out, Problem, expected, wrong};

/// What the settings of a shape are called.
struct Names {
    dim: &'static str,
    layers: &'static str,
    heads: &'static str,
    hidden: &'static str,
    positions: &'static str,
    eps: &'static str,
}

/// By transformers.
const NAMES: Names = Names {
    dim: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    hidden: "intermediate_size",
    positions: "max_position_embeddings",
    eps: "layer_norm_eps",
};
const MODERN: Names = Names { eps: "norm_eps", ..NAMES };
/// By Nomic's own code, as GPT-2 has them.
const NOMIC: Names = Names {
    dim: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    hidden: "n_inner",
    positions: "n_positions",
    eps: "layer_norm_epsilon",
};

impl Config<'_> {
    /// An encoder's settings.
    pub(super) fn encoder(&self, out: &mut Out, family: &Family) -> Result<(), Problem> {
        let nomics = family.arch == "nomic-bert" && self.json.contains_key(NOMIC.dim);
        let names = match family.arch {
            "modern-bert" => MODERN,
            _ if nomics => NOMIC,
            _ => NAMES,
        };
        let (dim, layers, heads) =
            (self.count(names.dim)?, self.count(names.layers)?, self.count(names.heads)?);
        out.set("block_count", layers);
        out.set("embedding_length", dim);
        out.set("vocab_size", self.count("vocab_size")?);
        let positions = self.count(names.positions)?.saturating_sub(family.first_position);
        out.set("attention.head_count", heads);
        out.set("attention.head_count_kv", heads);
        out.set("feed_forward_length", self.count(names.hidden)?);
        out.set("attention.layer_norm_epsilon", self.number(names.eps)? as f32);
        out.set("attention.causal", false);
        // Absent, there is none of the two, or the architecture has none.
        let head_dim = match self.opt_count("head_dim")? {
            Some(n) => n,
            None if heads > 0 && dim.is_multiple_of(heads) => dim / heads,
            None => return Err(wrong(names.heads, &format!("is {heads}, which does not divide {dim}"))),
        };
        if head_dim.checked_mul(heads) != Some(dim) {
            return Err(wrong("head_dim", &format!("is {head_dim}; {heads} of them are not {dim}")));
        }
        self.get("tie_word_embeddings");
        // They show in the tensors, or are of training.
        for key in [
            "type_vocab_size",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
            "id2label",
            "label2id",
            "output_past",
            "model_max_length",
        ] {
            self.get(key);
        }
        match family.arch {
            "modern-bert" => {
                out.set("context_length", positions);
                self.modern_bert(out, layers as usize, head_dim, positions)?;
            }
            "nomic-bert" if nomics => self.nomics_own(out, positions)?,
            "nomic-bert" => {
                out.set("context_length", positions);
                self.only("hidden_act", &["silu".into()])?;
                self.ropes(out, head_dim, positions)?;
            }
            "jina-bert-v3" => {
                out.set("context_length", positions);
                self.only("hidden_act", &["gelu".into()])?;
                self.only("position_embedding_type", &["rotary".into()])?;
                match self.opt_number("rotary_emb_base")? {
                    Some(base) => out.set("rope.freq_base", base as f32),
                    None => self.ropes(out, head_dim, positions)?,
                }
                self.without_tasks()?;
            }
            "jina-bert-v2" => {
                out.set("context_length", positions);
                self.only("hidden_act", &["gelu".into()])?;
                self.only("position_embedding_type", &["alibi".into()])?;
                self.only("feed_forward_type", &["geglu".into()])?;
                // Of its own code: how it is computed, and what sentence-transformers says again.
                self.get("attn_implementation");
                self.get("emb_pooler");
            }
            _ => {
                out.set("context_length", positions);
                self.only("hidden_act", &["gelu".into()])?;
                self.only("position_embedding_type", &["absolute".into()])?;
            }
        }
        if family.first_position > 0 {
            // A text's positions are counted from the padding token's id on.
            self.only("pad_token_id", &[(family.first_position - 1).into()])?;
        }
        Ok(())
    }

    /// Adapters for tasks, of which none is used where none is asked for.
    fn without_tasks(&self) -> Result<(), Problem> {
        for key in [
            "load_trained_adapters",
            "lora_adaptations",
            "lora_alpha",
            "lora_dropout_p",
            "lora_main_params_trainable",
            "lora_rank",
            "task_instructions",
            // How it is computed, and to what length vectors may be cut.
            "matryoshka_dimensions",
            "use_flash_attn",
            "use_reentrant",
        ] {
            self.get(key);
        }
        self.only("emb_pooler", &[])?;
        self.only("truncate_dim", &[])
    }

    /// ModernBERT of `layers` layers.
    fn modern_bert(
        &self,
        out: &mut Out,
        layers: usize,
        head_dim: u32,
        positions: u32,
    ) -> Result<(), Problem> {
        self.ropes(out, head_dim, positions)?;
        const ACT: &str = "hidden_activation";
        self.only(ACT, &["gelu".into(), "silu".into()])?;
        out.set(ACT, self.get(ACT).and_then(Json::as_str).unwrap_or("gelu"));
        out.set("attention.sliding_window", self.count("local_attention")?);
        const TYPES: &str = "layer_types";
        let period = self.opt_count("global_attn_every_n_layers")?;
        let period = match self.get(TYPES) {
            None => period.unwrap_or(3).max(1),
            // The file format has a period, too.
            Some(v) => {
                let kind =
                    |of: usize| move |i| if i % of == 0 { "full_attention" } else { "sliding_attention" };
                let same = |of: &usize| *v == (0..layers).map(kind(*of)).collect::<Json>();
                let found = (1..=layers.max(1)).find(same);
                found.map(|n| n as u32).ok_or_else(|| {
                    expected(
                        TYPES,
                        v,
                        "\"full_attention\" first and after every so many \"sliding_attention\"",
                    )
                })?
            }
        };
        out.set("attention.sliding_window_pattern", period);
        // Of training, of classifiers, of how it is computed; and what shows in the tensors.
        for key in [
            "classifier_activation",
            "classifier_bias",
            "classifier_pooling",
            "cls_token_id",
            "decoder_bias",
            "deterministic_flash_attn",
            "embedding_dropout",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "mlp_dropout",
            "norm_bias",
            "position_embedding_type",
            "reference_compile",
            "repad_logits_with_grad",
            "sep_token_id",
            "sparse_pred_ignore_index",
            "sparse_prediction",
        ] {
            self.get(key);
        }
        Ok(())
    }

    /// Nomic's BERT as its own code has it, which can be many other models.
    fn nomics_own(&self, out: &mut Out, positions: u32) -> Result<(), Problem> {
        // Beyond those it was trained on, frequencies would be scaled.
        let trained = self.opt_count("max_trained_positions")?.unwrap_or(positions);
        out.set("context_length", positions.min(trained));
        out.set("rope.freq_base", self.number("rotary_emb_base")? as f32);
        self.only("activation_function", &["swiglu".into()])?;
        self.only("rotary_emb_fraction", &[1.into(), 1.0.into()])?;
        self.only("scale_attn_weights", &[true.into()])?;
        // Off, or another model.
        for key in [
            "causal",
            "mlp_fc1_bias",
            "mlp_fc2_bias",
            "parallel_block",
            "parallel_block_tied_norm",
            "prenorm",
            "qkv_proj_bias",
            "rotary_emb_interleaved",
            "scale_attn_by_inverse_layer_idx",
            "use_rms_norm",
        ] {
            self.only(key, &[false.into()])?;
        }
        self.only("rotary_emb_scale_base", &[])?;
        // The factor is of longer texts than the model was trained on.
        self.get("rotary_scaling_factor");
        // Of training, and of how it is computed.
        for key in [
            "attn_pdrop",
            "dense_seq_output",
            "fused_bias_fc",
            "fused_dropout_add_ln",
            "last_layer_subset",
            "pad_vocab_size_multiple",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "use_flash_attn",
            "use_xentropy",
        ] {
            self.get(key);
        }
        Ok(())
    }
}
