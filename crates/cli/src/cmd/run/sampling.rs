//! How tokens are drawn: flags, environment, the model file, kinfer's defaults, in this order.

use crate::ctx::Ctx;
use crate::exit::CliError;
use clap::builder::FalseyValueParser;
use kinfer::{Model, Sampling, SamplingOverrides};
use serde_json::Value;

/// Sampling.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    #[command(flatten)]
    overrides: SamplingOverrides,
    /// Make a token likelier or less so: its id, + or -, and how much; `-inf` bans it
    #[arg(long, env = "KINFER_LOGIT_BIAS", value_name = "ID±BIAS", value_delimiter = ',')]
    logit_bias: Vec<String>,
    /// End the answer before this text; may be given more than once
    #[arg(
        short = 'r',
        long = "reverse-prompt",
        env = "KINFER_REVERSE_PROMPT",
        value_name = "TEXT",
        visible_alias = "stop"
    )]
    pub stop: Vec<String>,
    /// Go on where the model would end, until --predict or the context ends it
    #[arg(long, env = "KINFER_IGNORE_EOS", value_parser = FalseyValueParser::new())]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// kinfer's defaults with what the user gave, for a check before a model is there.
    pub fn given(&self) -> anyhow::Result<Sampling> {
        let logit_bias = self.logit_bias.iter().map(|text| parse_bias(text)).collect::<Result<_, _>>()?;
        Ok(Sampling { logit_bias, ..Sampling::default().with(&self.overrides) })
    }

    /// The values in use. Tells with `--verbose` where each comes from.
    pub fn resolve(&self, ctx: &Ctx, model: &Model, logit_bias: Vec<(u32, f32)>) -> Sampling {
        let mut sampling = Sampling::default().with(&self.overrides.or(model.defaults()));
        sampling.logit_bias = logit_bias;
        for (key, value) in model.unsupported_sampling() {
            ctx.warn(&format!("the model file asks for {key} = {value}, for which kinfer has no sampler"));
        }
        let listed = self.overrides.fields().into_iter().zip(model.defaults().fields()).map(
            |((name, given), (_, of_model))| {
                let from = match (&given, &of_model) {
                    (Some(_), _) => ctx.source(name).unwrap_or("flag"),
                    (None, Some(_)) => "model",
                    (None, None) => "kinfer",
                };
                format!("{name} {} ({from})", shown(&sampling, name))
            },
        );
        let listed: Vec<_> = listed.collect();
        ctx.detail(&format!("sampling: {}", listed.join(", ")));
        sampling
    }
}

/// A field's value as people write it.
pub fn shown(sampling: &Sampling, field: &str) -> String {
    if let Some(value) = single(sampling, field) {
        return value;
    }
    match serde_json::to_value(sampling).ok().and_then(|v| v.get(field).cloned()) {
        Some(Value::Null) if field == "seed" => "random".into(),
        Some(Value::Null) => "all".into(),
        Some(value) => value.to_string(),
        None => "unknown".into(),
    }
}

/// Single precision values, which JSON would show with the digits of double precision.
fn single(s: &Sampling, field: &str) -> Option<String> {
    let value = match field {
        "temperature" => s.temperature,
        "top_p" => s.top_p,
        "min_p" => s.min_p,
        "repeat_penalty" => s.repeat_penalty,
        "presence_penalty" => s.presence_penalty,
        "frequency_penalty" => s.frequency_penalty,
        _ => return None,
    };
    Some(value.to_string())
}

fn parse_bias(text: &str) -> anyhow::Result<(u32, f32)> {
    let wrong = || {
        CliError::usage(format!(
            "--logit-bias `{text}` is not a token id, + or -, and a number, such as 15043+1.5"
        ))
    };
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let (id, bias) = text.split_at(at);
    Ok((id.trim().parse().map_err(|_| wrong())?, bias.trim().parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_biases() {
        assert_eq!(parse_bias("15043+1.5").unwrap(), (15043, 1.5));
        assert_eq!(parse_bias("7-inf").unwrap(), (7, f32::NEG_INFINITY));
        assert_eq!(parse_bias("0-2").unwrap(), (0, -2.0));
        for wrong in ["", "7", "+1", "x+1", "7+", "7+x", "-7+1"] {
            assert!(parse_bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shows_values_as_written() {
        let sampling = Sampling { temperature: 0.7, repeat_last_n: None, ..Sampling::default() };
        assert_eq!(shown(&sampling, "temperature"), "0.7");
        assert_eq!(shown(&sampling, "top_k"), "40");
        assert_eq!(shown(&sampling, "repeat_last_n"), "all");
        assert_eq!(shown(&sampling, "seed"), "random");
    }
}
