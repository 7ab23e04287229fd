//! Attention of prompt rows on tiles: scores and weighted sums in bf16 with f32 sums, the softmax between them in f32.
//!
//! Tiles and partitions of keys, partial results and their merge are those of [`crate::ops`]. A query's row of a tile product
//! depends on no other row, and keys that it does not see have weight 0, so its bits do not depend on its neighbours here either.

use super::tile::{TileConfig, release, tile_dot_bf16, tile_load, tile_store, tile_zero};
use super::weights::{TILE, pair};
use crate::ops::attn::{
    Attend, BLOCK_LEN, Bf16, F16, F32, KvFormat, KvType, LIMIT, PARTIAL_HEAD, PARTITION_LEN, Q4_0, Q8_0,
    SCALES, Tile, UNIT, partial_len, softmax,
};
use crate::simd::{Avx512Vnni, LANES, Simd};
use std::arch::x86_64::*;

/// Queries of a tile.
const QUERIES: usize = 16;
/// Tiles of output dimensions that are computed together.
const OUT: usize = 4;

/// Floats of working memory for `queries` queries.
pub(super) fn scratch_len(head_dim: usize, queries: usize) -> usize {
    let (k, v) = (2 * head_dim.div_ceil(32), head_dim.div_ceil(LANES));
    (queries + QUERIES) * head_dim.next_multiple_of(32) / 2 + (k + v + 1 + OUT) * TILE / 4
}

/// Calls `$f` for the format of a type.
macro_rules! by_type {
    ($kind:expr, $f:ident($($arg:expr),*)) => {
        match $kind {
            KvType::F32 => $f::<F32>($($arg),*),
            KvType::F16 => $f::<F16>($($arg),*),
            KvType::Bf16 => $f::<Bf16>($($arg),*),
            KvType::Q8_0 => $f::<Q8_0>($($arg),*),
            KvType::Q4_0 => $f::<Q4_0>($($arg),*),
        }
    };
}

/// [`crate::ops::Ops::attend`] on tiles.
///
/// # Safety
/// [`super::tile::available`] returned true, and the CPU has AVX-512 as [`Avx512Vnni`]. `scratch` is aligned to 64 bytes.
#[inline(always)]
pub(super) unsafe fn attend(a: &Attend<'_>, partition: usize, partials: &mut [f32], scratch: &mut [f32]) {
    type S = Avx512Vnni;
    let (layout, group, head_dim) = (a.layout, a.group, a.layout.head_dim);
    let (stride, v_stride) = (partial_len(head_dim), layout.v_stride());
    let roomy = scratch.len() >= scratch_len(head_dim, a.queries());
    debug_assert!(roomy, "{} floats of working memory for {} queries", scratch.len(), a.queries());
    if !roomy || partition > LIMIT || !a.begin(partials) {
        return;
    }
    let (k_tiles, v_tiles) = (head_dim.div_ceil(32), head_dim.div_ceil(LANES));
    let q_len = 32 * k_tiles;
    // SAFETY: by the checks above, `scratch` holds in turn the queries and a tile's worth more, the tiles of 32 keys, those of their
    // values, the weights, and `OUT` tiles of sums; queries, blocks and partials have their elements.
    unsafe {
        let q = scratch.as_mut_ptr().cast::<u16>();
        let k = q.add((a.queries() + QUERIES) * q_len).cast::<u8>();
        let v = k.add(2 * k_tiles * TILE);
        let weights = v.add(v_tiles * TILE);
        let sums = weights.add(TILE);
        for row in 0..a.rows {
            for g in 0..group {
                let from = a.q.as_ptr().add(row * a.q_stride + g * head_dim);
                bf16_row(from, head_dim, a.scale, q.add((row * group + g) * q_len));
            }
        }
        TileConfig::load();
        let mut t = Tile::new(a, stride);
        let first = partition * PARTITION_LEN;
        for position in (first..first + PARTITION_LEN).step_by(BLOCK_LEN) {
            let rows = a.rows_seeing(position);
            let head =
                a.table.get(position / BLOCK_LEN).and_then(|&b| a.cache.get(layout.head(b, a.kv_head)));
            let (false, Some(head)) = (rows.is_empty(), head) else { continue };
            // Behind the last row's own key lies what another sequence left.
            let live = (a.end() - position).min(BLOCK_LEN);
            let (keys, first_value) = (head.as_ptr(), head.as_ptr().add(layout.keys_bytes()));
            by_type!(layout.types.k, key_tiles(keys, head_dim, k));
            by_type!(layout.types.v, value_tiles(first_value, head_dim, v_stride, live, v));
            let (mut query, end) = (rows.start * group, rows.end * group);
            while query < end {
                let n = QUERIES.min(end - query);
                for r in 0..n {
                    t.place(a, r, (query + r) / group, (query + r) % group, position);
                }
                t.partials = partials.as_mut_ptr().add(query * stride);
                scores(q.add(query * q_len).cast(), 2 * q_len, k, k_tiles, t.weights.as_mut_ptr().cast());
                softmax::<S>(&mut t, n, a);
                for (r, w) in t.weights.iter().enumerate() {
                    let w = w.as_ptr();
                    let w = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(w.add(16)), _mm512_loadu_ps(w));
                    _mm512_storeu_si512(
                        weights.add(64 * r).cast(),
                        std::mem::transmute::<__m512bh, __m512i>(w),
                    );
                }
                let mut d = 0;
                while d < v_tiles {
                    let count = OUT.min(v_tiles - d);
                    values(weights, v.add(d * TILE), count, sums);
                    for r in 0..n {
                        let o = t.partials.add(r * stride + PARTIAL_HEAD + d * LANES);
                        let decay = S::splat(t.decay[r]);
                        for i in 0..count {
                            let o = o.add(LANES * i);
                            let sum = S::load(sums.add(i * TILE + 64 * r).cast());
                            S::store(o, S::fma(S::load(o), decay, sum));
                        }
                    }
                    d += count;
                }
                query += n;
            }
        }
        release();
    }
}

