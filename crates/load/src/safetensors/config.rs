//! `config.json` as the metadata of a GGUF file.

mod lfm2;

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::coded::Scheme;
use super::names::{FAMILIES, Family};
use super::quantization;
use crate::gguf::{Problem, Value};
use kinfer_kernels::quant::Format;

/// Metadata keys, and tensors that GGUF files store and transformers computes.
pub(super) type Entries = Vec<(String, Value)>;
pub(super) type Computed = Vec<(&'static str, Vec<f32>)>;

/// Settings that describe the model, its training or transformers' own work, and change nothing that is computed here.
const DESCRIPTIVE: &[&str] = &[
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "head_dim",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_nextn_predict_layers",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Strict reader of config.json: [`Config::finish`] fails on settings that nobody has read.
pub(super) struct Config<'a> {
    json: &'a Map<String, Json>,
    read: RefCell<HashSet<&'static str>>,
}

impl<'a> Config<'a> {
    pub fn new(json: &'a Map<String, Json>) -> Self {
        Config { json, read: RefCell::default() }
    }

    /// The family that the class belongs to.
    pub fn family(&self) -> Result<&'static Family, Problem> {
        let class = self.json.get("architectures").and_then(|v| v.get(0)).and_then(Json::as_str);
        let class = class.ok_or_else(|| wrong("architectures", "is missing or names no class"))?;
        FAMILIES.iter().find(|family| family.class == class).ok_or_else(|| Problem::Class {
            class: class.into(),
            supported: FAMILIES.iter().map(|f| f.class).collect::<Vec<_>>().join(", "),
            hint: match class.ends_with("ForConditionalGeneration") {
                true => "; of models with images or sound, take a GGUF file",
                false => "",
            },
        })
    }

    /// Whether the head is the embedding.
    pub fn tied(&self, family: &Family) -> bool {
        let tied = |key: &str| self.json.get(key).and_then(Json::as_bool);
        let named = if family.is_lfm2() { tied("tie_embedding") } else { None };
        named.or(tied("tie_word_embeddings")).unwrap_or(family.tied)
    }

    /// Tokens that the model computes; 0 where it does not say.
    pub fn vocab_size(&self) -> usize {
        self.json.get("vocab_size").and_then(Json::as_u64).map_or(0, |n| n as usize)
    }

    /// The layers behind the decoder's that guess further tokens.
    pub fn guessing(&self) -> Range<u64> {
        let count = |key| self.json.get(key).and_then(Json::as_u64).unwrap_or(0);
        let layers = count("num_hidden_layers");
        layers..layers.saturating_add(count("num_nextn_predict_layers"))
    }

    /// The value; `None` for one that is absent or `null`.
    fn get(&self, key: &'static str) -> Option<&'a Json> {
        self.read.borrow_mut().insert(key);
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn opt_count(&self, key: &'static str) -> Result<Option<u32>, Problem> {
        let count = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.get(key).map(|v| count(v).ok_or_else(|| expected(key, v, "a count"))).transpose()
    }

    fn count(&self, key: &'static str) -> Result<u32, Problem> {
        self.opt_count(key)?.ok_or_else(|| wrong(key, "is missing"))
    }

    fn opt_number(&self, key: &'static str) -> Result<Option<f64>, Problem> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| expected(key, v, "a number"))).transpose()
    }

    fn flag(&self, key: &'static str) -> Result<bool, Problem> {
        let v = self.get(key).ok_or_else(|| wrong(key, "is missing"))?;
        v.as_bool().ok_or_else(|| expected(key, v, "true or false"))
    }

    fn number(&self, key: &'static str) -> Result<f64, Problem> {
        self.opt_number(key)?.ok_or_else(|| wrong(key, "is missing"))
    }

    /// Fails for a value that is not absent, `null` or one of `fine`.
    fn only(&self, key: &'static str, fine: &[Json]) -> Result<(), Problem> {
        match self.get(key) {
            Some(v) if !fine.contains(v) => {
                let fine: Vec<String> = fine.iter().map(Json::to_string).collect();
                Err(expected(key, v, &fine.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// Metadata, and tensors of computed values.
    pub fn metadata(&self, family: &Family) -> Result<(Entries, Computed), Problem> {
        let mut out = Out { arch: family.arch, entries: Vec::new(), computed: Vec::new() };
        out.entries.push(("general.architecture".into(), family.arch.into()));
        let (dim, layers, heads) = (
            self.count("hidden_size")?,
            self.count("num_hidden_layers")?,
            self.count("num_attention_heads")?,
        );
        self.get("tie_word_embeddings");
        out.set("block_count", layers);
        out.set("embedding_length", dim);
        out.set("vocab_size", self.count("vocab_size")?);
        let positions = self.count("max_position_embeddings")?;
        out.set("context_length", positions.saturating_sub(family.first_position));
        out.set("attention.head_count", heads);
        let kv_heads = self.opt_count("num_key_value_heads")?.unwrap_or(heads);
        match family.is_lfm2() {
            true => self.lfm2(&mut out, dim, layers as usize, kv_heads)?,
            false => {
                out.set("feed_forward_length", self.count("intermediate_size")?);
                out.set("attention.head_count_kv", kv_heads);
            }
        }
        if family.arch == "bert" {
            out.set("attention.layer_norm_epsilon", self.number("layer_norm_eps")? as f32);
            out.set("attention.causal", false);
            self.only("hidden_act", &["gelu".into()])?;
            self.only("position_embedding_type", &["absolute".into()])?;
            // They show in the tensors, or are of training.
            for key in [
                "type_vocab_size",
                "hidden_dropout_prob",
                "attention_probs_dropout_prob",
                "classifier_dropout",
                "id2label",
                "label2id",
                "output_past",
            ] {
                self.get(key);
            }
            if family.first_position > 0 {
                // A text's positions are counted from the padding token's id on.
                self.only("pad_token_id", &[(family.first_position - 1).into()])?;
            }
            self.finish(family)?;
            return Ok((out.entries, out.computed));
        }
        let eps = if family.is_lfm2() { "norm_eps" } else { "rms_norm_eps" };
        out.set("attention.layer_norm_rms_epsilon", self.number(eps)? as f32);
        let head_dim = match self.opt_count("head_dim")? {
            Some(n) => n,
            None if heads > 0 && dim.is_multiple_of(heads) => dim / heads,
            None => return Err(wrong("head_dim", "is missing, and the width is no multiple of the heads")),
        };
        out.set("attention.key_length", head_dim);
        out.set("attention.value_length", head_dim);
        let gelu = family.arch.starts_with("gemma");
        if gelu {
            // Gemma's first configurations say "gelu", and mean its approximation.
            let fine = ["gelu_pytorch_tanh", "gelu"].map(Json::from);
            self.only("hidden_activation", &fine[..1])?;
            self.only("hidden_act", &fine)?;
        } else {
            self.only("hidden_act", &["silu".into(), "swish".into()])?;
        }
        self.ropes(&mut out, head_dim)?;
        self.windows(&mut out, family, layers as usize)?;
        self.details(&mut out, family, head_dim, layers as usize)?;
        self.finish(family)?;
        Ok((out.entries, out.computed))
    }

    /// How matrices are stored that are quantised; `None` where none is.
    pub fn scheme(&self) -> Result<Option<Scheme>, Problem> {
        const KEY: &str = "quantization_config";
        let Some(value) = self.get(KEY).or(self.get("compression_config")) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| expected(KEY, value, "an object"))?;
        quantization::scheme(map, self.float_format()?).map(Some)
    }

    /// What the model was saved in, which 8-bit floats become.
    fn float_format(&self) -> Result<Format, Problem> {
        let name = self.json.get("dtype").or(self.json.get("torch_dtype")).filter(|v| !v.is_null());
        Ok(match name.map(|v| (v, v.as_str().unwrap_or_default())) {
            None | Some((_, "bfloat16")) => Format::BF16,
            Some((_, "float16")) => Format::F16,
            Some((_, "float32")) => Format::F32,
            Some((v, _)) => return Err(expected("dtype", v, "bfloat16, float16 or float32")),
        })
    }

    /// Rotary positions: `rope_parameters`, or `rope_theta` and `rope_scaling` before version 5.
    fn ropes(&self, out: &mut Out, head_dim: u32) -> Result<(), Problem> {
        const KEY: &str = "rope_parameters";
        let object = |key| match self.get(key) {
            None => Ok(None),
            Some(Json::Object(map)) => Ok(Some(map)),
            Some(v) => Err(expected(key, v, "an object")),
        };
        let (new, old) = (object(KEY)?, object("rope_scaling")?);
        let empty = Map::new();
        let mut rope = new.or(old).unwrap_or(&empty);
        // One for each kind of layer.
        let local = match (rope.get("full_attention"), rope.get("sliding_attention")) {
            (Some(Json::Object(global)), Some(Json::Object(local))) => {
                rope = global;
                if !matches!(text(local, "rope_type"), None | Some("default")) {
                    return Err(expected(KEY, &Json::Object(local.clone()), "`default` for sliding layers"));
                }
                Some(number(local, KEY, "rope_theta")?)
            }
            _ => None,
        };
        let local = local.or(self.opt_number("rope_local_base_freq")?);
        let theta = match rope.get("rope_theta") {
            Some(_) => number(rope, KEY, "rope_theta")?,
            None => match self.opt_number("rope_theta")? {
                Some(theta) => theta,
                // Configurations of the first models do not name it.
                None if matches!(out.arch, "llama" | "gemma") => 10_000.0,
                None => return Err(wrong("rope_theta", "is missing")),
            },
        };
        out.set("rope.freq_base", theta as f32);
        if let Some(local) = local {
            out.set("rope.freq_base_swa", local as f32);
        }
        let part = match rope.get("partial_rotary_factor") {
            Some(_) => Some(number(rope, KEY, "partial_rotary_factor")?),
            None => None,
        };
        let part = part.or(self.opt_number("partial_rotary_factor")?).unwrap_or(1.0);
        let rope_dim = (f64::from(head_dim) * part) as u32;
        out.set("rope.dimension_count", rope_dim);
        let original = match rope.get("original_max_position_embeddings") {
            Some(_) => Some(number(rope, KEY, "original_max_position_embeddings")?),
            None => None,
        };
        let original = original.or(self.opt_number("original_max_position_embeddings")?);
        let context = self.number("max_position_embeddings")?;
        scaling(rope, theta, rope_dim as usize, original, context, out)
    }

    /// Sliding windows, in the architectures that have them, and which layers have them.
    fn windows(&self, out: &mut Out, family: &Family, layers: usize) -> Result<(), Problem> {
        if family.is_lfm2() {
            return Ok(());
        }
        let types = match self.get("layer_types") {
            None => None,
            Some(v) => Some(layer_types(v, layers)?),
        };
        let some = match family.class {
            "MistralForCausalLM" | "Phi3ForCausalLM" => {
                // Every layer has it.
                if let Some(window) = self.opt_count("sliding_window")? {
                    if types.is_some_and(|flags| flags.contains(&false)) {
                        return Err(wrong("layer_types", "names layers without the sliding window"));
                    }
                    out.set("attention.sliding_window", window);
                }
                return Ok(());
            }
            "Gemma2ForCausalLM" | "Gemma3ForCausalLM" | "Olmo3ForCausalLM" | "Exaone4ForCausalLM" => {
                self.opt_count("sliding_window")?
            }
            _ => {
                // Qwen names a window and switches it off.
                let switched = self.json.get("use_sliding_window") == Some(&Json::Bool(false));
                if switched {
                    self.get("sliding_window");
                }
                self.only("use_sliding_window", &[false.into()])?;
                self.only("sliding_window", &[0.into()])?;
                None
            }
        };
        let period = self.get("sliding_window_pattern").or(self.get("_sliding_window_pattern"));
        let period = match period.filter(|_| some.is_some()) {
            None => None,
            // EXAONE 4: local and global layers.
            Some(Json::String(s)) if s == "LLLG" => Some(4),
            Some(v) => Some(
                v.as_u64()
                    .filter(|&n| n > 0)
                    .ok_or_else(|| expected("sliding_window_pattern", v, "a period, or \"LLLG\""))?
                    as usize,
            ),
        };
        match (some, types) {
            (Some(window), types) => {
                out.set("attention.sliding_window", window);
                let periodic = || period.map(|n| (0..layers).map(|i| (i + 1) % n != 0).collect());
                if let Some(flags) = types.or_else(periodic) {
                    out.set("attention.sliding_window_pattern", flags.as_slice());
                }
            }
            (None, Some(flags)) if flags.contains(&true) => {
                return Err(wrong(
                    "layer_types",
                    "names sliding layers, but there is no sliding window here",
                ));
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// What only some architectures have.
    fn details(&self, out: &mut Out, family: &Family, head_dim: u32, layers: usize) -> Result<(), Problem> {
        match family.class {
            "GraniteForCausalLM" => {
                out.set("attention.scale", self.number("attention_multiplier")? as f32);
                out.set("embedding_scale", self.number("embedding_multiplier")? as f32);
                out.set("residual_scale", self.number("residual_multiplier")? as f32);
                out.set("logit_scale", self.number("logits_scaling")? as f32);
            }
            "Gemma2ForCausalLM" | "Gemma3ForCausalLM" => {
                let scalar = self.number("query_pre_attn_scalar")?;
                if scalar != f64::from(head_dim) {
                    out.set("attention.scale", (1.0 / scalar.sqrt()) as f32);
                }
                self.only("use_bidirectional_attention", &[false.into()])?;
                for (key, name) in [
                    ("attn_logit_softcapping", "attn_logit_softcapping"),
                    ("final_logit_softcapping", "final_logit_softcapping"),
                ] {
                    if let Some(cap) = self.opt_number(key)? {
                        out.set(name, cap as f32);
                    }
                }
            }
            "SmolLM3ForCausalLM" => {
                self.only("no_rope_layer_interval", &[4.into()])?;
                let every_fourth: Json =
                    (0..layers).map(|i| Json::from(u8::from((i + 1) % 4 != 0))).collect();
                self.only("no_rope_layers", &[every_fourth])?;
            }
            "Phi3ForCausalLM" => {
                self.only("full_attn_mod", &[1.into()])?;
                self.only("interpolate_factor", &[1.into()])?;
            }
            "MixtralForCausalLM" => {
                out.set("expert_count", self.count("num_local_experts")?);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
            }
            "Qwen2MoeForCausalLM" | "Qwen3MoeForCausalLM" | "OlmoeForCausalLM" => {
                // transformers 5 has the name of the other classes for it.
                let count = match self.opt_count("num_experts")? {
                    Some(n) => n,
                    None => self.count("num_local_experts")?,
                };
                out.set("expert_count", count);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
                if let Some(hidden) = self.opt_count("moe_intermediate_size")? {
                    out.set("expert_feed_forward_length", hidden);
                }
                if let Some(shared) = self.opt_count("shared_expert_intermediate_size")? {
                    out.set("expert_shared_feed_forward_length", shared);
                }
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                self.only("decoder_sparse_step", &[1.into()])?;
                self.only("mlp_only_layers", &[Json::Array(Vec::new())])?;
                self.only("qkv_bias", &[true.into()])?;
            }
            "Glm4MoeForCausalLM" => {
                out.set("leading_dense_block_count", self.count("first_k_dense_replace")?);
                out.set("expert_count", self.count("n_routed_experts")?);
                out.set("expert_used_count", self.count("num_experts_per_tok")?);
                out.set("expert_feed_forward_length", self.count("moe_intermediate_size")?);
                out.set("expert_weights_norm", self.flag("norm_topk_prob")?);
                out.set("expert_weights_scale", self.number("routed_scaling_factor")? as f32);
                self.count("n_shared_experts")?;
                // It shows in the tensors.
                self.get("use_qk_norm");
                self.only("n_group", &[1.into()])?;
                self.only("topk_group", &[1.into()])?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Fails on a setting that nobody has read, unless it is off.
    fn finish(&self, family: &Family) -> Result<(), Problem> {
        let read = self.read.borrow();
        let unknown = self.json.iter().find(|(key, value)| {
            let off = matches!(value, Json::Null | Json::Bool(false));
            !off && !read.contains(key.as_str()) && !DESCRIPTIVE.contains(&key.as_str())
        });
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                let value = shortened(value);
                let problem =
                    format!("is not known for {} and may change the output (value {value})", family.class);
                Err(Problem::Setting { key: key.clone(), problem })
            }
        }
    }
}

/// Flags of the layers with a window.
fn layer_types(value: &Json, layers: usize) -> Result<Vec<bool>, Problem> {
    let flag = |v: &Json| match v.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let flags: Option<Vec<bool>> = value.as_array().and_then(|all| all.iter().map(flag).collect());
    flags.filter(|flags| flags.len() == layers).ok_or_else(|| {
        expected("layer_types", value, &format!("{layers} times \"full_attention\" or \"sliding_attention\""))
    })
}

/// Scaling of rotary frequencies.
fn scaling(
    rope: &Map<String, Json>,
    theta: f64,
    dim: usize,
    original: Option<f64>,
    context: f64,
    out: &mut Out,
) -> Result<(), Problem> {
    const KEY: &str = "rope_scaling";
    let number = |key| number(rope, KEY, key);
    let opt = |key| rope.get(key).filter(|v| !v.is_null()).map(|_| number(key)).transpose();
    let known = |keys: &[&str]| {
        let common =
            ["rope_theta", "rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings"];
        let unknown = rope
            .iter()
            .find(|(k, v)| !v.is_null() && !common.contains(&k.as_str()) && !keys.contains(&k.as_str()));
        match unknown {
            None => Ok(()),
            Some((k, v)) => Err(wrong(KEY, &format!("has `{k}` ({v}), which kinfer does not know"))),
        }
    };
    let original = || original.ok_or_else(|| wrong("original_max_position_embeddings", "is missing"));
    match text(rope, "rope_type").or(text(rope, "type")) {
        None | Some("default") => known(&[])?,
        Some("linear") => {
            known(&["factor"])?;
            out.set("rope.scaling.type", "linear");
            out.set("rope.scaling.factor", number("factor")? as f32);
        }
        Some("llama3") => {
            known(&["factor", "low_freq_factor", "high_freq_factor"])?;
            let (factor, original) = (number("factor")?, original()?);
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            let divisor = |i: usize| {
                let turns = original * theta.powf(-2.0 * i as f64 / dim as f64) / std::f64::consts::TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - keep) / factor + keep)) as f32
            };
            out.computed.push(("rope_freqs.weight", (0..dim / 2).map(divisor).collect()));
        }
        Some("yarn") => {
            known(&["factor", "attention_factor", "beta_fast", "beta_slow", "truncate"])?;
            if rope.get("truncate").is_some_and(|v| v != &Json::Bool(true)) {
                return Err(wrong(KEY, "has `truncate` other than true, which is not supported"));
            }
            let factor = number("factor")?;
            out.set("rope.scaling.type", "yarn");
            out.set("rope.scaling.factor", factor as f32);
            out.set("rope.scaling.original_context_length", original()? as u32);
            for (from, to) in
                [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
            {
                if let Some(value) = opt(from)? {
                    out.set(to, value as f32);
                }
            }
            if let Some(magnitude) = opt("attention_factor")? {
                // The reader multiplies by YaRN's own, 0.1 ln(factor) + 1.
                out.set("rope.scaling.attn_factor", (magnitude / (0.1 * factor.max(1.0).ln() + 1.0)) as f32);
            }
        }
        Some("longrope" | "su") if out.arch == "phi3" => {
            known(&["short_factor", "long_factor", "attention_factor", "factor"])?;
            let original = original()?;
            let stretch = context / original;
            let magnitude = match opt("attention_factor")? {
                Some(magnitude) => magnitude,
                None if stretch <= 1.0 => 1.0,
                None => (1.0 + stretch.ln() / original.ln()).sqrt(),
            };
            out.set("rope.scaling.attn_factor", magnitude as f32);
            out.set("rope.scaling.original_context_length", original as u32);
            for (from, to) in
                [("short_factor", "rope_factors_short.weight"), ("long_factor", "rope_factors_long.weight")]
            {
                let values = rope.get(from).and_then(Json::as_array).map(|all| all.iter().map(Json::as_f64));
                let values: Option<Vec<f64>> = values.and_then(Iterator::collect);
                let values = values.filter(|v| v.len() == dim / 2);
                let values =
                    values.ok_or_else(|| wrong(KEY, &format!("has no `{from}` of {} numbers", dim / 2)))?;
                out.computed.push((to, values.into_iter().map(|v| v as f32).collect()));
            }
        }
        Some(other) => {
            let known = "default, linear, llama3, yarn, and longrope for Phi-3";
            return Err(wrong(KEY, &format!("is of type `{other}`; supported: {known}")));
        }
    }
    Ok(())
}

/// What the metadata becomes.
struct Out {
    arch: &'static str,
    entries: Entries,
    computed: Computed,
}

impl Out {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.push((format!("{}.{key}", self.arch), value.into()));
    }
}

pub(super) fn text<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Json::as_str)
}

fn number(map: &Map<String, Json>, of: &'static str, key: &str) -> Result<f64, Problem> {
    let value = map.get(key).and_then(Json::as_f64).filter(|v| v.is_finite());
    value.ok_or_else(|| wrong(of, &format!("has no number `{key}`")))
}

pub(super) fn wrong(key: &str, problem: &str) -> Problem {
    Problem::Setting { key: key.into(), problem: problem.into() }
}

fn expected(key: &str, got: &Json, expected: &str) -> Problem {
    wrong(key, &format!("is {}; kinfer can follow {expected}", shortened(got)))
}

/// A value in at most 60 characters.
pub(super) fn shortened(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
