//! Attention with linear biases (ALiBi, Press et al. 2021, arXiv 2108.12409): the slopes.

use std::sync::Arc;

/// A slope for each head: a geometric sequence from `2^(-most / n)` down to `2^-most` for the largest power of two `n` that is not above
/// their number. Further heads take every second one of the sequence for `2 n`, from its first on.
pub(crate) fn slopes(heads: usize, most: f64) -> Arc<[f32]> {
    let n = if heads == 0 { 1 } else { 1 << heads.ilog2() };
    let slope = |h: usize| match h.checked_sub(n) {
        None => (-most * (h + 1) as f64 / n as f64).exp2(),
        Some(further) => (-most * (2 * further + 1) as f64 / (2 * n) as f64).exp2(),
    };
    (0..heads).map(|h| slope(h) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::slopes;

    #[test]
    fn slopes_are_those_of_the_paper() {
        let halves = |n: i32| (1..=n).map(|i| 0.5f32.powi(i));
        assert_eq!(slopes(8, 8.0)[..], halves(8).collect::<Vec<_>>());
        assert_eq!(slopes(1, 8.0)[..], [1.0 / 256.0]);
        assert!(slopes(0, 8.0).is_empty());
        // Twelve heads, as transformers and llama.cpp have them.
        let further = [1, 3, 5, 7].map(|i| 0.5f64.powf(f64::from(i) / 2.0) as f32);
        assert_eq!(slopes(12, 8.0)[..], halves(8).chain(further).collect::<Vec<_>>());
        assert_eq!(slopes(3, 16.0)[..], [1.0 / 256.0, 1.0 / 65536.0, 1.0 / 16.0]);
    }
}
