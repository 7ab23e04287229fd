//! Which experts of a mixture a row goes to.

/// Tells `take` the `used` experts with the largest `logits`, `[experts]`, best first, and their weights: their probabilities
/// under the softmax of all logits, with `renormalise` divided by the sum of those chosen. Of equals, the first comes first.
pub fn choose_experts(logits: &[f32], used: usize, renormalise: bool, mut take: impl FnMut(usize, f32)) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| (logits[i] - max).exp();
    // The next one after `last` in descending order of logits; nothing is sorted, since a handful of many is wanted.
    let after = |last: Option<usize>| {
        let comes_later =
            |i: &usize| last.is_none_or(|l| logits[*i] < logits[l] || (logits[*i] == logits[l] && *i > l));
        (0..logits.len()).filter(comes_later).reduce(|a, b| if logits[b] > logits[a] { b } else { a })
    };
    let chosen = || std::iter::successors(after(None), |&last| after(Some(last))).take(used);
    let sum: f32 = match renormalise {
        true => chosen().map(weight).sum(),
        false => (0..logits.len()).map(weight).sum(),
    };
    chosen().for_each(|i| take(i, weight(i) / sum));
}
