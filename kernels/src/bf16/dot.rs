//! The product on vectors: AVX-512's dot products of pairs of bf16, for weights of 16 bits.
#![allow(clippy::needless_range_loop)] // register tiles: the indices are the tile's coordinates

use super::weights::{TILE, Weights};
use super::{STRIP, TileRows};
use crate::pack::ROWS;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Tiles of columns that a panel of weights covers: two groups of 256 columns are 16 KiB, which stay in L1 beside the activations.
const PANEL: usize = 8;
/// Rows of activations at once, half of a strip: with two groups sixteen sums, enough for two units with a latency of 8 cycles.
const HALF: usize = STRIP / 2;

#[repr(align(64))]
struct Panel(MaybeUninit<[u8; 2 * PANEL * TILE]>);

/// The output, `y[row][16 g + lane]`, and the rows of it that are wanted.
struct Output {
    y: *mut f32,
    ldy: usize,
    rows: Range<usize>,
}

/// `y[t][16 g + lane] = w[g] . x[t]` for `groups` groups and the rows `rows`.
///
/// Each output is one chain of dot products over ascending pairs of columns, whatever the rows and groups beside it: so its bits
/// depend on its own row and weights alone.
///
/// # Safety
/// As [`super::TileMatmul::multiply`], on a CPU with AVX-512 as [`crate::simd::Avx512Vnni`] and its BF16.
#[inline(always)]
pub(super) unsafe fn multiply<W: Weights>(
    w: *const u8,
    groups: usize,
    cols: usize,
    x: TileRows,
    rows: Range<usize>,
    y: *mut f32,
    ldy: usize,
) {
    let mut panel = Panel(MaybeUninit::uninit());
    let panel = panel.0.as_mut_ptr().cast::<u8>();
    let tiles = cols.div_ceil(32);
    let halves = rows.start / HALF..rows.end.div_ceil(HALF);
    // SAFETY: groups and strips as the caller vouches; the panel's tiles are made before they are read.
    unsafe {
        for group in (0..groups).step_by(2) {
            let pair = (groups - group).min(2);
            let out = Output { y: y.wrapping_add(group * ROWS), ldy, rows: rows.clone() };
            for k in (0..tiles).step_by(PANEL) {
                let n = (tiles - k).min(PANEL);
                for g in 0..pair {
                    let w = w.add((group + g) * W::group_bytes(cols));
                    for i in 0..n {
                        W::tile(w, cols, k + i, panel.add((g * PANEL + i) * TILE));
                    }
                }
                for half in halves.clone() {
                    let strip = x.ptr.cast::<u8>().add(half / 2 * x.strip + k * TILE);
                    let a = strip.add(half % 2 * (TILE / 2));
                    match pair {
                        2 => block::<2>(a, panel, n, k == 0, half * HALF, &out),
                        _ => block::<1>(a, panel, n, k == 0, half * HALF, &out),
                    }
                }
            }
        }
    }
}

/// The rows from `row` on by `G` groups and `n` tiles of columns, onto the sums in the output unless these are the `first` columns.
///
/// # Safety
/// As [`multiply`]; `a` are the rows' tiles and `b` the panel.
#[inline(always)]
unsafe fn block<const G: usize>(a: *const u8, b: *const u8, n: usize, first: bool, row: usize, out: &Output) {
    // SAFETY: `n` tiles at each address; only rows that are wanted are accessed in the output.
    unsafe {
        let at = |t: usize, g: usize| out.y.wrapping_add((row + t) * out.ldy + g * ROWS);
        let mut sums = [[_mm512_setzero_ps(); G]; HALF];
        if !first {
            for t in 0..HALF {
                if out.rows.contains(&(row + t)) {
                    for g in 0..G {
                        sums[t][g] = _mm512_loadu_ps(at(t, g));
                    }
                }
            }
        }
        for i in 0..n {
            for c in 0..STRIP {
                let mut w = [_mm512_setzero_si512(); G];
                for g in 0..G {
                    w[g] = _mm512_load_si512(b.add((g * PANEL + i) * TILE + 64 * c).cast());
                }
                for t in 0..HALF {
                    let x = _mm512_set1_epi32(a.add(i * TILE + 64 * t + 4 * c).cast::<i32>().read());
                    for g in 0..G {
                        sums[t][g] = dot(sums[t][g], w[g], x);
                    }
                }
            }
        }
        for t in 0..HALF {
            if out.rows.contains(&(row + t)) {
                for g in 0..G {
                    _mm512_storeu_ps(at(t, g), sums[t][g]);
                }
            }
        }
    }
}

/// Sixteen lanes of two products each onto `sum`.
#[inline(always)]
unsafe fn dot(sum: __m512, w: __m512i, x: __m512i) -> __m512 {
    // SAFETY: by the caller's instruction set; the types are of the same size and have no invalid values.
    unsafe {
        let [w, x] = std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([w, x]);
        _mm512_dpbf16_ps(sum, w, x)
    }
}

/// `rounds` rounds of sixteen independent dot products in registers.
///
/// # Safety
/// The CPU has AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn peak(rounds: usize) {
    let [w, x] = std::hint::black_box([_mm512_set1_epi32(1); 2]);
    let mut sums = [_mm512_setzero_ps(); 16];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: by this function's contract.
            *sum = unsafe { dot(*sum, w, x) };
        }
    }
    std::hint::black_box(sums);
}
