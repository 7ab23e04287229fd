//! The attention kernel.
#![allow(clippy::needless_range_loop)] // several arrays are walked side by side

use super::format::{KvFormat, UNIT};
use super::kv::SCALES;
use super::{Attend, BLOCK_LEN, LIMIT, PARTIAL_HEAD, PARTITION_LEN, TileFn, partial_len};
use crate::ops::lanes::{store_n, tanh};
#[cfg(target_arch = "aarch64")]
use crate::simd::{C4, Dot, I4, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Dot, Halves, I2};
use crate::simd::{LANES, Scalar, Simd, exp};

/// Most queries that go through a tile of keys together.
const MAX_QUERIES: usize = 16;

/// What of a product an instruction set keeps in registers: sums of a tile of rows, one or two vectors each, beside
/// the operands.
pub trait Width: Simd {
    /// Vectors of sums.
    const SUMS: usize;
    /// Rows; at most [`MAX_QUERIES`].
    const QUERIES: usize;
}

impl Width for Scalar {
    const SUMS: usize = 4;
    const QUERIES: usize = 4;
}

// 6 vectors are 12 of 16 registers. A second vector per row costs more registers for operands than it saves loads.
#[cfg(target_arch = "x86_64")]
impl<D: Dot<I2, I2>> Width for Halves<D> {
    const SUMS: usize = 6;
    const QUERIES: usize = 6;
}

// 24 of 32 registers.
#[cfg(target_arch = "x86_64")]
impl Width for crate::simd::Avx512Vnni {
    const SUMS: usize = 24;
    const QUERIES: usize = 12;
}

// 24 of 32 registers, as each vector is four.
#[cfg(target_arch = "aarch64")]
impl<D: Dot<I4, C4>> Width for Lanes<D> {
    const SUMS: usize = 6;
    const QUERIES: usize = 6;
}

/// `acc[r] += sum over t of x[r][from + t] * b[t]`, `t` ascending: `b`'s rows are units, `stride` bytes apart, of which `C`
/// vectors from `half` on count.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn panel<S: Simd, E: KvFormat, const N: usize, const C: usize>(
    acc: &mut [[S::F; C]; N],
    x: &[*const f32; MAX_QUERIES],
    from: usize,
    b: *const u8,
    stride: usize,
    half: usize,
    ahead: *const u8,
    len: usize,
) {
    // SAFETY: each `x` has `from + len` elements, `b` has `len` rows.
    unsafe {
        for t in 0..len {
            S::prefetch(ahead.wrapping_add(t * stride));
            let v = E::load::<S, C>(b.add(t * stride), half);
            for r in 0..N {
                let w = S::splat(*x[r].add(from + t));
                for c in 0..C {
                    acc[r][c] = S::fma(w, v[c], acc[r][c]);
                }
            }
        }
    }
}

/// Calls `$f::<…, N>` for the run-time count `$n`, which is at most `S::QUERIES`.
macro_rules! by_count {
    ($n:expr, $f:ident::<$s:ident, $e:ident>($($arg:expr),*)) => {
        match $n {
            1 => $f::<$s, $e, 1>($($arg),*),
            2 => $f::<$s, $e, 2>($($arg),*),
            3 => $f::<$s, $e, 3>($($arg),*),
            4 => $f::<$s, $e, 4>($($arg),*),
            5 if const { $s::QUERIES >= 5 } => $f::<$s, $e, 5>($($arg),*),
            6 if const { $s::QUERIES >= 6 } => $f::<$s, $e, 6>($($arg),*),
            7 if const { $s::QUERIES >= 7 } => $f::<$s, $e, 7>($($arg),*),
            8 if const { $s::QUERIES >= 8 } => $f::<$s, $e, 8>($($arg),*),
            9 if const { $s::QUERIES >= 9 } => $f::<$s, $e, 9>($($arg),*),
            10 if const { $s::QUERIES >= 10 } => $f::<$s, $e, 10>($($arg),*),
            11 if const { $s::QUERIES >= 11 } => $f::<$s, $e, 11>($($arg),*),
            12 if const { $s::QUERIES >= 12 } => $f::<$s, $e, 12>($($arg),*),
            _ => {}
        }
    };
}

