//! `config.json` as the metadata of a GGUF file.

mod delta;
mod details;
mod encoders;
mod layer_normed;
mod lfm2;
mod rope;

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::coded::Storage;
use super::names::{FAMILIES, Family, ROTARY_XLM_ROBERTA, is_delta};
use super::quantization;
use crate::gguf::{Problem, Value};
pub(super) use delta::Delta;
pub(super) use details::{Groups, Heads, Latent};
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
    /// What settings are called here: the usual name, and the class's own.
    keys: &'static [(&'static str, &'static str)],
    read: RefCell<HashSet<&'static str>>,
}

impl<'a> Config<'a> {
    /// The configuration of a model of `family`.
    pub fn new(json: &'a Map<String, Json>, family: &Family) -> Result<Self, Problem> {
        let config = Config { json, keys: family.keys, read: RefCell::default() };
        for &(usual, own) in family.keys {
            let Some(got) = json.get(own).filter(|v| !v.is_null()) else { continue };
            let used = config.value(usual).unwrap_or(got);
            if got != used {
                let problem =
                    format!("is {}, but another name of the setting has {}", shortened(got), shortened(used));
                return Err(wrong(own, &problem));
            }
        }
        Ok(config)
    }

    /// The family that the class of a configuration belongs to.
    pub fn family(json: &Map<String, Json>) -> Result<&'static Family, Problem> {
        let class = json.get("architectures").and_then(|v| v.get(0)).and_then(Json::as_str);
        let class = class.ok_or_else(|| wrong("architectures", "is missing or names no class"))?;
        let rotary = json.get("position_embedding_type").and_then(Json::as_str) == Some("rotary");
        if rotary && class == ROTARY_XLM_ROBERTA.class {
            return Ok(&ROTARY_XLM_ROBERTA);
        }
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
        let count = |key| self.value(key).and_then(Json::as_u64).unwrap_or(0);
        let layers = count("num_hidden_layers");
        layers..layers.saturating_add(count("num_nextn_predict_layers"))
    }

    /// The value; `None` for one that is absent or `null`.
    fn get(&self, key: &'static str) -> Option<&'a Json> {
        self.read.borrow_mut().extend(self.names(key));
        self.value(key)
    }

    /// What setting `key` may be called.
    fn names(&self, key: &'static str) -> impl Iterator<Item = &'static str> + use<> {
        let own = self.keys.iter().filter(move |row| row.0 == key).map(|row| row.1);
        std::iter::once(key).chain(own)
    }

    /// [`Config::get`] of a setting that is read elsewhere, too.
    fn value(&self, key: &'static str) -> Option<&'a Json> {
        self.names(key).find_map(|name| self.json.get(name).filter(|v| !v.is_null()))
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
        if family.arch.contains("bert") {
            self.encoder(&mut out, family)?;
            self.finish(family)?;
            return Ok((out.entries, out.computed));
        }
        let (dim, layers, heads) = (
            self.count("hidden_size")?,
            self.count("num_hidden_layers")?,
            self.count("num_attention_heads")?,
        );
        self.get("tie_word_embeddings");
        out.set("block_count", layers);
        out.set("embedding_length", dim);
        out.set("vocab_size", self.count("vocab_size")?);
        let positions = self.positions(family)?;
        out.set("context_length", positions);
        out.set("attention.head_count", heads);
        let latent = self.latent(family)?;
        if latent.is_some() {
            // Heads share one latent, which is all of them.
            self.only("num_key_value_heads", &[heads.into()])?;
            out.set("attention.head_count_kv", 1u32);
        } else {
            let kv_heads = self.kv_heads(family, heads)?;
            match family.is_lfm2() {
                true => self.lfm2(&mut out, dim, layers as usize, kv_heads)?,
                false => out.set("attention.head_count_kv", kv_heads),
            }
        }
        // A class all of whose layers have experts need not name another width.
        let experts_only = family.arch == "qwen35moe" && self.value("intermediate_size").is_none();
        if !family.is_lfm2() && !experts_only {
            out.set("feed_forward_length", self.hidden(family, dim)?);
        }
        self.norms(&mut out, family)?;
        let head_dim = match (&latent, self.opt_count("head_dim")?) {
            // What configurations call so is only what turns.
            (Some(latent), _) => {
                self.latent_widths(&mut out, latent)?;
                latent.turned
            }
            (None, given) => {
                let head_dim = match given {
                    Some(n) => n,
                    None if heads > 0 && dim.is_multiple_of(heads) => dim / heads,
                    None => {
                        let problem = "is missing, and the width is no multiple of the heads";
                        return Err(wrong("head_dim", problem));
                    }
                };
                out.set("attention.key_length", head_dim);
                out.set("attention.value_length", head_dim);
                head_dim
            }
        };
        self.activation(family)?;
        if family.turns() {
            self.ropes(&mut out, head_dim, positions)?;
        }
        self.windows(&mut out, family, layers as usize)?;
        self.details(&mut out, family, head_dim, layers as usize)?;
        self.finish(family)?;
        Ok((out.entries, out.computed))
    }

    /// The epsilon of norms, by the name that their kind has in GGUF files.
    fn norms(&self, out: &mut Out, family: &Family) -> Result<(), Problem> {
        let (key, name) = match family.layer_norms {
            true => ("layer_norm_eps", "attention.layer_norm_epsilon"),
            false if family.is_lfm2() => ("norm_eps", "attention.layer_norm_rms_epsilon"),
            false => ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        };
        let eps = match self.opt_number(key)? {
            // Its configurations do not name it.
            None if family.arch == "mpt" => 1e-5,
            Some(eps) => eps,
            None => return Err(wrong(key, "is missing")),
        };
        out.set(name, eps as f32);
        Ok(())
    }

    /// Fails for an activation that the class is not known with.
    fn activation(&self, family: &Family) -> Result<(), Problem> {
        let fine: Vec<Json> = family.activations.iter().map(|&name| name.into()).collect();
        if family.arch.starts_with("gemma") {
            self.only("hidden_activation", &fine[..1])?;
        }
        self.only("hidden_act", &fine)
    }

    /// How matrices are stored that are quantised; `None` where none is.
    pub fn storage(&self) -> Result<Option<Storage>, Problem> {
        const KEY: &str = "quantization_config";
        let Some(value) = self.get(KEY).or(self.get("compression_config")) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| expected(KEY, value, "an object"))?;
        quantization::storage(map, self.float_format()?).map(Some)
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

/// What the metadata becomes.
struct Out {
    arch: &'static str,
    entries: Entries,
    computed: Computed,
}

impl Out {
    fn is_delta(&self) -> bool {
        is_delta(self.arch)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.push((format!("{}.{key}", self.arch), value.into()));
    }
}

pub(super) fn text<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Json::as_str)
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