/// `scale * x`, rounded to bf16 and padded with zeros to a multiple of 32.
#[inline(always)]
unsafe fn bf16_row(x: *const f32, len: usize, scale: f32, out: *mut u16) {
    // SAFETY: `len` floats at `x`, a multiple of 32 elements from `len` on at `out`, aligned.
    unsafe {
        let scale = _mm512_set1_ps(scale);
        for i in (0..len).step_by(32) {
            let half = |left: usize| if left >= 16 { 0xffff } else { (1u16 << left) - 1 };
            let (low, high) = (half(len - i), half((len - i).saturating_sub(16)));
            let low = _mm512_maskz_loadu_ps(low, x.wrapping_add(i));
            let high = _mm512_maskz_loadu_ps(high, x.wrapping_add(i + 16));
            let v = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scale), _mm512_mul_ps(low, scale));
            _mm512_storeu_si512(out.add(i).cast(), std::mem::transmute::<__m512bh, __m512i>(v));
        }
    }
}

/// Keys, a unit per dimension, as second factors: tile `2 c + h` holds dimensions `32 c ..` of keys `16 h ..`.
#[inline(always)]
unsafe fn key_tiles<K: KvFormat>(keys: *const u8, head_dim: usize, out: *mut u8) {
    type S = Avx512Vnni;
    // SAFETY: `head_dim` units of 32 keys, and the scales of each 32 dimensions; sixteen vectors to a tile.
    unsafe {
        for c in 0..head_dim.div_ceil(UNIT) {
            let mut scale = [S::zero(); 2];
            if K::SCALED {
                let at = keys.add(head_dim * K::UNIT_BYTES + c * SCALES).cast::<u16>();
                scale = [S::load_f16(at), S::load_f16(at.add(LANES))];
            }
            for i in 0..16 {
                let mut v = [[S::zero(); 2]; 2];
                for (j, v) in v.iter_mut().enumerate() {
                    let d = UNIT * c + 2 * i + j;
                    if d < head_dim {
                        *v = K::load::<S, 2>(keys.add(d * K::UNIT_BYTES), 0);
                        if K::SCALED {
                            *v = [S::mul(v[0], scale[0]), S::mul(v[1], scale[1])];
                        }
                    }
                }
                let out = out.add(2 * c * TILE + 64 * i);
                _mm512_storeu_si512(out.cast(), pair(v[0][0], v[1][0]));
                _mm512_storeu_si512(out.add(TILE).cast(), pair(v[0][1], v[1][1]));
            }
        }
    }
}

