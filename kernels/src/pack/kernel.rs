//! The matrix-product kernels: one body for all layouts and instruction sets.
//!
//! No closure may call a [`Simd`] method here: a closure, or a function of the standard library that calls it, does not take on the
//! target features of the kernel around it, and then every vector operation in it becomes a call (prefill was half as fast).
//!
//! Halves and quads are macros: a loop over them is unrolled only where the compiler finds its body small, which it does not on
//! instruction sets with several registers for sixteen lanes.
#![allow(clippy::needless_range_loop)] // register tiles: the indices are the tile's coordinates

use super::act::ActBlock;
use super::layout::{BLOCK, Facts, ROWS};
use super::panel;
use crate::simd::Simd;

/// Rows of quantised activations, row after row.
#[derive(Clone, Copy, Debug)]
pub struct QuantRows {
    /// `[rows, stride]`.
    pub q: *const i8,
    /// `[rows, stride / 32]`.
    pub meta: *const ActBlock,
    /// Columns of a row, padded; a multiple of 64.
    pub stride: usize,
}

/// How far ahead of a streaming read weights are fetched, in bytes. Without it decoding is 3 to 30 % slower; 4608 and 9216 are within 5 % of
/// the bandwidth (Zen 5). On Sapphire Rapids with DDR5, with streams of neighbours, 4608 was worse than no prefetch at all.
pub(super) const PREFETCH: usize = 2304;

/// `y[t][16 g + lane] = w . x[t]` for `T` tokens and `G` groups, each `apart` groups behind the one before.
///
/// Each output is accumulated in one order, whatever `G` and `T`: ascending scale groups, of which each half has an exact integer dot
/// product. For a group of 16 columns, `acc = fma(dot, d_w * d_x, acc)`; for one of 32, `acc = fma(fma(dot_1, d_x1, dot_0 * d_x0), d_w, acc)`,
/// a sixth fewer operations on floats. Then `acc = fnma(min_w, s_x, acc)`.
///
/// # Safety
/// The CPU has `S`. `w` points to the first of the `G` packed groups of `units` units, `x` holds `T` rows, `y` has `T` rows
/// `ldy` apart with room for the floats of these groups in each.
#[inline(always)]
unsafe fn tile<S: Simd, const L: usize, const G: usize, const T: usize>(
    w: *const u8,
    units: usize,
    x: QuantRows,
    y: *mut f32,
    ldy: usize,
    apart: usize,
    fetch: bool,
) {
    let layout = const { Facts::<L>::LAYOUT };
    let (unit_bytes, blocks) = const { (Facts::<L>::UNIT_BYTES, Facts::<L>::BLOCKS) };
    let stream = apart * units * unit_bytes;
    // SAFETY: every address below lies within the groups, rows and outputs that the caller vouches for.
    unsafe {
        let mut acc = [[S::zero(); T]; G];
        for u in 0..units {
            let mut unit = [w; G];
            for g in 0..G {
                unit[g] = w.add(g * stream + u * unit_bytes);
            }
            let (mut d, mut dmin) = ([S::zero(); G], [S::zero(); G]);
            if layout.two_level {
                for g in 0..G {
                    d[g] = load_scale::<S, L>(unit[g]);
                    if layout.min {
                        dmin[g] = S::load_f16(unit[g].add(32).cast());
                    }
                }
            }
            // What lies past the row's end is not multiplied: activations end there.
            let within = if layout.open_ended() { blocks.min(x.stride / BLOCK - u * blocks) } else { blocks };
            for b in 0..within {
                if fetch {
                    let lines = unit_bytes / blocks;
                    for g in 0..G {
                        let mut i = 0;
                        while i < lines {
                            S::prefetch(unit[g].wrapping_add(b * lines + i + PREFETCH));
                            i += 64;
                        }
                    }
                }
                if !layout.two_level {
                    for g in 0..G {
                        d[g] = load_scale::<S, L>(unit[g].add(32 * b));
                        if layout.min {
                            dmin[g] = S::load_f16(unit[g].add(64 + 32 * b).cast());
                        }
                    }
                }
                let xb = u * blocks + b;
                let (mut dv, mut mv) = ([S::zero(); G], [S::zero(); G]);
                let mut first = [[S::zero(); T]; G];
                let mut codes = unit;
                for g in 0..G {
                    codes[g] = unit[g].add(Facts::<L>::SCALE_BYTES + b * Facts::<L>::BLOCK_BYTES);
                }
                macro_rules! half {
                    ($half:literal) => {
                        let dots = dots::<S, L, $half, G, T, false>(codes, x, xb);
                        for g in 0..G {
                            if layout.two_level && (layout.group < BLOCK || $half == 0) {
                                let i = b * (BLOCK / layout.group) + $half;
                                (dv[g], mv[g]) = sub_scales::<S, L>(unit[g], i, d[g], dmin[g]);
                            } else if !layout.two_level {
                                (dv[g], mv[g]) = (d[g], dmin[g]);
                            }
                            for t in 0..T {
                                let m = &*x.meta.add(t * (x.stride / BLOCK) + xb);
                                accumulate::<S, L, $half>(
                                    &mut acc[g][t],
                                    &mut first[g][t],
                                    dots[g][t],
                                    dv[g],
                                    mv[g],
                                    m,
                                );
                            }
                        }
                    };
                }
                half!(0);
                half!(1);
            }
        }
        for g in 0..G {
            for t in 0..T {
                S::store(y.add(t * ldy + ROWS * apart * g), acc[g][t]);
            }
        }
    }
}

