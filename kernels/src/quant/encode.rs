//! From values to stored blocks: the search for scales that lose least.
//!
//! All block-quantised formats decode to one [`Block`] of integers, so one search fills it for all of them; a format adds
//! only `store`, the inverse of its bit layout. What is minimised is the sum of `weight * (value - decoded)^2`, with weights
//! as [`count`] says. For given codes the best scale (and minimum) is a weighted least squares fit; for a given scale
//! the best codes are the nearest ones. So a group begins with many scales near the one that just fits its largest value,
//! takes the best fit, and goes back and forth while that helps. Formats of two levels then round the groups' scales and
//! minimums to integers, try each one's neighbours, and fit the block's scale to what became of them.

use half::f16;

use super::{Block, Codec, Format, MAX_BLOCK, MAX_GROUPS, Quant};

/// The largest magnitude that every format but F32 and BF16 can be given: f16 scales and values end there.
pub const MAX_VALUE: f32 = 65504.0;

impl Format {
    /// Whether values can be stored in it. The formats that choose rows of a grid, or three values, are made by tools that
    /// search with a calibration text.
    pub fn can_encode(self) -> bool {
        match &self.row().codec {
            Codec::Float(_) => true,
            Codec::Quant(quant) => quant.store.is_some(),
        }
    }
}

/// Stores `values` in `format`, which has to be one that [`Format::can_encode`] says: whole blocks, finite, and of magnitudes up to
/// [`MAX_VALUE`] (but for F32 and BF16). `weights` are what the squared errors of the values count besides
/// their size: not negative, as many as there are values; none: all alike. `out` holds exactly the bytes of the values.
pub fn encode(format: Format, values: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    debug_assert_eq!(
        format.bytes_for(values.len()),
        Some(out.len()),
        "{format}: source and destination sizes"
    );
    let Codec::Quant(quant) = &format.row().codec else {
        return match format {
            Format::F32 => put(values, out, |v| v.to_le_bytes()),
            Format::F16 => put(values, out, |v| f16::from_f32(v).to_le_bytes()),
            _ => put(values, out, |v| half::bf16::from_f32(v).to_le_bytes()),
        };
    };
    let Some(store) = quant.store else { return debug_assert!(false, "{format} cannot be encoded") };
    let len = format.block_len();
    let (mut block, mut own) = (Block::default(), [0f32; MAX_BLOCK]);
    for (i, (x, bytes)) in
        values.chunks_exact(len).zip(out.chunks_exact_mut(format.block_bytes())).enumerate()
    {
        // Of no weight at all, every value counts alike.
        let given = weights.map(|w| &w[i * len..(i + 1) * len]).filter(|w| w.iter().any(|&w| w > 0.0));
        count(x, given, &mut own[..len]);
        fill_fast(quant, x, &own[..len], &mut block);
        store(&block, bytes);
    }
}

/// What the squared errors of `x` count: `sqrt(x^2 + mean square of the block)`, times the weights where some are given. What few
/// large values do in a product, no other values make up for; `benches/record` has what this does for perplexity.
fn count(x: &[f32], weights: Option<&[f32]>, out: &mut [f32]) {
    let [square] = sums(x, x, |x, _| [x * x]);
    let mean = square / x.len() as f32;
    // Squares of values below 1e-19 are nothing.
    let own = |x: f32| if mean > 0.0 { (x * x + mean).sqrt() } else { 1.0 };
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = own(x));
    if let Some(weights) = weights {
        out.iter_mut().zip(weights).for_each(|(out, w)| *out *= w);
    }
}

fn put<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    out.chunks_exact_mut(N).zip(values).for_each(|(out, &v)| out.copy_from_slice(&bytes(v)));
}

/// [`fill`] with the widest vectors that it is compiled for.
fn fill_fast(quant: &Quant, x: &[f32], w: &[f32], block: &mut Block) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { fill_avx2(quant, x, w, block) };
    }
    fill(quant, x, w, block);
}

