//! Sampling defaults that a model's author stored in the file (`general.sampling.*`).

use crate::source::{Source, Value};
use kinfer_core::{Error, Result};

/// Sampling settings of a file; `None` where it is silent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// `general.sampling.temp`.
    pub temperature: Option<f32>,
    /// `general.sampling.top_k`; 0 or less switches it off.
    pub top_k: Option<i32>,
    /// `general.sampling.top_p`.
    pub top_p: Option<f32>,
    /// `general.sampling.min_p`.
    pub min_p: Option<f32>,
    /// `general.sampling.penalty_repeat`.
    pub repeat_penalty: Option<f32>,
    /// `general.sampling.penalty_last_n`: tokens that the penalty looks back; -1 is the whole context.
    pub repeat_last_n: Option<i32>,
    /// Settings present in the file that kinfer has no sampler for, such as mirostat: key and value.
    pub unsupported: Vec<(String, String)>,
}

const PREFIX: &str = "general.sampling.";

impl SamplingDefaults {
    /// Reads them.
    ///
    /// # Errors
    /// [`Error::Metadata`] for a value of the wrong type.
    pub fn read(source: &dyn Source) -> Result<Self> {
        let mut found = SamplingDefaults::default();
        for full in source.keys() {
            let (Some(key), Some(value)) = (full.strip_prefix(PREFIX), source.value(full)) else { continue };
            match key {
                "temp" => found.temperature = Some(number(full, &value)?),
                "top_k" => found.top_k = Some(integer(full, &value)?),
                "top_p" => found.top_p = Some(number(full, &value)?),
                "min_p" => found.min_p = Some(number(full, &value)?),
                "penalty_repeat" => found.repeat_penalty = Some(number(full, &value)?),
                "penalty_last_n" => found.repeat_last_n = Some(integer(full, &value)?),
                _ => found.unsupported.push((full.to_string(), value.to_string())),
            }
        }
        Ok(found)
    }
}

fn number(key: &str, value: &Value<'_>) -> Result<f32> {
    match value {
        Value::Float(f) if f.is_finite() => Ok(*f as f32),
        Value::Int(i) => Ok(*i as f32),
        v => Err(wrong(key, "a number", v)),
    }
}

fn integer(key: &str, value: &Value<'_>) -> Result<i32> {
    match value {
        Value::Int(i) => i32::try_from(*i).map_err(|_| wrong(key, "a 32-bit integer", value)),
        v => Err(wrong(key, "an integer", v)),
    }
}

fn wrong(key: &str, expected: &str, value: &Value<'_>) -> Error {
    Error::Metadata { key: key.into(), problem: format!("expected {expected}, got {value}") }
}