/// Adds the dot products of half a block, `dot`, to `acc`, in the order that [`tile`] states; `first` holds the half before.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const L: usize, const HALF: usize>(
    acc: &mut S::F,
    first: &mut S::F,
    dot: S::I,
    d_w: S::F,
    min_w: S::F,
    x: &ActBlock,
) {
    let layout = const { Facts::<L>::LAYOUT };
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let (dot, d) = (S::to_f(dot), S::splat(x.d[HALF]));
        if layout.group < BLOCK {
            *acc = S::fma(dot, S::mul(d_w, d), *acc);
            if layout.min {
                *acc = S::fnma(min_w, S::splat(x.s[HALF]), *acc);
            }
        } else if HALF == 0 {
            *first = S::mul(dot, d);
        } else {
            *acc = S::fma(S::fma(dot, d, *first), d_w, *acc);
            if layout.min {
                *acc = S::fnma(min_w, S::splat(x.s32), *acc);
            }
        }
    }
}

/// The scales of sixteen rows.
#[inline(always)]
pub(crate) unsafe fn load_scale<S: Simd, const L: usize>(p: *const u8) -> S::F {
    let layout = const { Facts::<L>::LAYOUT };
    // SAFETY: passed on.
    unsafe {
        match layout.shift {
            _ if layout.e4m3 => S::load(p.cast()),
            _ if layout.wide => S::load_bf16(p.cast()),
            0 => S::load_f16(p.cast()),
            shift => S::mul(S::load_f16(p.cast()), S::splat(1.0 / (1u32 << shift) as f32)),
        }
    }
}

/// Effective scale and minimum of one scale group of a two-level format; products with integers are exact in f32.
#[inline(always)]
pub(crate) unsafe fn sub_scales<S: Simd, const L: usize>(
    unit: *const u8,
    i: usize,
    d: S::F,
    dmin: S::F,
) -> (S::F, S::F) {
    let layout = const { Facts::<L>::LAYOUT };
    // SAFETY: scale group `i` lies within the unit.
    unsafe {
        let scales = unit.add(64 + i * ROWS);
        if layout.nibble_scales() {
            let bytes = S::load_u8(scales);
            // The high nibble as a float: floor(b / 16), exact because b / 16 - 15/32 rounds to it.
            let high = S::to_f(S::to_i(S::fma(bytes, S::splat(1.0 / 16.0), S::splat(-15.0 / 32.0))));
            let low = S::fnma(high, S::splat(16.0), bytes);
            return (S::mul(d, low), S::mul(dmin, high));
        }
        if layout.e4m3 {
            return (S::mul(d, S::load_e4m3(scales)), S::zero());
        }
        let scale = S::mul(d, S::load_i8(scales.cast()));
        if layout.min {
            (scale, S::mul(dmin, S::load_u8(scales.add(256 / layout.group * ROWS))))
        } else {
            (scale, S::zero())
        }
    }
}

