//! What sentence-transformers keeps beside a model: how hidden states become a vector, and what that is multiplied with.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{error, read_file, read_json};
use crate::gguf::{GgufError, Problem};

const MODULES: &str = "modules.json";

/// How hidden states are pooled, as GGUF files number it; `None` where the folder does not say.
pub(super) fn pooling(folder: &Path) -> Result<Option<u32>, GgufError> {
    const FILE: &str = "1_Pooling/config.json";
    let Some(json) = read_json(folder, FILE)? else { return Ok(None) };
    // Newer versions name the one.
    let named = json.get("pooling_mode").and_then(Json::as_str);
    let on = |kind: &str| {
        json.get(&format!("pooling_mode_{kind}")).and_then(Json::as_bool) == Some(true)
            || named == Some(kind.trim_end_matches("_tokens").trim_end_matches("_token"))
    };
    let kinds = [
        "mean_tokens",
        "cls_token",
        "lasttoken",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
    ];
    let modes: Vec<usize> = (0..kinds.len()).filter(|&i| on(kinds[i])).collect();
    match modes[..] {
        [mode] if mode < 3 => Ok(Some(mode as u32 + 1)),
        _ => {
            let got: Vec<&str> = modes.iter().map(|&i| kinds[i]).collect();
            let problem = format!(
                "asks for `{}`; kinfer can follow one of mean_tokens, cls_token and lasttoken",
                got.join(" + ")
            );
            Err(wrong(&folder.join(FILE), "pooling_mode_…", problem))
        }
    }
}

/// A product of what was pooled.
pub(super) struct Dense {
    /// Its file of weights.
    pub file: PathBuf,
    /// Widths of what it takes and gives.
    pub widths: [u32; 2],
}

/// The products of what was pooled, one after the other.
///
/// # Errors
/// A module that is none of those that kinfer computes, or a product with a bias or an activation.
pub(super) fn dense(folder: &Path) -> Result<Vec<Dense>, GgufError> {
    let path = folder.join(MODULES);
    let Some(bytes) = read_file(&path)? else { return Ok(Vec::new()) };
    let modules: Vec<Map<String, Json>> =
        serde_json::from_slice(&bytes).map_err(|e| error(&path, Problem::Json { reason: e.to_string() }))?;
    let mut out = Vec::new();
    for module in &modules {
        let text = |key: &str| module.get(key).and_then(Json::as_str).unwrap_or_default();
        let (ty, place) = (text("type"), text("path"));
        match ty.rsplit('.').next().unwrap_or_default() {
            // A text's vector is brought to length 1 where that is asked for.
            "Transformer" | "Pooling" | "Normalize" => {}
            "Dense" if Path::new(place).components().count() == 1 => {
                out.push(Dense::read(folder, place)?);
            }
            _ => {
                let problem = format!(
                    "is `{ty}` in `{place}`; kinfer can follow Transformer, Pooling, Dense and Normalize"
                );
                return Err(wrong(&path, "type", problem));
            }
        }
    }
    Ok(out)
}

impl Dense {
    fn read(folder: &Path, place: &str) -> Result<Dense, GgufError> {
        let config = format!("{place}/config.json");
        let path = folder.join(&config);
        let json = read_json(folder, &config)?.unwrap_or_default();
        let width = |key: &str| {
            let n = json.get(key).and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| wrong(&path, key, "is missing, or no count".into()))
        };
        let activation = json.get("activation_function").and_then(Json::as_str).unwrap_or("absent");
        if !activation.ends_with("Identity") {
            let problem = format!("is {activation}; kinfer can follow Identity");
            return Err(wrong(&path, "activation_function", problem));
        }
        // Absent, there is a bias.
        if json.get("bias").and_then(Json::as_bool) != Some(false) {
            return Err(wrong(&path, "bias", "is not false; kinfer can follow products without one".into()));
        }
        let widths = [width("in_features")?, width("out_features")?];
        Ok(Dense { file: folder.join(place).join(super::SINGLE), widths })
    }
}

/// A folder whose products after pooling are none that its architecture can have.
pub(super) fn not_followed(folder: &Path, count: usize, class: &str) -> GgufError {
    let problem = format!(
        "has {count} products of what was pooled; {class} can have none here, or two in Gemma3TextModel"
    );
    wrong(&folder.join(MODULES), "Dense", problem)
}

fn wrong(path: &Path, key: &str, problem: String) -> GgufError {
    error(path, Problem::Setting { key: key.into(), problem })
}
