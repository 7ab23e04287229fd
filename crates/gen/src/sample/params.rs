//! The sampling parameters, and the changes to them that users and model files make.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0: always the likeliest token.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// Keeps the likeliest tokens whose probabilities reach this sum; 1: all.
    pub top_p: f32,
    /// Drops tokens less likely than this fraction of the likeliest; 0: none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1: off.
    pub repeat_penalty: f32,
    /// Taken off the logits of recent tokens; 0: off.
    pub presence_penalty: f32,
    /// Taken off the logits of recent tokens once per occurrence; 0: off.
    pub frequency_penalty: f32,
    /// How many of the last tokens, prompt included, the penalties look at; 0: none, `None`: all.
    pub repeat_last_n: Option<usize>,
    /// Added to the logits of these tokens; `-inf` bans one. The last entry of a token counts.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws; `None`: a random one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: Some(64),
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Param`] for the first that is out of its range.
    pub fn check(&self) -> Result<()> {
        fn param(name: &'static str, expected: &'static str, got: f32, ok: bool) -> Result<()> {
            if ok { Ok(()) } else { Err(Error::Param { name, expected, got: got.to_string() }) }
        }
        let finite = "a finite number";
        param("temperature", "a finite number, 0 or more", self.temperature, {
            self.temperature.is_finite() && self.temperature >= 0.0
        })?;
        param("top_p", "above 0 and at most 1", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0)?;
        param("min_p", "from 0 to 1", self.min_p, (0.0..=1.0).contains(&self.min_p))?;
        param("repeat_penalty", "a finite number above 0", self.repeat_penalty, {
            self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0
        })?;
        param("presence_penalty", finite, self.presence_penalty, self.presence_penalty.is_finite())?;
        param("frequency_penalty", finite, self.frequency_penalty, self.frequency_penalty.is_finite())?;
        for &(_, bias) in &self.logit_bias {
            param("logit_bias", "a finite number or -inf", bias, bias < f32::INFINITY)?;
        }
        Ok(())
    }

    /// These values, changed where `overrides` sets one.
    pub fn with(mut self, overrides: &SamplingOverrides) -> Self {
        overrides.apply(&mut self);
        self
    }
}

/// Declares [`SamplingOverrides`]: each field of [`Sampling`] that a user or a model file sets by name.
macro_rules! overrides {
    ($($(#[$doc:meta])* $field:ident: $ty:ty, [$($arg:tt)*];)*) => {
        /// Changes to a [`Sampling`]: from a model file's metadata, the command line or a request.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "clap", derive(clap::Args))]
        #[serde(default, deny_unknown_fields)]
        pub struct SamplingOverrides {
            $(
                $(#[$doc])*
                #[cfg_attr(feature = "clap", arg(allow_negative_numbers = true, $($arg)*))]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$ty>,
            )*
        }

        impl SamplingOverrides {
            fn apply(&self, to: &mut Sampling) {
                $(if let Some(v) = self.$field { Set::set(&mut to.$field, v); })*
            }

            /// Each field's name and, where it is set, its value as text.
            pub fn fields(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$((stringify!($field), self.$field.map(|v| v.to_string()))),*]
            }

            /// These changes, and those of `other` where these set nothing.
            pub fn or(&self, other: &Self) -> Self {
                Self { $($field: self.$field.or(other.$field)),* }
            }
        }
    };
}

overrides! {
    /// Randomness: divides the logits; 0 takes the likeliest token always
    temperature: f32, [long = "temp", env = "KINFER_TEMP", visible_alias = "temperature"];
    /// Draw among this many of the likeliest tokens; 0: all
    top_k: usize, [long = "top-k", env = "KINFER_TOP_K"];
    /// Draw among the likeliest tokens whose probabilities reach this sum; 1: all
    top_p: f32, [long = "top-p", env = "KINFER_TOP_P"];
    /// Drop tokens less likely than this fraction of the likeliest; 0: none
    min_p: f32, [long = "min-p", env = "KINFER_MIN_P"];
    /// Makes recent tokens less likely by this factor; 1: off
    repeat_penalty: f32, [long = "repeat-penalty", env = "KINFER_REPEAT_PENALTY"];
    /// Makes tokens that occurred recently less likely by this much; 0: off
    presence_penalty: f32, [long = "presence-penalty", env = "KINFER_PRESENCE_PENALTY"];
    /// Makes recent tokens less likely by this much for each occurrence; 0: off
    frequency_penalty: f32, [long = "frequency-penalty", env = "KINFER_FREQUENCY_PENALTY"];
    /// How many of the last tokens the penalties look at; 0: none, -1: all
    repeat_last_n: i64, [long = "repeat-last-n", env = "KINFER_REPEAT_LAST_N", value_parser = clap::value_parser!(i64).range(-1..)];
    /// Seed of the draws; the same seed gives the same text [default: random]
    seed: u64, [short = 's', long = "seed", env = "KINFER_SEED"];
}

/// Puts an override into a field, whose type may differ.
trait Set<T> {
    fn set(&mut self, value: T);
}

impl Set<f32> for f32 {
    fn set(&mut self, value: f32) {
        *self = value;
    }
}

impl Set<usize> for usize {
    fn set(&mut self, value: usize) {
        *self = value;
    }
}

impl Set<u64> for Option<u64> {
    fn set(&mut self, value: u64) {
        *self = Some(value);
    }
}

impl Set<i64> for Option<usize> {
    // Below zero means all, as on llama.cpp's command line.
    fn set(&mut self, value: i64) {
        *self = usize::try_from(value).ok();
    }
}
