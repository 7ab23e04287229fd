//! Rotary positions and their scaling.

use serde_json::{Map, Value as Json};

use super::{Config, Out, expected, text, wrong};
use crate::gguf::Problem;

/// Pairs that turn by each place in an image.
const SECTIONS: &str = "mrope_section";

impl Config<'_> {
    /// Rotary positions of a model for `context` positions: `rope_parameters`, or `rope_theta` and `rope_scaling` before version 5.
    pub(super) fn ropes(&self, out: &mut Out, head_dim: u32, context: u32) -> Result<(), Problem> {
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
        let is_modern = out.arch == "modern-bert";
        let local = local.or(self.opt_number("rope_local_base_freq")?);
        let local = if is_modern { local.or(self.opt_number("local_rope_theta")?) } else { local };
        let theta = match rope.get("rope_theta") {
            Some(_) => number(rope, KEY, "rope_theta")?,
            None => match self.opt_number("rope_theta")? {
                Some(theta) => theta,
                // Configurations of the first models do not name it.
                None if matches!(
                    out.arch,
                    "llama" | "gemma" | "falcon" | "gptneox" | "phi2" | "stablelm"
                ) =>
                {
                    10_000.0
                }
                None if is_modern => self.opt_number("global_rope_theta")?.unwrap_or(160_000.0),
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
        let usual = match out.arch {
            "gptneox" | "stablelm" => 0.25,
            "glm4" | "phi2" => 0.5,
            _ if out.is_delta() => 0.25,
            _ => 1.0,
        };
        let part = part.or(self.opt_number("partial_rotary_factor")?).unwrap_or(usual);
        let rope_dim = (f64::from(head_dim) * part) as u32;
        out.set("rope.dimension_count", rope_dim);
        if let Some(v) = rope.get(SECTIONS).filter(|v| out.is_delta() && !v.is_null()) {
            let count = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
            let counts: Option<Vec<u32>> = v.as_array().and_then(|all| all.iter().map(count).collect());
            let mut counts = counts
                .filter(|counts| counts.len() <= 4)
                .ok_or_else(|| expected(KEY, v, &format!("`{SECTIONS}` of up to four counts")))?;
            counts.resize(4, 0);
            out.set("rope.dimension_sections", counts.as_slice());
        }
        let original = match rope.get("original_max_position_embeddings") {
            Some(_) => Some(number(rope, KEY, "original_max_position_embeddings")?),
            None => None,
        };
        let original = original.or(self.opt_number("original_max_position_embeddings")?);
        scaling(rope, theta, rope_dim as usize, original, context.into(), out)
    }
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
    let is_delta = out.is_delta();
    let known = |keys: &[&str]| {
        let common =
            ["rope_theta", "rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings"];
        // Which pairs turn by which place in an image: in text the three are one.
        let sections: &[&str] = if is_delta { &[SECTIONS, "mrope_interleaved"] } else { &[] };
        let unknown = rope.iter().find(|(k, v)| {
            !v.is_null() && ![&common[..], keys, sections].iter().any(|known| known.contains(&k.as_str()))
        });
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
            let latent = out.arch == "deepseek2";
            let own: &[_] = if latent { &["mscale", "mscale_all_dim"] } else { &["attention_factor"] };
            known(&[&["factor", "beta_fast", "beta_slow", "truncate"], own].concat())?;
            // Which it is, GGUF files do not say: it goes with the architecture.
            let truncated = out.arch != "gpt-oss";
            let truncate = rope.get("truncate").filter(|v| !v.is_null());
            if truncate.map_or(Some(true), Json::as_bool) != Some(truncated) {
                let problem = format!("has `truncate` other than {truncated}, which is not supported here");
                return Err(wrong(KEY, &problem));
            }
            if latent {
                let (own, all) = (opt("mscale")?.unwrap_or(0.0), opt("mscale_all_dim")?.unwrap_or(0.0));
                if own != all || all <= 0.0 {
                    let problem = format!(
                        "has `mscale` {own} and `mscale_all_dim` {all}; kinfer can follow positive ones that are equal"
                    );
                    return Err(wrong(KEY, &problem));
                }
                out.set("rope.scaling.yarn_log_multiplier", (0.1 * all) as f32);
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

fn number(map: &Map<String, Json>, of: &'static str, key: &str) -> Result<f64, Problem> {
    let value = map.get(key).and_then(Json::as_f64).filter(|v| v.is_finite());
    value.ok_or_else(|| wrong(of, &format!("has no number `{key}`")))
}