/// [`fill`], compiled for wider vectors: no operation changes, and no bit.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fill_avx2(quant: &Quant, x: &[f32], w: &[f32], block: &mut Block) {
    fill(quant, x, w, block);
}

/// Fills `block` with what decodes nearest to `x`.
#[inline(always)]
fn fill(quant: &Quant, x: &[f32], w: &[f32], block: &mut Block) {
    let (lo, hi) = quant.codes;
    match quant.levels {
        Some(levels) => {
            let table = Table::new(levels);
            match (quant.wide_scale, quant.scales) {
                (true, _) => power_of_two(x, w, &table, block),
                (false, (1, 1)) => simple(x, w, &table, block),
                _ => nested(quant, x, w, &table, block),
            }
        }
        None => {
            // One sign more would help only the largest value, and some kernels elsewhere do without it.
            let range = Range { lo: f32::from(lo.max(-127)), hi: f32::from(hi) };
            match (quant.max_min, quant.scales) {
                (0, (1, 1)) => simple(x, w, &range, block),
                (0, _) => nested(quant, x, w, &range, block),
                (1, _) => with_offset(x, w, range.hi, block),
                _ => nested_with_min(quant, x, w, range.hi, block),
            }
        }
    }
}

/// The codes that a format has.
trait Grid {
    /// Smallest and largest.
    fn ends(&self) -> (f32, f32);
    /// The one nearest to `v`.
    fn nearest(&self, v: f32) -> f32;
    /// How far beside the scales that map the largest value to an end are worth trying, in their own size.
    fn reach(&self) -> f32;
}

/// All integers between two.
struct Range {
    lo: f32,
    hi: f32,
}

impl Grid for Range {
    fn ends(&self) -> (f32, f32) {
        (self.lo, self.hi)
    }

    #[inline(always)]
    fn nearest(&self, v: f32) -> f32 {
        round(v.max(self.lo).min(self.hi))
    }

    fn reach(&self) -> f32 {
        1.25 / -self.lo
    }
}

/// To the nearest integer, for magnitudes below 2^22: as two additions it is a vector operation on every machine.
#[inline(always)]
fn round(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC) - MAGIC
}

/// At most sixteen values, ascending.
struct Table {
    levels: [f32; 16],
    /// Halfway between one and the next.
    middles: [f32; 15],
}

impl Table {
    fn new(levels: &[i8]) -> Table {
        let mut sorted = [f32::from(levels[0]); 16];
        sorted.iter_mut().zip(levels).for_each(|(s, &l)| *s = f32::from(l));
        sorted.sort_unstable_by(f32::total_cmp);
        let middles = std::array::from_fn(|i| (sorted[i] + sorted[i + 1]) / 2.0);
        Table { levels: sorted, middles }
    }
}

impl Grid for Table {
    fn ends(&self) -> (f32, f32) {
        (self.levels[0], self.levels[15])
    }

    #[inline(always)]
    fn nearest(&self, v: f32) -> f32 {
        let mut found = self.levels[0];
        for (middle, level) in self.middles.iter().zip(&self.levels[1..]) {
            found = if v > *middle { *level } else { found };
        }
        found
    }

    fn reach(&self) -> f32 {
        0.2
    }
}

/// Sums over lanes, so that they are vector operations: the order is part of the result, and the same on every machine.
const LANES: usize = 8;

#[inline(always)]
fn sums<const N: usize>(x: &[f32], w: &[f32], term: impl Fn(f32, f32) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0f32; LANES]; N];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let terms = term(x[i], w[i]);
            for n in 0..N {
                lanes[n][i] += terms[n];
            }
        }
    }
    lanes.map(|l| l.iter().sum())
}

/// The error of values `scale * code - min` with the nearest codes.
#[inline(always)]
fn error(x: &[f32], w: &[f32], grid: &impl Grid, scale: f32, min: f32) -> f32 {
    let inverse = inverse(scale);
    let term = |x: f32, w: f32| {
        let e = x - (scale * grid.nearest((x + min) * inverse) - min);
        [w * e * e]
    };
    sums(x, w, term)[0]
}