/// Values, 32 rows `v_stride` bytes apart, as second factors: a tile per sixteen dimensions. Rows from `live` on count as zero.
#[inline(always)]
unsafe fn value_tiles<V: KvFormat>(
    values: *const u8,
    head_dim: usize,
    v_stride: usize,
    live: usize,
    out: *mut u8,
) {
    type S = Avx512Vnni;
    // SAFETY: 32 rows of whole vectors, and their scales of each 32 dimensions; sixteen vectors to a tile.
    unsafe {
        for c in 0..head_dim.div_ceil(UNIT) {
            let whole = UNIT * c + LANES < head_dim;
            let mut scales = [0f32; BLOCK_LEN];
            if V::SCALED {
                let at = values.add(BLOCK_LEN * v_stride + c * SCALES).cast::<u16>();
                S::store(scales.as_mut_ptr(), S::load_f16(at));
                S::store(scales.as_mut_ptr().add(LANES), S::load_f16(at.add(LANES)));
            }
            for i in 0..16 {
                let mut v = [[S::zero(); 2]; 2];
                for (j, v) in v.iter_mut().enumerate() {
                    let row = 2 * i + j;
                    if row < live {
                        let unit = values.add(row * v_stride + c * V::UNIT_BYTES);
                        if whole {
                            *v = V::load::<S, 2>(unit, 0);
                        } else {
                            v[0] = V::load::<S, 1>(unit, 0)[0];
                        }
                        if V::SCALED {
                            let scale = S::splat(scales[row]);
                            *v = [S::mul(v[0], scale), S::mul(v[1], scale)];
                        }
                    }
                }
                let out = out.add(2 * c * TILE + 64 * i);
                _mm512_storeu_si512(out.cast(), pair(v[0][0], v[1][0]));
                if whole {
                    _mm512_storeu_si512(out.add(TILE).cast(), pair(v[0][1], v[1][1]));
                }
            }
        }
    }
}

/// Scores of sixteen queries, `q_stride` bytes apart, with 32 keys: `[16][32]`.
#[inline(always)]
unsafe fn scores(q: *const u8, q_stride: usize, k: *const u8, k_tiles: usize, out: *mut u8) {
    // SAFETY: sixteen rows of queries, `2 k_tiles` tiles of keys, room for the scores; the tiles are configured.
    unsafe {
        tile_zero!(0);
        tile_zero!(1);
        for c in 0..k_tiles {
            tile_load!(4, q.add(64 * c), q_stride);
            tile_load!(5, k.add(2 * c * TILE), 64usize);
            tile_dot_bf16!(0, 4, 5);
            tile_load!(6, k.add((2 * c + 1) * TILE), 64usize);
            tile_dot_bf16!(1, 4, 6);
        }
        tile_store!(0, out, 4 * BLOCK_LEN);
        tile_store!(1, out.add(64), 4 * BLOCK_LEN);
    }
}

/// Weighted sums of sixteen queries for up to [`OUT`] tiles of dimensions.
#[inline(always)]
unsafe fn values(weights: *const u8, v: *const u8, count: usize, out: *mut u8) {
    // SAFETY: a tile of weights, `count` tiles of values, as many of sums; the tiles are configured.
    unsafe {
        tile_load!(4, weights, 64usize);
        macro_rules! sum {
            ($i:literal, $v:literal) => {
                if count > $i {
                    tile_zero!($i);
                    tile_load!($v, v.add($i * TILE), 64usize);
                    tile_dot_bf16!($i, 4, $v);
                }
            };
        }
        sum!(0, 5);
        sum!(1, 6);
        sum!(2, 7);
        sum!(3, 5);
        macro_rules! store {
            ($i:literal) => {
                if count > $i {
                    tile_store!($i, out.add($i * TILE), 64usize);
                }
            };
        }
        store!(0);
        store!(1);
        store!(2);
        store!(3);
    }
}