/// Places of a tile's keys.
static PLACES: [f32; BLOCK_LEN] = {
    let (mut places, mut i) = ([0.0; BLOCK_LEN], 0);
    while i < BLOCK_LEN {
        places[i] = i as f32;
        i += 1;
    }
    places
};

/// Up to [`MAX_QUERIES`] queries at work on one tile of 32 keys.
#[repr(align(64))]
pub(crate) struct Tile {
    /// Scores, then weights.
    pub(crate) weights: [[f32; BLOCK_LEN]; MAX_QUERIES],
    /// Weights times the scales of a group of dimensions.
    scaled: [[f32; BLOCK_LEN]; MAX_QUERIES],
    /// What the earlier weights and values are multiplied by, since the largest score has grown.
    pub(crate) decay: [f32; LANES],
    /// The queries.
    q: [*const f32; MAX_QUERIES],
    /// The keys that each query sees: `from..to` within the tile, never empty.
    pub(crate) seen: [(usize, usize); MAX_QUERIES],
    /// Where scores have a bias ([`Attend::alibi`]): its slope of each query, negated, and the query's place, counted from the tile's first.
    bias: [(f32, f32); MAX_QUERIES],
    /// First query's partial result, and floats from one to the next.
    pub(crate) partials: *mut f32,
    stride: usize,
    /// The head, as [`KvLayout`](super::KvLayout) has it.
    head: *const u8,
    /// The head of the tile that comes next, to be fetched.
    ahead: *const u8,
    head_dim: usize,
    /// Where the head's values begin.
    values: usize,
    v_stride: usize,
    /// Multiplies the scores.
    scale: f32,
}

impl Tile {
    /// A tile without keys and queries yet, whose partial results are `stride` floats apart.
    pub(crate) fn new(a: &Attend<'_>, stride: usize) -> Self {
        Tile {
            weights: [[0.0; BLOCK_LEN]; MAX_QUERIES],
            scaled: [[0.0; BLOCK_LEN]; MAX_QUERIES],
            decay: [0.0; LANES],
            q: [a.q.as_ptr(); MAX_QUERIES],
            seen: [(0, 0); MAX_QUERIES],
            bias: [(0.0, 0.0); MAX_QUERIES],
            partials: std::ptr::null_mut(),
            stride,
            head: std::ptr::null(),
            ahead: std::ptr::null(),
            head_dim: a.layout.head_dim,
            values: a.layout.keys_bytes(),
            v_stride: a.layout.v_stride(),
            scale: a.scale,
        }
    }

    /// Sets what query `r`, head `g` of row `row`, sees of the tile at `position`, and its bias.
    pub(crate) fn place(&mut self, a: &Attend<'_>, r: usize, row: usize, g: usize, position: usize) {
        self.seen[r] = a.seen(row, position);
        if let Some(slopes) = a.alibi {
            self.bias[r] = (-slopes[g], (a.start + row) as f32 - position as f32);
        }
    }
}

/// `weights[r] = scale * q[r] . k` for the first `n` queries and all 32 keys.
///
/// Where keys have scales, each group of 32 dimensions is summed up by itself, multiplied by the keys' scales of that group, and
/// added to the sum of the groups before.
#[inline(always)]
pub(crate) unsafe fn scores<S: Width, K: KvFormat>(t: &mut Tile, n: usize) {
    // SAFETY: passed on.
    unsafe { by_count!(n, products::<S, K>(t)) }
}

/// [`scores`] of `N` queries.
#[inline(always)]
unsafe fn products<S: Width, K: KvFormat, const N: usize>(t: &mut Tile) {
    // SAFETY: passed on.
    unsafe {
        if 2 * N <= S::SUMS {
            dots::<S, K, N, 2>(t, 0);
        } else {
            dots::<S, K, N, 1>(t, 0);
            dots::<S, K, N, 1>(t, 1);
        }
    }
}

