//! Drawing a token from a row of logits: what a device is told that may do it itself.

/// How a token is drawn: by the likeliest `top_k` tokens, of these the likeliest that reach `top_p`, of these the ones that reach `min_p`, and of
/// these one at random, by the softmax of their logits at a temperature. `kinfer_gen::sample` has the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits; 0: the likeliest token, and nothing below counts.
    pub temperature: f32,
    /// How many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// The probability that tokens reach together; 1: all.
    pub top_p: f32,
    /// A fraction of the largest probability; 0: all.
    pub min_p: f32,
    /// What is random: from 0 (included) to 1.
    pub unit: f64,
}

impl Draw {
    /// The likeliest token.
    pub const GREEDY: Draw = Draw { temperature: 0.0, top_k: 1, top_p: 1.0, min_p: 0.0, unit: 0.0 };

    /// Whether its values are in their ranges.
    pub(crate) fn is_valid(&self) -> bool {
        let temperature = self.temperature >= 0.0 && self.temperature.is_finite();
        let shares = self.top_p > 0.0 && self.top_p <= 1.0 && (0.0..=1.0).contains(&self.min_p);
        temperature && shares && (0.0..1.0).contains(&self.unit)
    }

    /// How many of the likeliest tokens it looks at; `None`: at all.
    pub fn candidates(&self) -> Option<usize> {
        match (self.temperature == 0.0, self.top_k) {
            (true, _) => Some(1),
            (false, 0) => None,
            (false, k) => Some(k),
        }
    }
}

/// A token, or why there is none: [`NONE_LEFT`] or [`NOT_FINITE`].
pub type Drawn = Result<u32, &'static str>;

/// All logits are -inf.
pub const NONE_LEFT: &str = "no token that may be drawn";
/// Logits that have no softmax.
pub const NOT_FINITE: &str = "a logit that is NaN or infinite";
