//! The attention kernel.
#![allow(clippy::needless_range_loop)] // several arrays are walked side by side

use super::{Attend, BLOCK_LEN, KvElem, LIMIT, PARTIAL_HEAD, PARTITION_LEN, partial_len};
use crate::ops::lanes::{store_n, tanh};
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
impl Width for crate::simd::Avx2 {
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
impl<D: crate::simd::Dot> Width for crate::simd::Lanes<D> {
    const SUMS: usize = 6;
    const QUERIES: usize = 6;
}

/// `acc[r] += sum over t of x[r][t] * b[t]`, `b`'s rows being `C` vectors, `t` ascending.
#[inline(always)]
unsafe fn panel<S: Simd, E: KvElem, const N: usize, const C: usize>(
    acc: &mut [[S::F; C]; N],
    x: &[*const f32; MAX_QUERIES],
    b: *const E,
    b_stride: usize,
    ahead: *const E,
    len: usize,
) {
    // SAFETY: each `x` has `len` elements, `b` has `len` rows.
    unsafe {
        for t in 0..len {
            S::prefetch(ahead.wrapping_add(t * b_stride).cast());
            let mut v = [S::zero(); C];
            for c in 0..C {
                v[c] = E::load::<S>(b.add(t * b_stride + LANES * c));
            }
            for r in 0..N {
                let w = S::splat(*x[r].add(t));
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

/// Up to [`MAX_QUERIES`] queries at work on one tile of 32 keys.
#[repr(align(64))]
pub(crate) struct Tile<E> {
    /// Scores, then weights.
    pub(crate) weights: [[f32; BLOCK_LEN]; MAX_QUERIES],
    /// What the earlier weights and values are multiplied by, since the largest score has grown.
    pub(crate) decay: [f32; LANES],
    /// The queries.
    q: [*const f32; MAX_QUERIES],
    /// The keys that each query sees: `from..to` within the tile, never empty.
    pub(crate) seen: [(usize, usize); MAX_QUERIES],
    /// First query's partial result, and floats from one to the next.
    pub(crate) partials: *mut f32,
    stride: usize,
    /// The head: its keys, `[head_dim, BLOCK_LEN]`, then its values, `[BLOCK_LEN, v_stride]`.
    keys: *const E,
    /// The head of the tile that comes next, to be fetched.
    ahead: *const E,
    head_dim: usize,
    v_stride: usize,
}

impl<E: KvElem> Tile<E> {
    /// The tile of a head's `keys`, without queries yet, with partial results `stride` floats apart.
    pub(crate) fn new(a: &Attend<'_, E>, stride: usize, keys: *const E) -> Self {
        Tile {
            weights: [[0.0; BLOCK_LEN]; MAX_QUERIES],
            decay: [0.0; LANES],
            q: [a.q.as_ptr(); MAX_QUERIES],
            seen: [(0, 0); MAX_QUERIES],
            partials: std::ptr::null_mut(),
            stride,
            keys,
            ahead: keys,
            head_dim: a.layout.head_dim,
            v_stride: a.layout.v_stride(),
        }
    }
}

/// `weights[r] = scale * q[r] . k` for the 32 keys of a tile.
#[inline(always)]
unsafe fn scores<S: Width, E: KvElem, const N: usize>(t: &mut Tile<E>, scale: f32) {
    // SAFETY: passed on.
    unsafe {
        if 2 * N <= S::SUMS {
            dots::<S, E, N, 2>(t, 0, scale);
        } else {
            dots::<S, E, N, 1>(t, 0, scale);
            dots::<S, E, N, 1>(t, LANES, scale);
        }
    }
}

/// [`scores`] of `C` vectors of keys from `key` on.
#[inline(always)]
unsafe fn dots<S: Simd, E: KvElem, const N: usize, const C: usize>(t: &mut Tile<E>, key: usize, scale: f32) {
    // SAFETY: queries have `head_dim` elements, the tile `head_dim` rows of 32 keys.
    unsafe {
        let mut acc = [[S::zero(); C]; N];
        panel::<S, E, N, C>(
            &mut acc,
            &t.q,
            t.keys.add(key),
            BLOCK_LEN,
            t.ahead.wrapping_add(key),
            t.head_dim,
        );
        for r in 0..N {
            for c in 0..C {
                let p = t.weights[r].as_mut_ptr().add(key + LANES * c);
                S::store(p, S::mul(acc[r][c], S::splat(scale)));
            }
        }
    }
}

/// `o[r] = o[r] * decay[r] + sum over the tile's keys from..to of weights[r][key] * value[key]`, for the queries from
/// `first` on.
#[inline(always)]
unsafe fn values<S: Width, E: KvElem, const N: usize>(t: &Tile<E>, first: usize, keys: (usize, usize)) {
    // SAFETY: passed on.
    unsafe {
        let mut d = 0;
        while 2 * N <= S::SUMS && d + 2 * LANES <= t.v_stride {
            sums::<S, E, N, 2>(t, first, keys, d);
            d += 2 * LANES;
        }
        while d < t.v_stride {
            sums::<S, E, N, 1>(t, first, keys, d);
            d += LANES;
        }
    }
}

/// [`values`] for `C` vectors of elements from `d` on.
#[inline(always)]
unsafe fn sums<S: Simd, E: KvElem, const N: usize, const C: usize>(
    t: &Tile<E>,
    first: usize,
    (from, to): (usize, usize),
    d: usize,
) {
    // SAFETY: partials and value rows have `v_stride` elements, a multiple of 16; `to <= 32`.
    unsafe {
        let mut w = [std::ptr::null(); MAX_QUERIES];
        let mut acc = [[S::zero(); C]; N];
        let o = t.partials.add(first * t.stride + PARTIAL_HEAD + d);
        for r in 0..N {
            w[r] = t.weights[first + r].as_ptr().add(from);
            for c in 0..C {
                acc[r][c] = S::mul(S::load(o.add(r * t.stride + LANES * c)), S::splat(t.decay[first + r]));
            }
        }
        let at = BLOCK_LEN * t.head_dim + from * t.v_stride + d;
        panel::<S, E, N, C>(&mut acc, &w, t.keys.add(at), t.v_stride, t.ahead.wrapping_add(at), to - from);
        for r in 0..N {
            for c in 0..C {
                S::store(o.add(r * t.stride + LANES * c), acc[r][c]);
            }
        }
    }
}

/// Turns scores into weights and updates `m` and `l` of `n` queries.
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd, E>(t: &mut Tile<E>, n: usize, softcap: Option<f32>) {
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
unsafe fn weigh<S: Width, E: KvElem>(t: &mut Tile<E>, n: usize) {
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
                unsafe { by_count!(same, values::<S, E>(t, r, keys)) };
                t.decay[r..r + same].fill(1.0);
            }
            r += same;
        }
    }
}

#[inline(always)]
pub unsafe fn attend<S: Width, E: KvElem>(a: &Attend<'_, E>, partition: usize, partials: &mut [f32]) {
    let (layout, group) = (a.layout, a.group);
    let stride = partial_len(layout.head_dim);
    debug_assert!(partition <= LIMIT, "partition {partition}");
    if partition > LIMIT || !a.begin(partials) {
        return;
    }
    let head = |position: usize| {
        let block = *a.table.get(position / BLOCK_LEN)?;
        a.cache.get(layout.head(block, a.kv_head)).map(<[E]>::as_ptr)
    };
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
        let mut t = Tile::new(a, stride, keys);
        t.partials = partials[rows.start * group * stride..].as_mut_ptr();
        t.ahead = head(tile + BLOCK_LEN).unwrap_or(keys);
        let (mut row, mut g) = (rows.start, 0);
        let mut left = rows.len() * group;
        let mut tiles = left.div_ceil(S::QUERIES);
        while left > 0 {
            let n = left.div_ceil(tiles);
            for r in 0..n {
                t.q[r] = a.q[row * a.q_stride + g * layout.head_dim..].as_ptr();
                t.seen[r] = a.seen(row, tile);
                g += 1;
                if g == group {
                    (row, g) = (row + 1, 0);
                }
            }
            // SAFETY: by `begin`, queries and partials have their elements; `keys` starts a head of a block.
            unsafe {
                by_count!(n, scores::<S, E>(&mut t, a.scale));
                softmax::<S, E>(&mut t, n, a.softcap);
                weigh::<S, E>(&mut t, n);
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
    out: &mut [f32],
    stride: usize,
) {
    let len = partial_len(head_dim);
    debug_assert!(partials.len().is_multiple_of(len * group));
    let (mut row, mut g) = (0, 0);
    for p in partials.chunks_exact(len) {
        let at = row * stride + g * head_dim;
        let Some(out) = out.get_mut(at..).and_then(|o| o.get_mut(..head_dim)) else {
            debug_assert!(false, "row {row}, head {g} do not fit the output");
            return;
        };
        // SAFETY: `p` is whole vectors, `out` has `head_dim` elements.
        unsafe {
            let inv = if p[1] == 0.0 { 0.0 } else { 1.0 / S::sum(S::load(p.as_ptr().add(LANES))) };
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