/// [`scores`] of `C` vectors of keys from `half` on.
#[inline(always)]
unsafe fn dots<S: Simd, K: KvFormat, const N: usize, const C: usize>(t: &mut Tile, half: usize) {
    // SAFETY: queries have `head_dim` elements, the tile `head_dim` units of 32 keys and as many scales as groups.
    unsafe {
        let mut sum = [[S::zero(); C]; N];
        let all = t.head_dim;
        if K::SCALED {
            for d in (0..all).step_by(UNIT) {
                let mut acc = [[S::zero(); C]; N];
                let at = d * K::UNIT_BYTES;
                let ahead = t.ahead.wrapping_add(at);
                let (keys, len) = (t.head.add(at), UNIT.min(all - d));
                panel::<S, K, N, C>(&mut acc, &t.q, d, keys, K::UNIT_BYTES, half, ahead, len);
                let at = all * K::UNIT_BYTES + d / UNIT * SCALES;
                S::prefetch(t.ahead.wrapping_add(at));
                for c in 0..C {
                    let scale = S::load_f16(t.head.add(at).cast::<u16>().add(LANES * (half + c)));
                    for r in 0..N {
                        sum[r][c] = S::fma(acc[r][c], scale, sum[r][c]);
                    }
                }
            }
        } else {
            panel::<S, K, N, C>(&mut sum, &t.q, 0, t.head, K::UNIT_BYTES, half, t.ahead, all);
        }
        for r in 0..N {
            for c in 0..C {
                let p = t.weights[r].as_mut_ptr().add(LANES * (half + c));
                S::store(p, S::mul(sum[r][c], S::splat(t.scale)));
            }
        }
    }
}

/// `o[r] = o[r] * decay[r] + sum over the tile's keys from..to of weights[r][key] * value[key]`, for `N` queries from
/// `first` on. Where values have scales, a weight is multiplied by its key's scale first.
#[inline(always)]
unsafe fn values<S: Width, V: KvFormat, const N: usize>(t: &mut Tile, first: usize, keys: (usize, usize)) {
    let width = t.head_dim.next_multiple_of(LANES);
    // SAFETY: partials and value rows have `width` elements, and values as many scales as groups; `keys` end at 32.
    unsafe {
        for d in (0..width).step_by(UNIT) {
            let mut w = [std::ptr::null(); MAX_QUERIES];
            if V::SCALED {
                let at = t.values + BLOCK_LEN * t.v_stride + d / UNIT * SCALES;
                S::prefetch(t.ahead.wrapping_add(at));
                let scales = t.head.add(at).cast::<u16>();
                let scales = [S::load_f16(scales), S::load_f16(scales.add(LANES))];
                for r in 0..N {
                    let (from, to) = (t.weights[first + r].as_ptr(), t.scaled[r].as_mut_ptr());
                    for h in 0..2 {
                        S::store(to.add(LANES * h), S::mul(S::load(from.add(LANES * h)), scales[h]));
                    }
                    w[r] = to.cast_const();
                }
            } else {
                for r in 0..N {
                    w[r] = t.weights[first + r].as_ptr();
                }
            }
            let pair = d + UNIT <= width;
            if pair && 2 * N <= S::SUMS {
                sums::<S, V, N, 2>(t, first, keys, &w, d, 0);
            } else {
                sums::<S, V, N, 1>(t, first, keys, &w, d, 0);
                if pair {
                    sums::<S, V, N, 1>(t, first, keys, &w, d, 1);
                }
            }
        }
    }
}

/// [`values`] with the weights `w`, for `C` vectors of dimensions from `d + 16 * half` on.
#[inline(always)]
unsafe fn sums<S: Simd, V: KvFormat, const N: usize, const C: usize>(
    t: &Tile,
    first: usize,
    (from, to): (usize, usize),
    w: &[*const f32; MAX_QUERIES],
    d: usize,
    half: usize,
) {
    // SAFETY: partials and value rows have these elements, weights 32; `to <= 32`.
    unsafe {
        let mut acc = [[S::zero(); C]; N];
        let o = t.partials.add(first * t.stride + PARTIAL_HEAD + d + LANES * half);
        for r in 0..N {
            for c in 0..C {
                acc[r][c] = S::mul(S::load(o.add(r * t.stride + LANES * c)), S::splat(t.decay[first + r]));
            }
        }
        let at = t.values + from * t.v_stride + d / UNIT * V::UNIT_BYTES;
        let ahead = t.ahead.wrapping_add(at);
        panel::<S, V, N, C>(&mut acc, w, from, t.head.add(at), t.v_stride, half, ahead, to - from);
        for r in 0..N {
            for c in 0..C {
                S::store(o.add(r * t.stride + LANES * c), acc[r][c]);
            }
        }
    }
}

