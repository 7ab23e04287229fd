//! Settings of classes from before Llama, and of those that keep to their ways: layer norms, biases, fused projections.

use serde_json::{Map, Value as Json};

use super::details::Groups;
use super::{Config, Family, Out, expected, text, wrong};
use crate::gguf::Problem;

/// Settings of training, of other tasks, and of how exactly transformers adds up.
const OF_TRAINING: &[&str] = &[
    "attention_softmax_in_fp32",
    "attn_pdrop",
    "bias_dropout_fusion",
    "classifier_dropout",
    "emb_pdrop",
    "embed_dropout",
    "embedding_dropout",
    "embedding_fraction",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "init_config",
    "init_device",
    "label2id",
    "masked_softmax_fusion",
    "output_past",
    "residual_dropout",
    "scale_attention_softmax_in_fp32",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_name",
    "verbose",
];

impl Config<'_> {
    /// Positions that the model is for. Those without an end have as many as were trained.
    pub(super) fn positions(&self, family: &Family) -> Result<u32, Problem> {
        const KEY: &str = "max_position_embeddings";
        match (family.arch, self.opt_count(KEY)?) {
            ("bloom" | "falcon", None) => Ok(2048),
            // Positions that turn go on beyond those of the setting.
            ("command-r", Some(n)) => Ok(self.opt_count("model_max_length")?.unwrap_or(n)),
            (_, Some(n)) => Ok(n),
            (_, None) => Err(wrong(KEY, "is missing")),
        }
    }

    /// Width of the feed-forward.
    pub(super) fn hidden(&self, family: &Family, dim: u32) -> Result<u32, Problem> {
        const KEY: &str = "intermediate_size";
        match (family.arch, self.opt_count(KEY)?) {
            ("bloom" | "falcon" | "gpt2" | "mpt", None) => dim
                .checked_mul(4)
                .ok_or_else(|| wrong("hidden_size", &format!("is {dim}, which is too large"))),
            (_, Some(n)) => Ok(n),
            (_, None) => Err(wrong(KEY, "is missing")),
        }
    }

    /// Heads of keys and values, beside `heads` of queries.
    pub(super) fn kv_heads(&self, family: &Family, heads: u32) -> Result<u32, Problem> {
        const KEY: &str = "num_key_value_heads";
        let given = self.opt_count(KEY)?;
        if family.arch != "falcon" {
            return Ok(given.unwrap_or(heads));
        }
        let flag = |key, usual| match self.get(key) {
            None => Ok(usual),
            Some(_) => self.flag(key),
        };
        Ok(match (flag("new_decoder_architecture", false)?, flag("multi_query", true)?) {
            (true, _) => given.unwrap_or(heads),
            // Whatever else is said.
            (false, true) => 1,
            (false, false) => heads,
        })
    }

    /// The heads of classes that store a group's queries, key and value together.
    pub(super) fn groups(&self, family: &Family) -> Result<Option<Groups>, Problem> {
        if !matches!(family.arch, "bloom" | "falcon" | "gptneox") {
            return Ok(None);
        }
        let (dim, heads) = (self.count("hidden_size")?, self.count("num_attention_heads")?);
        let groups = self.kv_heads(family, heads)?;
        if groups == 0 || !heads.is_multiple_of(groups) || !dim.is_multiple_of(heads) {
            let problem = format!("is {heads}, which is no multiple of {groups} or does not divide {dim}");
            return Err(wrong("num_attention_heads", &problem));
        }
        Ok(Some(Groups { groups, queries: heads / groups, dim: dim / heads }))
    }

    /// What only these classes have.
    pub(super) fn layer_normed(&self, out: &mut Out, family: &Family) -> Result<(), Problem> {
        let of_these = ["bloom", "falcon", "gpt2", "gptneox", "mpt", "starcoder2", "stablelm", "exaone"];
        if of_these.contains(&family.arch) {
            OF_TRAINING.iter().for_each(|key| {
                self.get(key);
            });
        }
        let yes = &[true.into()];
        match family.class {
            "CohereForCausalLM" | "Cohere2ForCausalLM" => {
                out.set("logit_scale", self.number("logit_scale")? as f32);
                // It shows in the tensors.
                self.get("use_qk_norm");
                // What the published files say of what these models are.
                self.only("position_embedding_type", &["rope_gptj".into()])?;
                self.only("order_of_interleaved_layers", &["local_attn_first".into()])?;
                self.only("rotary_pct", &[1.0.into(), 1.into()])?;
                for key in [
                    "use_embedding_sharing",
                    "use_gated_activation",
                    "use_parallel_block",
                    "use_parallel_embedding",
                ] {
                    self.only(key, yes)?;
                }
                // Other words for the period of the window.
                self.get("layer_switch");
                self.get("model_max_length");
            }
            "StableLmForCausalLM" => {
                let parallel =
                    self.get("use_parallel_residual").is_some() && self.flag("use_parallel_residual")?;
                out.set("use_parallel_residual", parallel);
                // They show in the tensors.
                self.get("use_qkv_bias");
                self.get("qk_layernorm");
            }
            "GPTNeoXForCausalLM" => {
                let parallel =
                    self.get("use_parallel_residual").is_none() || self.flag("use_parallel_residual")?;
                out.set("use_parallel_residual", parallel);
            }
            "Starcoder2ForCausalLM" => {
                self.only("mlp_type", &["default".into()])?;
                self.only("norm_type", &["layer_norm".into()])?;
                self.only("scale_attn_weights", yes)?;
                // What the tensors show, and what transformers does not look at.
                for key in ["use_bias", "activation_function"] {
                    self.get(key);
                }
            }
            "GPT2LMHeadModel" => {
                self.only("scale_attn_weights", yes)?;
                // Other words for the positions, and one for how precise the sums of scores are.
                self.get("n_ctx");
                self.get("reorder_and_upcast_attn");
            }
            "FalconForCausalLM" => {
                self.only("alibi", &[false.into()])?;
                if self.value("new_decoder_architecture") != Some(&true.into()) {
                    self.only("parallel_attn", yes)?;
                }
                self.get("parallel_attn");
                self.only("num_ln_in_parallel_attn", &[1.into(), 2.into()])?;
                self.only("ff_factor", &[4.into()])?;
                // It shows in the tensors.
                self.get("bias");
            }
            "BloomForCausalLM" => {
                // How transformers adds up, and what it does not look at.
                for key in ["slow_but_exact", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv"] {
                    self.get(key);
                }
            }
            "MPTForCausalLM" | "MptForCausalLM" => self.mpt(out)?,
            _ => {}
        }
        Ok(())
    }

    fn mpt(&self, out: &mut Out) -> Result<(), Problem> {
        const KEY: &str = "attn_config";
        let empty = Map::new();
        let attn = match self.get(KEY) {
            None => &empty,
            Some(Json::Object(map)) => map,
            Some(v) => return Err(expected(KEY, v, "an object")),
        };
        // Of training, of how it is computed, and what transformers adds to every object.
        let ignored = [
            "_name_or_path",
            "attn_impl",
            "attn_pdrop",
            "chunk_size_feed_forward",
            "id2label",
            "label2id",
            "model_type",
            "return_dict",
        ];
        for (key, value) in attn {
            let off = matches!(value, Json::Null | Json::Bool(false));
            let right = match key.as_str() {
                "alibi" => value == &Json::Bool(true),
                "alibi_bias_max" => true,
                "attn_type" => text(attn, key) == Some("multihead_attention"),
                key => off || ignored.contains(&key),
            };
            if !right {
                return Err(wrong(KEY, &format!("has `{key}` {value}, which kinfer cannot follow")));
            }
        }
        let largest = match attn.get("alibi_bias_max") {
            None => 8.0,
            Some(v) => v.as_f64().ok_or_else(|| wrong(KEY, "has no number `alibi_bias_max`"))?,
        };
        out.set("attention.max_alibi_bias", largest as f32);
        self.only("expansion_ratio", &[4.into()])?;
        self.only("norm_type", &["low_precision_layernorm".into(), "layernorm".into()])?;
        // It shows in the tensors, and there are none of positions beside ALiBi.
        self.get("no_bias");
        self.get("learned_pos_emb");
        Ok(())
    }
}