/// Integer dot products of one half of a block: `sum (code - offset) * q` over 16 columns. `vectors` are the block's codes: packed, or
/// if `UNPACKED` a vector per quad.
#[inline(always)]
pub(super) unsafe fn dots<
    S: Simd,
    const L: usize,
    const HALF: usize,
    const G: usize,
    const T: usize,
    const UNPACKED: bool,
>(
    mut vectors: [*const u8; G],
    x: QuantRows,
    xb: usize,
) -> [[S::I; T]; G] {
    const QUADS: usize = 4;
    let bits = const { Facts::<L>::CODE_BITS };
    // SAFETY: as `tile`.
    unsafe {
        let mut sums = [[S::splat_i(0); T]; G];
        if const { Facts::<L>::OFFSET != 0 } && !(bits == 8 && S::SIGNED_BYTES) {
            for t in 0..T {
                let neg = S::splat_i((*x.meta.add(t * (x.stride / BLOCK) + xb)).neg[HALF]);
                let neg = match bits {
                    8 => S::shl_i::<7>(neg),
                    7 => S::shl_i::<6>(neg),
                    6 => S::shl_i::<5>(neg),
                    5 => S::shl_i::<4>(neg),
                    4 => S::shl_i::<3>(neg),
                    3 => S::shl_i::<2>(neg),
                    _ => S::shl_i::<1>(neg),
                };
                for s in &mut sums {
                    s[t] = neg;
                }
            }
        }
        let every = S::flush_every(bits).min(QUADS);
        for g in 0..G {
            vectors[g] = S::reread(vectors[g]);
        }
        let mut acc = [[S::acc_start(sums[0][0]); T]; G];
        macro_rules! dot {
            ($g:ident, $t:ident, $quad:literal, $codes:expr) => {
                if $quad % every == 0 {
                    acc[$g][$t] = S::acc_start(sums[$g][$t]);
                }
                let q = x.q.add($t * x.stride + xb * BLOCK + 4 * QUADS * HALF);
                acc[$g][$t] = S::dot::<$quad>(bits, acc[$g][$t], $codes, q);
                if ($quad + 1) % every == 0 {
                    sums[$g][$t] = S::acc_flush(sums[$g][$t], acc[$g][$t]);
                }
            };
        }
        macro_rules! codes {
            ($g:ident, $quad:literal) => {
                if UNPACKED {
                    S::load_codes(vectors[$g].add(64 * (QUADS * HALF + $quad)))
                } else {
                    quad_codes::<S, L>(vectors[$g], QUADS * HALF + $quad)
                }
            };
        }
        macro_rules! quads {
            ($($quad:literal)*) => {
                if S::TOKENS_IN_TURN {
                    let mut codes = [[S::load_codes(vectors[0]); QUADS]; G];
                    for g in 0..G {
                        codes[g] = [$(codes!(g, $quad)),*];
                    }
                    for t in 0..T {
                        for g in 0..G {
                            $(dot!(g, t, $quad, codes[g][$quad]);)*
                        }
                    }
                } else {
                    $(for g in 0..G {
                        let codes = codes!(g, $quad);
                        for t in 0..T {
                            dot!(g, t, $quad, codes);
                        }
                    })*
                }
            };
        }
        quads!(0 1 2 3);
        sums
    }
}

/// The unsigned codes of one quad.
#[inline(always)]
pub(crate) unsafe fn quad_codes<S: Simd, const L: usize>(vectors: *const u8, quad: usize) -> S::Codes {
    // SAFETY: passed on.
    unsafe {
        let stored = quad_bits::<S>(const { Facts::<L>::LAYOUT.bits }, vectors, quad);
        if const { Facts::<L>::LAYOUT.levels.is_some() } {
            S::lookup(&Facts::<L>::TABLE, stored)
        } else {
            stored
        }
    }
}

