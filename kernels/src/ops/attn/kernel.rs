//! The attention kernel.
#![allow(clippy::needless_range_loop)] // several arrays are walked side by side

use super::{Attend, BLOCK_LEN, KvElem, LIMIT, PARTITION_LEN, partial_len};
use crate::ops::lanes::{store_n, tanh};
use crate::simd::{LANES, Scalar, Simd, exp};

/// Most queries that share the loads of a tile of keys.
const MAX_QUERIES: usize = 8;

/// How many queries an instruction set computes at once.
pub trait Width: Simd {
    /// Queries whose sums, two vectors each, fit the registers beside the shared operands; at most [`MAX_QUERIES`].
    const QUERIES: usize;
}

impl Width for Scalar {
    const QUERIES: usize = 4;
}

#[cfg(target_arch = "x86_64")]
impl Width for crate::simd::Avx2 {
    const QUERIES: usize = 3;
}

#[cfg(target_arch = "x86_64")]
impl Width for crate::simd::Avx512Vnni {
    const QUERIES: usize = MAX_QUERIES;
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
            4 if $s::QUERIES >= 4 => $f::<$s, $e, 4>($($arg),*),
            5 if $s::QUERIES >= 5 => $f::<$s, $e, 5>($($arg),*),
            6 if $s::QUERIES >= 6 => $f::<$s, $e, 6>($($arg),*),
            7 if $s::QUERIES >= 7 => $f::<$s, $e, 7>($($arg),*),
            8 if $s::QUERIES >= 8 => $f::<$s, $e, 8>($($arg),*),
            _ => {}
        }
    };
}

/// `weights[r] = scale * q[r] . k` for the 32 keys of a tile.
#[inline(always)]
unsafe fn scores<S: Simd, E: KvElem, const N: usize>(
    q: &[*const f32; MAX_QUERIES],
    keys: *const E,
    ahead: *const E,
    head_dim: usize,
    scale: f32,
    weights: &mut [[f32; BLOCK_LEN]; MAX_QUERIES],
) {
    // SAFETY: queries have `head_dim` elements, the tile `head_dim` rows of 32 keys.
    unsafe {
        let mut acc = [[S::zero(); 2]; N];
        panel::<S, E, N, 2>(&mut acc, q, keys, BLOCK_LEN, ahead, head_dim);
        for r in 0..N {
            for c in 0..2 {
                S::store(weights[r].as_mut_ptr().add(LANES * c), S::mul(acc[r][c], S::splat(scale)));
            }
        }
    }
}

/// `o[r] = o[r] * decay[r] + sum over the tile's keys from..to of weights[r][key] * value[key]`, for the queries from
/// `first` on.
#[inline(always)]
unsafe fn values<S: Simd, E: KvElem, const N: usize>(
    t: &mut Tile,
    first: usize,
    v: *const E,
    keys: (usize, usize),
) {
    let (from, to) = keys;
    // SAFETY: the partials and value rows have `v_stride` elements, a multiple of 16; `to <= 32`.
    unsafe {
        let mut w = [std::ptr::null(); MAX_QUERIES];
        for r in 0..N {
            w[r] = t.weights[first + r].as_ptr().add(from);
        }
        let o = t.partials.add(first * t.stride + LANES);
        let (v, len) = (v.add(from * t.v_stride), to - from);
        let mut d = 0;
        while d + 2 * LANES <= t.v_stride {
            let mut acc = [[S::zero(); 2]; N];
            for r in 0..N {
                for c in 0..2 {
                    let p = o.add(r * t.stride + d + LANES * c);
                    acc[r][c] = S::mul(S::load(p), S::splat(t.decay[first + r]));
                }
            }
            panel::<S, E, N, 2>(&mut acc, &w, v.add(d), t.v_stride, v.add(d), len);
            for r in 0..N {
                for c in 0..2 {
                    S::store(o.add(r * t.stride + d + LANES * c), acc[r][c]);
                }
            }
            d += 2 * LANES;
        }
        if d < t.v_stride {
            let mut acc = [[S::zero(); 1]; N];
            for r in 0..N {
                acc[r][0] = S::mul(S::load(o.add(r * t.stride + d)), S::splat(t.decay[first + r]));
            }
            panel::<S, E, N, 1>(&mut acc, &w, v.add(d), t.v_stride, v.add(d), len);
            for r in 0..N {
                S::store(o.add(r * t.stride + d), acc[r][0]);
            }
        }
    }
}