#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The nearest f16; finite, as all values are.
fn to_half(v: f32) -> f32 {
    f16::from_f32(v).to_f32()
}

#[inline(always)]
fn put_codes(x: &[f32], grid: &impl Grid, scale: f32, min: f32, codes: &mut [i8]) {
    let inverse = inverse(scale);
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = grid.nearest((x + min) * inverse) as i8);
}

/// The value with the largest magnitude.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// Scales to each side of one that maps the largest value to an end.
const STEPS: i32 = 9;

/// The scale of values `scale * code` with the smallest error.
#[inline(always)]
fn fit(x: &[f32], w: &[f32], grid: &impl Grid) -> f32 {
    let largest = largest(x);
    // Below it the inverse would overflow; such a group is zeros in half precision.
    if largest.abs() < 1e-20 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for end in [grid.ends().0, grid.ends().1] {
        for step in -STEPS..=STEPS {
            let inverse = end * (1.0 + grid.reach() * step as f32 / STEPS as f32) / largest;
            let (scale, gain) = fitted(x, w, grid, inverse);
            if gain > best.1 {
                best = (scale, gain);
            }
        }
    }
    for _ in 0..4 {
        let (scale, gain) = fitted(x, w, grid, inverse(best.0));
        if gain <= best.1 {
            break;
        }
        best = (scale, gain);
    }
    best.0
}

/// The best scale for the codes that the scale `1 / inverse` gives, and by how much its error is less than that of zeros.
#[inline(always)]
fn fitted(x: &[f32], w: &[f32], grid: &impl Grid, inverse: f32) -> (f32, f32) {
    let [xq, qq] = moments(x, w, grid, inverse);
    if qq > 0.0 { (xq / qq, xq * xq / qq) } else { (0.0, 0.0) }
}

/// Weighted sums of value times code and of squared codes.
#[inline(always)]
fn moments(x: &[f32], w: &[f32], grid: &impl Grid, inverse: f32) -> [f32; 2] {
    sums(x, w, |x, w| {
        let q = grid.nearest(x * inverse);
        [w * x * q, w * q * q]
    })
}

/// One scale for the block.
#[inline(always)]
fn simple(x: &[f32], w: &[f32], grid: &impl Grid, block: &mut Block) {
    // That which maps the largest value to an end may come off best in half precision.
    let plain = largest(x) / grid.ends().0;
    let scales = [fit(x, w, grid), plain, -plain].map(to_half);
    let d = least(scales, |&d| error(x, w, grid, d, 0.0));
    block.set_simple(d, None);
    put_codes(x, grid, d, 0.0, &mut block.codes[..x.len()]);
}

/// One power of two for the block, from 2^-127 on: the table's codes are small enough for any f32.
#[inline(always)]
fn power_of_two(x: &[f32], w: &[f32], grid: &Table, block: &mut Block) {
    let fits = (largest(x).abs() / grid.ends().1).max(f32::MIN_POSITIVE).log2().floor() as i32;
    let scales = [fits - 1, fits, fits + 1].map(|e| 2f32.powi(e.clamp(-126, 127)));
    let d = least(scales, |&d| error(x, w, grid, d, 0.0));
    block.set_simple(d, None);
    put_codes(x, grid, d, 0.0, &mut block.codes[..x.len()]);
}

#[inline(always)]
fn least<T>(all: impl IntoIterator<Item = T>, mut error: impl FnMut(&T) -> f32) -> T
where
    T: Default,
{
    let mut best = (f32::INFINITY, T::default());
    for one in all {
        let error = error(&one);
        if error < best.0 {
            best = (error, one);
        }
    }
    best.1
}