/// Turns scores into weights and updates `m` and `l` of `n` queries of `a`.
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(t: &mut Tile, n: usize, a: &Attend<'_>) {
    let (softcap, has_bias) = (a.softcap, a.alibi.is_some());
    // SAFETY: `n <= MAX_QUERIES`; a partial starts with a vector of which `m` is the first, and the vector `l`.
    unsafe {
        for r in 0..n {
            let (from, to) = t.seen[r];
            let w = &mut t.weights[r];
            let p = w.as_mut_ptr();
            if let Some(cap) = softcap {
                let c = S::splat(cap);
                for p in [p, p.add(LANES)] {
                    S::store(p, S::mul(tanh::<S>(S::div(S::load(p), c)), c));
                }
            }
            if has_bias {
                let (slope, place) = (S::splat(t.bias[r].0), S::splat(t.bias[r].1));
                for half in [0, LANES] {
                    let (p, key) = (p.add(half), S::load(PLACES.as_ptr().add(half)));
                    let distance = S::max(S::sub(place, key), S::sub(key, place));
                    S::store(p, S::fma(slope, distance, S::load(p)));
                }
            }
            let whole = to - from == BLOCK_LEN;
            if !whole {
                w[..from].fill(f32::NEG_INFINITY);
                w[to..].fill(f32::NEG_INFINITY);
            }
            let (a, b) = (S::load(p), S::load(p.add(LANES)));
            let m = t.partials.add(r * t.stride);
            let top = S::hmax(S::max(a, b));
            let top = if top > *m { top } else { *m };
            t.decay[r] = *m - top;
            *m = top;
            *m.add(1) = 1.0;
            let top = S::splat(top);
            S::store(p, exp::<S>(S::sub(a, top)));
            S::store(p.add(LANES), exp::<S>(S::sub(b, top)));
            if !whole {
                // e^-inf is 1e-38 by this `exp`; what is not seen must weigh nothing.
                w[..from].fill(0.0);
                w[to..].fill(0.0);
            }
        }
        let d = t.decay.as_mut_ptr();
        S::store(d, exp::<S>(S::load(d)));
        for r in 0..n {
            let (p, l) = (t.weights[r].as_ptr(), t.partials.add(r * t.stride + LANES));
            let sum = S::add(S::load(p), S::load(p.add(LANES)));
            S::store(l, S::fma(S::load(l), S::splat(t.decay[r]), sum));
        }
    }
}

/// Adds the values of the keys that each query sees. Keys that all queries see go through one pass, those before and
/// after through passes of the queries that see the same keys; a query's keys ascend throughout.
#[inline(always)]
pub(crate) unsafe fn weigh<S: Width, V: KvFormat>(t: &mut Tile, n: usize) {
    // Positions ascend with the queries, so both ends of what they see do.
    let (mut from, mut to) = (t.seen[n - 1].0, t.seen[0].1);
    if from >= to {
        (from, to) = (BLOCK_LEN, BLOCK_LEN);
    }
    let ragged = t.seen[0] != t.seen[n - 1];
    for pass in if ragged { 0..3 } else { 1..2 } {
        let mut r = 0;
        while r < n {
            let seen = t.seen[r];
            let (keys, same) = match pass {
                0 => ((seen.0, seen.1.min(from)), t.seen[r..n].iter().take_while(|s| **s == seen).count()),
                1 => ((from, to), n),
                _ => ((seen.0.max(to), seen.1), t.seen[r..n].iter().take_while(|s| **s == seen).count()),
            };
            if keys.0 < keys.1 {
                // SAFETY: passed on.
                unsafe { by_count!(same, values::<S, V>(t, r, keys)) };
                t.decay[r..r + same].fill(1.0);
            }
            r += same;
        }
    }
}