/// The stored bits of one quad from their planes; see [`super::Layout`].
#[inline(always)]
unsafe fn quad_bits<S: Simd>(bits: u32, vectors: *const u8, quad: usize) -> S::Codes {
    // SAFETY: the vectors of a block are `64 * bits` bytes.
    unsafe {
        let at = |v: usize| S::load_codes(vectors.add(64 * v));
        match bits {
            8 => at(quad),
            4..=6 => {
                let v = at(quad % 4);
                let low = if quad < 4 { S::bits::<0, 15>(v) } else { S::bits::<4, 15>(v) };
                match bits {
                    6 => S::or_codes(low, S::plane::<3, 4>(at(4 + quad / 4), 2 * (quad as u32 % 4))),
                    5 => S::or_codes(low, S::plane::<1, 4>(at(4), quad as u32)),
                    _ => low,
                }
            }
            _ => {
                let low = S::plane::<3, 0>(at(quad / 4), 2 * (quad as u32 % 4));
                if bits == 3 { S::or_codes(low, S::plane::<1, 2>(at(2), quad as u32)) } else { low }
            }
        }
    }
}

/// `y[t][16 g + lane] = w . x[t]` for `groups` groups and `rows` tokens, in register tiles.
///
/// # Safety
/// As [`tile`], with `groups` and `rows` in place of `G` and `T`.
#[inline(always)]
pub(super) unsafe fn matmul<S: Simd, const L: usize>(
    w: *const u8,
    groups: usize,
    units: usize,
    x: QuantRows,
    rows: usize,
    y: *mut f32,
    ldy: usize,
) {
    let group_bytes = units * Facts::<L>::UNIT_BYTES;
    // SAFETY: the tiles cover each group and row once.
    unsafe {
        if rows >= S::MANY {
            return panel::matmul::<S, L>(w, groups, units, x, rows, y, ldy);
        }
        // Two groups at a time are two streams of reads, which one core needs to reach the memory's bandwidth. Each is one piece of memory,
        // half of the groups: streams of neighbours, which leap over each other, took up to 1.25 times as long, and four seldom less (Zen 5).
        let apart = groups / 2;
        for i in 0..groups.div_ceil(2) {
            let pair = i < apart;
            let g = if pair { i } else { groups - 1 };
            let (w, y) = (w.add(g * group_bytes), y.add(g * ROWS));
            let mut t = 0;
            while t < rows {
                let xt = QuantRows {
                    q: x.q.add(t * x.stride),
                    meta: x.meta.add(t * (x.stride / BLOCK)),
                    stride: x.stride,
                };
                let yt = y.add(t * ldy);
                // The first rows bring the weights from memory; the others find them in the cache.
                let fetch = t == 0;
                macro_rules! run {
                    ($t:literal) => {{
                        if const { S::TILE_GROUPS[if $t == 1 { 0 } else { 1 }] >= 2 } {
                            if pair {
                                tile::<S, L, 2, $t>(w, units, xt, yt, ldy, apart, fetch);
                            } else {
                                // Only a last, odd group comes here, one row at a time.
                                tile::<S, L, 1, 1>(w, units, xt, yt, ldy, 1, fetch);
                            }
                        } else {
                            tile::<S, L, 1, $t>(w, units, xt, yt, ldy, 1, fetch);
                            if pair {
                                let (w, y) = (w.add(apart * group_bytes), yt.add(apart * ROWS));
                                tile::<S, L, 1, $t>(w, units, xt, y, ldy, 1, fetch);
                            }
                        }
                        t += $t;
                    }};
                }
                let most = if pair || const { S::TILE_GROUPS[1] < 2 } { S::TILE } else { 1 };
                // Constants, as only what they rule out is never compiled.
                match (rows - t).min(most) {
                    2 if const { S::TILE >= 2 } => run!(2),
                    3 if const { S::TILE >= 3 } => run!(3),
                    4.. if const { S::TILE >= 4 } => run!(4),
                    _ => run!(1),
                }
            }
        }
    }
}