/// Scale and minimum of values `scale * code - min` with codes from 0 to `top`: neither is negative where `positive`, as
/// formats of two levels need it.
#[inline(always)]
fn fit_with_min(x: &[f32], w: &[f32], top: f32, positive: bool) -> (f32, f32) {
    let (mut low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    if positive {
        low = low.min(0.0);
    }
    let span = high - low;
    if span < 1e-20 {
        return (0.0, -low);
    }
    let grid = Range { lo: 0.0, hi: top };
    let [total, x_total] = sums(x, w, |x, w| [w, w * x]);
    let mut best = (error(x, w, &grid, span / top, -low), span / top, -low);
    for step in -STEPS..=STEPS {
        let first = span / (top + 1.1 * step as f32 / STEPS as f32 - if top < 4.0 { 0.2 } else { 0.0 });
        let (mut scale, mut min) = refit(x, w, &grid, [total, x_total], (first, -low), positive);
        for _ in 0..3 {
            if scale <= 0.0 {
                break;
            }
            let error = error(x, w, &grid, scale, min);
            if error >= best.0 {
                break;
            }
            best = (error, scale, min);
            (scale, min) = refit(x, w, &grid, [total, x_total], (scale, min), positive);
        }
    }
    (best.1, best.2)
}

/// The best scale and minimum for the codes that these give; `total` and `x_total` are the sums of the
/// weights and of the weighted values.
#[inline(always)]
fn refit(
    x: &[f32],
    w: &[f32],
    grid: &Range,
    [total, x_total]: [f32; 2],
    now: (f32, f32),
    positive: bool,
) -> (f32, f32) {
    let (scale, min) = now;
    let inverse = inverse(scale);
    let [q1, qq, xq] = sums(x, w, |x, w| {
        let q = grid.nearest((x + min) * inverse);
        [w * q, w * q * q, w * x * q]
    });
    let determinant = total * qq - q1 * q1;
    let alone = (if qq > 0.0 { xq / qq } else { 0.0 }, 0.0);
    if determinant <= 0.0 {
        return if positive { alone } else { now };
    }
    let fitted = ((total * xq - q1 * x_total) / determinant, (q1 * xq - qq * x_total) / determinant);
    if positive && fitted.1 < 0.0 { alone } else { fitted }
}

/// One scale and one offset for the block.
#[inline(always)]
fn with_offset(x: &[f32], w: &[f32], top: f32, block: &mut Block) {
    let grid = Range { lo: 0.0, hi: top };
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let (scale, min) = fit_with_min(x, w, top, false);
    let all = [(scale, min), ((high - low) / top, -low)].map(|(s, m)| (to_half(s), to_half(m)));
    let (d, min) = least(all, |&(d, min)| error(x, w, &grid, d, min));
    block.set_simple(d, Some(-min));
    put_codes(x, &grid, d, min, &mut block.codes[..x.len()]);
}

/// Times that a block's scale is fitted to what became of its groups.
const ROUNDS: usize = 4;

/// A scale for the block, and integer ones for its groups.
#[inline(always)]
fn nested(quant: &Quant, x: &[f32], w: &[f32], grid: &impl Grid, block: &mut Block) {
    let len = quant.group_len;
    let groups = || x.chunks_exact(len).zip(w.chunks_exact(len));
    let mut own = [0f32; MAX_GROUPS];
    own.iter_mut().zip(groups()).for_each(|(own, (x, w))| *own = fit(x, w, grid));
    let (lo, hi) = (f32::from(quant.scales.0), f32::from(quant.scales.1));
    let widest = largest(&own[..x.len() / len]);
    let mut best = (f32::INFINITY, 0.0, [0f32; MAX_GROUPS]);
    for end in [lo, hi] {
        let mut d = to_half(widest / end);
        for _ in 0..ROUNDS {
            let inverse = inverse(d);
            let (mut total, mut scales) = (0.0, [0f32; MAX_GROUPS]);
            let [mut xq, mut qq] = [0f32; 2];
            for (g, (x, w)) in groups().enumerate() {
                let near = round((own[g] * inverse).clamp(lo, hi));
                let all = [near, (near - 1.0).max(lo), (near + 1.0).min(hi)];
                let scale = least(all, |&s| error(x, w, grid, d * s, 0.0));
                total += error(x, w, grid, d * scale, 0.0);
                scales[g] = scale;
                let inverse = self::inverse(d * scale);
                let moments = moments(x, w, grid, inverse);
                xq += moments[0] * scale;
                qq += moments[1] * scale * scale;
            }
            if total >= best.0 {
                break;
            }
            best = (total, d, scales);
            d = if qq > 0.0 { to_half(xq / qq) } else { break };
        }
    }
    let (_, d, scales) = best;
    (block.d, block.dmin) = (d, 0.0);
    block.mins = [0; MAX_GROUPS];
    for (g, (x, codes)) in x.chunks_exact(len).zip(block.codes.chunks_exact_mut(len)).enumerate() {
        block.scales[g] = scales[g] as i8;
        put_codes(x, grid, d * scales[g], 0.0, codes);
    }
}

/// Scales of scales and of minimums for the block, and integer ones for its groups.
#[inline(always)]
fn nested_with_min(quant: &Quant, x: &[f32], w: &[f32], top: f32, block: &mut Block) {
    let (len, grid) = (quant.group_len, Range { lo: 0.0, hi: top });
    let groups = || x.chunks_exact(len).zip(w.chunks_exact(len));
    let (most, most_min) = (f32::from(quant.scales.1), f32::from(quant.max_min));
    let mut own = [(0f32, 0f32); MAX_GROUPS];
    own.iter_mut().zip(groups()).for_each(|(own, (x, w))| *own = fit_with_min(x, w, top, true));
    let widest = own.iter().fold((0f32, 0f32), |(s, m), &(scale, min)| (s.max(scale), m.max(min)));
    let (mut d, mut dmin) = (to_half(widest.0 / most), to_half(widest.1 / most_min));
    let mut best = (f32::INFINITY, d, dmin, [(0f32, 0f32); MAX_GROUPS]);
    for _ in 0..ROUNDS {
        let (inverse, inverse_min) = (inverse(d), inverse(dmin));
        let (mut total, mut chosen) = (0.0, [(0f32, 0f32); MAX_GROUPS]);
        // Normal equations of the two block scales.
        let [mut ss, mut sm, mut mm, mut xs, mut xm] = [0f32; 5];
        for (g, (x, w)) in groups().enumerate() {
            let near = (round((own[g].0 * inverse).min(most)), round((own[g].1 * inverse_min).min(most_min)));
            let beside = |n: f32, most: f32| [n, (n - 1.0).max(0.0), (n + 1.0).min(most)];
            let all = beside(near.0, most).into_iter();
            let all = all.flat_map(|s| beside(near.1, most_min).map(|m| (s, m)));
            let (scale, min) = least(all, |&(s, m)| error(x, w, &grid, d * s, dmin * m));
            total += error(x, w, &grid, d * scale, dmin * min);
            chosen[g] = (scale, min);
            let inverse = self::inverse(d * scale);
            let [qq, q1, one, xq, x1] = sums(x, w, |x, w| {
                let q = grid.nearest((x + dmin * min) * inverse);
                [w * q * q, w * q, w, w * x * q, w * x]
            });
            ss += scale * scale * qq;
            sm += scale * min * q1;
            mm += min * min * one;
            xs += scale * xq;
            xm += min * x1;
        }
        if total >= best.0 {
            break;
        }
        best = (total, d, dmin, chosen);
        // Of x = d * (scale * q) - dmin * min.
        let determinant = ss * mm - sm * sm;
        let next = match determinant > 0.0 {
            true => ((xs * mm - xm * sm) / determinant, (xs * sm - xm * ss) / determinant),
            false if ss > 0.0 => (xs / ss, 0.0),
            false => break,
        };
        if !(next.0 > 0.0 && next.1 >= 0.0) {
            break;
        }
        (d, dmin) = (to_half(next.0), to_half(next.1));
    }
    let (_, d, dmin, chosen) = best;
    (block.d, block.dmin) = (d, dmin);
    for (g, (x, codes)) in x.chunks_exact(len).zip(block.codes.chunks_exact_mut(len)).enumerate() {
        let (scale, min) = chosen[g];
        (block.scales[g], block.mins[g]) = (scale as i8, min as u8);
        put_codes(x, &grid, d * scale, dmin * min, codes);
    }
}
