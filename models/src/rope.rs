//! Rotary frequencies from metadata: plain, linear, Llama 3 (stored factors) and YaRN scaling.

use crate::source::Config;
use kinfer_core::{Error, Result, RopeSpec, dequantize};

/// Frequencies `base^(-2i/dim)` for `i < dim/2`, divided by `factors[i]` and by `linear`.
pub fn plain(dim: usize, base: f64, factors: Option<&[f32]>, linear: f64) -> RopeSpec {
    let inv_freq = (0..dim / 2).map(|i| (frequency(dim, base, factors, i) / linear) as f32).collect();
    RopeSpec { inv_freq, magnitude: 1.0 }
}

fn frequency(dim: usize, base: f64, factors: Option<&[f32]>, i: usize) -> f64 {
    base.powf(-2.0 * i as f64 / dim as f64) / factors.map_or(1.0, |f| f64::from(f[i]))
}

/// Between which dimensions YaRN's ramp runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ramp {
    /// Whole ones, rounded outwards.
    Rounded,
    /// Where the two frequencies are.
    Exact,
}

/// Parameters of YaRN (Peng et al. 2023, arXiv 2309.00071).
struct Yarn {
    /// Context extension.
    factor: f64,
    /// Context length before the extension.
    original_context: f64,
    /// Dimensions that turn more often than this within the original context keep their frequency.
    beta_fast: f64,
    /// Dimensions that turn less often than this are interpolated by `factor`.
    beta_slow: f64,
    /// Weight of the kept frequencies.
    ext_factor: f64,
}

impl Yarn {
    /// Section 3.2 of the paper: a linear ramp between the two dimensions that turn `beta_fast` and `beta_slow`
    /// times within the original context.
    fn inv_freq(&self, dim: usize, base: f64, factors: Option<&[f32]>, ramp: Ramp) -> Vec<f32> {
        let turns = |n: f64| {
            dim as f64 * (self.original_context / (n * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
        };
        let (low, high) = match (turns(self.beta_fast), turns(self.beta_slow)) {
            (low, high) if ramp == Ramp::Rounded => (low.floor(), high.ceil()),
            exact => exact,
        };
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        (0..dim / 2)
            .map(|i| {
                let freq = frequency(dim, base, factors, i);
                // 0.001 keeps a ramp of no width a step.
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let keep = (1.0 - ramp) * self.ext_factor;
                (freq / self.factor * (1.0 - keep) + freq * keep) as f32
            })
            .collect()
    }
}

/// YaRN's attention temperature, section 3.4: `0.1 m ln(factor) + 1`.
fn temperature(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

/// What DeepSeek's models multiply queries and keys by instead of YaRN's temperature: `1 + m ln(factor)`, where the file's `m` is a
/// tenth of the original `mscale_all_dim`.
pub fn temperature_of_scores(config: &Config<'_>) -> Result<f64> {
    let m = config.opt_positive("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let factor = config.opt_positive("rope.scaling.factor")?.unwrap_or(1.0);
    Ok(temperature(factor, 10.0 * m))
}

/// Reads the rotary table of `{arch}.rope.*` for heads that turn `dim` elements.
///
/// `base` is used where the file names none. `stored` is the tensor of per-frequency divisors (Llama 3), which has
/// to have `dim / 2` elements.
pub fn read(config: &Config<'_>, dim: usize, base: f64, stored: &str) -> Result<RopeSpec> {
    read_with(config, dim, base, stored, Ramp::Rounded)
}

/// [`read`], with YaRN's ramp as `ramp` says.
pub fn read_with(config: &Config<'_>, dim: usize, base: f64, stored: &str, ramp: Ramp) -> Result<RopeSpec> {
    if !dim.is_multiple_of(2) {
        return Err(config.error("rope.dimension_count", format!("expected an even number, got {dim}")));
    }
    let base = config.opt_positive("rope.freq_base")?.unwrap_or(base);
    let factors = read_factors(config, dim, stored)?;
    let factors = factors.as_deref();
    let factor = match config.opt_positive("rope.scaling.factor")? {
        Some(f) => Some(f),
        None => config.opt_positive("rope.scale_linear")?,
    };
    let magnitude = config.opt_positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let context = config.size("context_length")?;
    let original_context = config.opt_size("rope.scaling.original_context_length")?.unwrap_or(context) as f64;
    config.refuse("rope.scaling.alpha", "NTK-aware scaling by alpha")?;

    let mut rope = match config.opt_str("rope.scaling.type")? {
        Some("none") => plain(dim, base, factors, 1.0),
        None | Some("linear") => plain(dim, base, factors, factor.unwrap_or(1.0)),
        Some("yarn") => {
            let yarn = Yarn {
                factor: factor.ok_or_else(|| {
                    config.error("rope.scaling.factor", "is missing; YaRN scaling needs it")
                })?,
                original_context,
                beta_fast: config.opt_positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: config.opt_positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                ext_factor: config.opt_positive("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0),
            };
            let all_dims = match config.opt_positive("rope.scaling.yarn_log_multiplier")? {
                Some(m) => temperature(yarn.factor, m),
                None => 1.0,
            };
            RopeSpec {
                inv_freq: yarn.inv_freq(dim, base, factors, ramp).into(),
                magnitude: (temperature(yarn.factor, 1.0) / all_dims) as f32,
            }
        }
        Some(other) => {
            return Err(config.error(
                "rope.scaling.type",
                format!("`{other}` is not supported; supported: none, linear, yarn"),
            ));
        }
    };
    rope.magnitude *= magnitude as f32;
    Ok(rope)
}

/// The per-frequency divisors of tensor `name`, `[dim / 2]`.
fn read_factors(config: &Config<'_>, dim: usize, name: &str) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = config.source().tensor(name)? else { return Ok(None) };
    if tensor.shape != [dim / 2] {
        return Err(Error::Shape {
            name: name.into(),
            expected: format!("[{}]", dim / 2),
            got: format!("{:?}", tensor.shape),
        });
    }
    let mut factors = vec![0.0; dim / 2];
    dequantize(tensor.format, &tensor.data.rows(0..1), &mut factors);
    match factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
        Some(f) => Err(config.error("rope", format!("tensor `{name}` divides a frequency by {f}"))),
        None => Ok(Some(factors)),
    }
}
