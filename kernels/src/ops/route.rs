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
    /// The groups that experts are chosen from; `None`: they are one.
    pub groups: Option<ExpertGroups>,
}

/// Experts in groups of equal size, neighbours in one, of which a row goes to the best ones only: so few machines have them all
/// (DeepSeek-V2, arXiv 2405.04434, section 2.2.2; DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups; they divide the experts.
    pub count: usize,
    /// Groups that a row's experts are chosen from.
    pub used: usize,
    /// Experts of a group, its best ones, by the sum of whose scores the groups are ranked.
    pub judged_by: usize,
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
    let Routing { used, scores, renormalise, scale, groups } = *routing;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| match scores {
        Scores::Softmax => (logits[i] - max).exp(),
        Scores::Sigmoid => 1.0 / (1.0 + (-logits[i]).exp()),
    };
    let all: f32 = match scores {
        Scores::Softmax => (0..logits.len()).map(weight).sum(),
        Scores::Sigmoid => 1.0,
    };
    let mut ranks: Cow<'_, [f32]> = match bias {
        None if groups.is_none() => logits.into(), // scores rise with them
        _ => (0..logits.len()).map(|i| weight(i) / all + bias.map_or(0.0, |bias| bias[i])).collect(),
    };
    if let Some(groups) = groups {
        keep_best_groups(groups, ranks.to_mut());
    }
    let chosen = || descending(&ranks).take(used);
    let sum: f32 = if renormalise { chosen().map(weight).sum() } else { all };
    chosen().for_each(|i| take(i, weight(i) / sum * scale));
}

/// The places of `ranks` from the largest to the smallest. Nothing is sorted, since a handful of many is wanted.
fn descending(ranks: &[f32]) -> impl Iterator<Item = usize> {
    let after = |last: Option<usize>| {
        let comes_later =
            |i: &usize| last.is_none_or(|l| ranks[*i] < ranks[l] || (ranks[*i] == ranks[l] && *i > l));
        (0..ranks.len()).filter(comes_later).reduce(|a, b| if ranks[b] > ranks[a] { b } else { a })
    };
    std::iter::successors(after(None), move |&last| after(Some(last)))
}

/// Makes the ranks of all experts but those of the best groups negative infinity.
fn keep_best_groups(groups: ExpertGroups, ranks: &mut [f32]) {
    let size = ranks.len() / groups.count;
    let judge = |group: &[f32]| descending(group).take(groups.judged_by).map(|i| group[i]).sum();
    let sums: Vec<f32> = ranks.chunks_exact(size).map(judge).collect();
    for lost in descending(&sums).skip(groups.used) {
        ranks[lost * size..(lost + 1) * size].fill(f32::NEG_INFINITY);
    }
}
