//! Which experts of a mixture a row goes to.

use std::borrow::Cow;

/// How the experts of a row are chosen, and what their outputs weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts that a row goes to.
    pub used: usize,
    /// What becomes of the router's logits.
    pub scores: Scores,
    /// Whether the scores of the chosen experts are divided by their sum.
    pub renormalise: bool,
    /// What they are multiplied by in the end.
    pub scale: f32,
}

/// Functions of a router's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// The softmax over all experts.
    Softmax,
    /// `1 / (1 + e^-x)` of each.
    Sigmoid,
}

/// Tells `take` the `routing.used` experts with the largest scores, best first, and their weights. Of equals, the first comes
/// first. A `bias` is added to the scores for the choice alone (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). Both `[experts]`.
pub fn choose_experts(
    logits: &[f32],
    bias: Option<&[f32]>,
    routing: &Routing,
    mut take: impl FnMut(usize, f32),
) {
    let Routing { used, scores, renormalise, scale } = *routing;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| match scores {
        Scores::Softmax => (logits[i] - max).exp(),
        Scores::Sigmoid => 1.0 / (1.0 + (-logits[i]).exp()),
    };
    let all: f32 = match scores {
        Scores::Softmax => (0..logits.len()).map(weight).sum(),
        Scores::Sigmoid => 1.0,
    };
    let ranks: Cow<'_, [f32]> = match bias {
        None => logits.into(), // scores rise with them
        Some(bias) => bias.iter().enumerate().map(|(i, b)| weight(i) / all + b).collect(),
    };
    // The next one after `last` in descending order; nothing is sorted, since a handful of many is wanted.
    let after = |last: Option<usize>| {
        let comes_later =
            |i: &usize| last.is_none_or(|l| ranks[*i] < ranks[l] || (ranks[*i] == ranks[l] && *i > l));
        (0..ranks.len()).filter(comes_later).reduce(|a, b| if ranks[b] > ranks[a] { b } else { a })
    };
    let chosen = || std::iter::successors(after(None), |&last| after(Some(last))).take(used);
    let sum: f32 = if renormalise { chosen().map(weight).sum() } else { all };
    chosen().for_each(|i| take(i, weight(i) / sum * scale));
}