/// Up to [`MAX_QUERIES`] queries at work on one tile of 32 keys.
struct Tile {
    /// Scores, then weights.
    weights: [[f32; BLOCK_LEN]; MAX_QUERIES],
    /// The keys that each query sees: `from..to` within the tile, never empty.
    seen: [(usize, usize); MAX_QUERIES],
    /// What the earlier weights and values are multiplied by, since the largest score has grown.
    decay: [f32; LANES],
    /// First query's partial result.
    partials: *mut f32,
    /// Floats from one query's partial result to the next.
    stride: usize,
    /// Floats of `o`.
    v_stride: usize,
}

/// Turns scores into weights and updates `m` and `l` of `n` queries.
#[inline(always)]
unsafe fn softmax<S: Simd>(t: &mut Tile, n: usize, softcap: Option<f32>) {
    // SAFETY: `n <= MAX_QUERIES`, and each partial starts with `m` and `l`.
    unsafe {
        let mut sums = [0.0; MAX_QUERIES];
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
            let top = S::splat(top);
            let (mut a, mut b) = (exp::<S>(S::sub(a, top)), exp::<S>(S::sub(b, top)));
            S::store(p, a);
            S::store(p.add(LANES), b);
            if !whole {
                // e^-inf is 1e-38 by this `exp`; what is not seen must weigh nothing.
                w[..from].fill(0.0);
                w[to..].fill(0.0);
                (a, b) = (S::load(p), S::load(p.add(LANES)));
            }
            sums[r] = S::sum(S::add(a, b));
        }
        let d = t.decay.as_mut_ptr();
        S::store(d, exp::<S>(S::load(d)));
        for r in 0..n {
            let l = t.partials.add(r * t.stride + 1);
            *l = *l * t.decay[r] + sums[r];
        }
    }
}

/// Adds the values of the keys that each query sees. Keys that all queries see go through one pass, the others
/// through passes of the queries that see the same keys; a query's keys ascend throughout.
#[inline(always)]
unsafe fn weigh<S: Width, E: KvElem>(t: &mut Tile, n: usize, v: *const E) {
    // SAFETY: passed on.
    unsafe {
        // Positions ascend with the queries, so both ends of what they see do.
        let (mut from, mut to) = (t.seen[n - 1].0, t.seen[0].1);
        if from >= to {
            (from, to) = (BLOCK_LEN, BLOCK_LEN);
        }
        let ragged = t.seen[0] != t.seen[n - 1];
        if ragged {
            runs::<S, E>(t, n, v, |seen| (seen.0, seen.1.min(from)));
        }
        by_count!(n, values::<S, E>(t, 0, v, (from, to)));
        if ragged {
            t.decay = [1.0; LANES];
            runs::<S, E>(t, n, v, |seen| (seen.0.max(to), seen.1));
        }
    }
}

/// For each run of queries that see the same keys: adds the part of them that `part` gives, if any.
#[inline(always)]
unsafe fn runs<S: Width, E: KvElem>(
    t: &mut Tile,
    n: usize,
    v: *const E,
    part: impl Fn((usize, usize)) -> (usize, usize),
) {
    let mut r = 0;
    while r < n {
        let seen = t.seen[r];
        let same = t.seen[r..n].iter().take_while(|s| **s == seen).count();
        let keys = part(seen);
        if keys.0 < keys.1 {
            // SAFETY: passed on.
            unsafe { by_count!(same, values::<S, E>(t, r, v, keys)) };
            t.decay[r..r + same].fill(1.0);
        }
        r += same;
    }
}

