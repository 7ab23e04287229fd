//! Weights of tokens in a softmax, as whole numbers: their sum is the same in any order, so a device may add them side by side and draws what the host
//! draws (`kernels/cuda/draw.cu` has the same arithmetic, operation by operation).

/// `2^40 e^x` for `x` from -inf to 0, within 3e-7 of it and 1; exactly 2^40 at 0. So 2^23 tokens stay below 2^63, and what is less likely than
/// the likeliest by more than 27.7 has no weight.
///
/// `e^x = 2^n e^r` with `|r| <= ln 2 / 2` and Taylor's polynomial of degree 7 for `e^r`, whose remainder is 6e-9.
pub(super) fn weight(x: f32) -> u64 {
    // There it is zero already, and the shift in range.
    let x = x.max(-40.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, of which the first times `n` is exact (Cody and Waite 1980).
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut e = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        e = e * r + c;
    }
    // From 0.7 to 1.42: 24 bits behind the point are all that an f32 has.
    let bits = (e * (1 << 24) as f32) as u64;
    (bits << 16) >> -(n as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u64 = 1 << 40;

    #[test]
    fn weights_are_the_exponential_function() {
        assert_eq!((weight(0.0), weight(-0.0)), (ONE, ONE));
        assert_eq!((weight(-28.5), weight(-64.0), weight(-1e30), weight(f32::NEG_INFINITY)), (0, 0, 0, 0));
        for i in 0..200_000 {
            let x = i as f32 * -1.5e-4;
            let exact = f64::from(x).exp() * ONE as f64;
            let error = (weight(x) as f64 - exact).abs();
            assert!(error <= 3e-7 * exact + 1.0, "{x}: {} for {exact}", weight(x));
        }
    }
}