#[inline(always)]
pub unsafe fn attend<S: Width>(
    a: &Attend<'_>,
    partition: usize,
    partials: &mut [f32],
    scores: TileFn,
    weigh: TileFn,
) {
    let (layout, group) = (a.layout, a.group);
    let stride = partial_len(layout.head_dim);
    debug_assert!(partition <= LIMIT, "partition {partition}");
    if partition > LIMIT || !a.begin(partials) {
        return;
    }
    let head = |position: usize| {
        let block = *a.table.get(position / BLOCK_LEN)?;
        a.cache.get(layout.head(block, a.kv_head)).map(<[u8]>::as_ptr)
    };
    let mut t = Tile::new(a, stride);
    let first = partition * PARTITION_LEN;
    for tile in (first..first + PARTITION_LEN).step_by(BLOCK_LEN) {
        let rows = a.rows_seeing(tile);
        if rows.is_empty() {
            continue;
        }
        let Some(keys) = head(tile) else {
            debug_assert!(false, "position {tile} has no block");
            continue;
        };
        t.head = keys;
        t.partials = partials[rows.start * group * stride..].as_mut_ptr();
        t.ahead = head(tile + BLOCK_LEN).unwrap_or(keys);
        let (mut row, mut g) = (rows.start, 0);
        let mut left = rows.len() * group;
        let mut tiles = left.div_ceil(S::QUERIES);
        while left > 0 {
            let n = left.div_ceil(tiles);
            for r in 0..n {
                t.q[r] = a.q[row * a.q_stride + g * layout.head_dim..].as_ptr();
                t.place(a, r, row, g, tile);
                g += 1;
                if g == group {
                    (row, g) = (row + 1, 0);
                }
            }
            // SAFETY: by `begin`, queries and partials have their elements; `keys` starts a head of a block.
            unsafe {
                scores(&mut t, n);
                softmax::<S>(&mut t, n, a);
                weigh(&mut t, n);
            }
            t.partials = t.partials.wrapping_add(n * stride);
            t.ahead = keys; // fetched once
            left -= n;
            tiles -= 1;
        }
    }
}

#[inline(always)]
pub unsafe fn merge<S: Simd>(head_dim: usize, partials: &mut [f32], next: &[f32]) {
    let stride = partial_len(head_dim);
    debug_assert!(partials.len() == next.len() && partials.len().is_multiple_of(stride));
    for (a, b) in partials.chunks_exact_mut(stride).zip(next.chunks_exact(stride)) {
        if b[1] == 0.0 {
            continue;
        }
        if a[1] == 0.0 {
            a.copy_from_slice(b);
            continue;
        }
        let m = if b[0] > a[0] { b[0] } else { a[0] };
        let mut e = [0.0; LANES];
        (e[0], e[1]) = (a[0] - m, b[0] - m);
        a[0] = m;
        // SAFETY: both have `stride` elements, whole vectors; `l` and `o` follow the first.
        unsafe {
            S::store(e.as_mut_ptr(), exp::<S>(S::load(e.as_ptr())));
            let (ea, eb) = (S::splat(e[0]), S::splat(e[1]));
            for i in (LANES..stride).step_by(LANES) {
                let p = a.as_mut_ptr().add(i);
                S::store(p, S::fma(S::load(b.as_ptr().add(i)), eb, S::mul(S::load(p), ea)));
            }
        }
    }
}

#[inline(always)]
pub unsafe fn finish<S: Simd>(
    head_dim: usize,
    group: usize,
    partials: &[f32],
    sinks: Option<&[f32]>,
    out: &mut [f32],
    stride: usize,
) {
    let len = partial_len(head_dim);
    debug_assert!(partials.len().is_multiple_of(len * group) && sinks.is_none_or(|s| s.len() == group));
    let (mut row, mut g) = (0, 0);
    for p in partials.chunks_exact(len) {
        let at = row * stride + g * head_dim;
        let Some(out) = out.get_mut(at..).and_then(|o| o.get_mut(..head_dim)) else {
            debug_assert!(false, "row {row}, head {g} do not fit the output");
            return;
        };
        // SAFETY: `p` is whole vectors, `out` has `head_dim` elements.
        unsafe {
            let mut sum = S::sum(S::load(p.as_ptr().add(LANES)));
            if let Some(sink) = sinks.and_then(|s| s.get(g)) {
                let mut e = [0.0; LANES];
                S::store(e.as_mut_ptr(), exp::<S>(S::splat(sink - p[0])));
                sum += e[0];
            }
            let inv = if p[1] == 0.0 { 0.0 } else { 1.0 / sum };
            for i in (0..head_dim).step_by(LANES) {
                let v = S::mul(S::load(p.as_ptr().add(PARTIAL_HEAD + i)), S::splat(inv));
                store_n::<S>(out.as_mut_ptr().add(i), v, head_dim - i);
            }
        }
        g += 1;
        if g >= group {
            (row, g) = (row + 1, 0);
        }
    }
}