#[inline(always)]
pub unsafe fn attend<S: Width, E: KvElem>(a: &Attend<'_, E>, partition: usize, partials: &mut [f32]) {
    let (layout, group) = (a.layout, a.group);
    let (stride, v_stride) = (partial_len(layout.head_dim), layout.v_stride());
    let fits = a.fits(partials.len()) && partition <= LIMIT;
    debug_assert!(fits, "slices do not fit {} rows of {group} in {layout:?}", a.rows);
    if !fits {
        return;
    }
    for p in partials[..a.queries() * stride].chunks_exact_mut(stride) {
        p.fill(0.0);
        p[0] = f32::NEG_INFINITY;
    }
    let head = |position: usize| {
        let block = *a.table.get(position / BLOCK_LEN)?;
        a.cache.get(layout.head(block, a.kv_head)).map(<[E]>::as_ptr)
    };
    let first = partition * PARTITION_LEN;
    for tile in (first..first + PARTITION_LEN).step_by(BLOCK_LEN) {
        // Rows that see some key of the tile: neither all before it nor all a window past it.
        let rows = (tile.saturating_sub(a.start)).min(a.rows)..a.rows;
        let rows = rows.start..a.window.map_or(a.rows, |w| {
            if w == 0 {
                0
            } else {
                (tile + BLOCK_LEN - 1).saturating_add(w).saturating_sub(a.start).min(a.rows)
            }
        });
        if rows.is_empty() {
            continue;
        }
        let Some(keys) = head(tile) else {
            debug_assert!(false, "position {tile} has no block");
            continue;
        };
        let next = head(tile + BLOCK_LEN).unwrap_or(keys);
        let (mut j, end) = (rows.start * group, rows.end * group);
        let mut tiles = (end - j).div_ceil(S::QUERIES);
        while j < end {
            let n = (end - j).div_ceil(tiles);
            tiles -= 1;
            let mut q = [a.q.as_ptr(); MAX_QUERIES];
            let mut t = Tile {
                weights: [[0.0; BLOCK_LEN]; MAX_QUERIES],
                seen: [(0, 0); MAX_QUERIES],
                decay: [0.0; LANES],
                partials: partials[j * stride..].as_mut_ptr(),
                stride,
                v_stride,
            };
            for r in 0..n {
                let (row, g) = ((j + r) / group, (j + r) % group);
                q[r] = a.q[row * a.q_stride + g * layout.head_dim..].as_ptr();
                let seen = a.visible(a.start + row);
                t.seen[r] = (seen.start.saturating_sub(tile), (seen.end - tile).min(BLOCK_LEN));
            }
            // SAFETY: by `fits`, queries and partials have their elements; `keys` starts a head of a block.
            unsafe {
                let v = keys.add(BLOCK_LEN * layout.head_dim);
                by_count!(n, scores::<S, E>(&q, keys, next, layout.head_dim, a.scale, &mut t.weights));
                softmax::<S>(&mut t, n, a.softcap);
                weigh::<S, E>(&mut t, n, v);
            }
            j += n;
        }
    }
}

#[inline(always)]
pub unsafe fn merge<S: Simd>(head_dim: usize, partials: &mut [f32], next: &[f32]) {
    let stride = partial_len(head_dim);
    debug_assert!(partials.len() == next.len() && partials.len().is_multiple_of(stride));
    for (a, b) in partials.chunks_exact_mut(stride).zip(next.chunks_exact(stride)) {
        // A partial is empty exactly if its weights add up to nothing: the largest of them is 1.
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
        // SAFETY: both have `stride` elements, whole vectors.
        unsafe {
            S::store(e.as_mut_ptr(), exp::<S>(S::load(e.as_ptr())));
            a[0] = m;
            a[1] = a[1] * e[0] + b[1] * e[1];
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
    for (j, p) in partials.chunks_exact(len).enumerate() {
        let at = j / group.max(1) * stride + j % group.max(1) * head_dim;
        let Some(out) = out.get_mut(at..).and_then(|o| o.get_mut(..head_dim)) else {
            debug_assert!(false, "query {j} does not fit the output");
            return;
        };
        let inv = if p[1] == 0.0 { 0.0 } else { 1.0 / p[1] };
        for i in (0..head_dim).step_by(LANES) {
            // SAFETY: `o` is whole vectors, `out` has `head_dim` elements.
            unsafe {
                let v = S::mul(S::load(p.as_ptr().add(LANES + i)), S::splat(inv));
                store_n::<S>(out.as_mut_ptr().add(i), v, head_dim - i);
            }
        }
    }
}
