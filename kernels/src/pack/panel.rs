//! The product for many rows: the codes and scales of 256 columns are unpacked once, into L1, and meet all rows there.
//!
//! In [`super::kernel`] every tile of rows unpacks the codes that it multiplies, which costs up to as much as the products (of Q4_K on AVX2
//! 7 instructions to 22, of formats with planes or tables more). Here it costs next to nothing, so all formats are about as fast.
#![allow(clippy::needless_range_loop)] // register tiles: the indices are the tile's coordinates

use super::kernel::{QuantRows, accumulate, dots, load_scale, quad_codes, sub_scales};
use super::layout::{BLOCK, Facts, ROWS};
use crate::simd::Simd;
use std::mem::MaybeUninit;

/// Columns of a panel: a unit of the two-level formats, four of the others.
const COLS: usize = 256;
/// Panels that the rows of a tile meet: 24 KiB, which with the rows fill most of an L1 cache of 32 KiB. Rows come from L2, so there should
/// be many.
const PANELS: usize = 4;
const BLOCKS: usize = COLS / BLOCK;

/// Sixteen rows of weights in 256 columns, as they are multiplied.
#[repr(C, align(64))]
struct Panel {
    /// Unsigned codes: sixteen rows of four columns, by quad.
    codes: [[u8; 64]; COLS / 4],
    /// Scales by half a block (equal ones, where a scale covers the block).
    d: [[f32; ROWS]; 2 * BLOCKS],
    /// What is subtracted for the minimums, of formats that have them.
    min: [[f32; ROWS]; 2 * BLOCKS],
}

/// Unpacks `blocks` blocks of a group from `unit` on.
#[inline(always)]
unsafe fn unpack<S: Simd, const L: usize>(mut unit: *const u8, blocks: usize, panel: *mut Panel) {
    let layout = const { Facts::<L>::LAYOUT };
    // SAFETY: the caller vouches for the instruction set, and for the blocks of the group; a panel has room for them.
    unsafe {
        let (mut d, mut min) = (S::zero(), S::zero());
        for b in 0..blocks {
            let in_unit = b % const { Facts::<L>::BLOCKS };
            if b > 0 && in_unit == 0 {
                unit = unit.add(Facts::<L>::UNIT_BYTES);
            }
            if !layout.two_level || in_unit == 0 {
                d = load_scale::<S, L>(unit.add(if layout.two_level { 0 } else { 32 * in_unit }));
                if layout.min {
                    min = S::load_f16(unit.add(if layout.two_level { 32 } else { 64 + 32 * in_unit }).cast());
                }
            }
            let vectors = unit.add(Facts::<L>::SCALE_BYTES + in_unit * Facts::<L>::BLOCK_BYTES);
            for quad in 0..BLOCK / 4 {
                S::store_codes(
                    (&raw mut (*panel).codes[b * (BLOCK / 4) + quad]).cast(),
                    quad_codes::<S, L>(vectors, quad),
                );
            }
            let (mut dv, mut mv) = (d, min);
            for half in 0..2 {
                if layout.two_level && (layout.group < BLOCK || half == 0) {
                    let i = in_unit * (BLOCK / layout.group) + half;
                    (dv, mv) = sub_scales::<S, L>(unit, i, d, min);
                }
                S::store((&raw mut (*panel).d[2 * b + half]).cast(), dv);
                if layout.min {
                    S::store((&raw mut (*panel).min[2 * b + half]).cast(), mv);
                }
            }
        }
    }
}

/// `y[t][16 g + lane] += w . x[t]` for `G` panels and `T` tokens, or `=` if these are the `first` columns of the rows.
///
/// # Safety
/// As for [`super::kernel::matmul`]; `x` begins at the panels' first column.
#[inline(always)]
unsafe fn tile<S: Simd, const L: usize, const G: usize, const T: usize>(
    panels: *const Panel,
    blocks: usize,
    x: QuantRows,
    y: *mut f32,
    ldy: usize,
    first: bool,
) {
    // SAFETY: every address below lies within the panels, rows and outputs that the caller vouches for.
    unsafe {
        let mut acc = [[S::zero(); T]; G];
        if !first {
            for g in 0..G {
                for t in 0..T {
                    acc[g][t] = S::load(y.add(t * ldy + ROWS * g));
                }
            }
        }
        for b in 0..blocks {
            let mut partial = [[S::zero(); T]; G];
            let mut codes = [panels.cast::<u8>(); G];
            for g in 0..G {
                codes[g] = (&raw const (*panels.add(g)).codes[b * (BLOCK / 4)]).cast();
            }
            macro_rules! half {
                ($half:literal) => {
                    let dots = dots::<S, L, $half, G, T, true>(codes, x, b);
                    for g in 0..G {
                        // No reference: without minimums their place was never written.
                        let (d, min): (*const f32, *const f32) = (
                            (&raw const (*panels.add(g)).d[2 * b + $half]).cast(),
                            (&raw const (*panels.add(g)).min[2 * b + $half]).cast(),
                        );
                        let dv = S::load(d);
                        let mv = if const { Facts::<L>::LAYOUT.min } { S::load(min) } else { S::zero() };
                        for t in 0..T {
                            let m = &*x.meta.add(t * (x.stride / BLOCK) + b);
                            accumulate::<S, L, $half>(
                                &mut acc[g][t],
                                &mut partial[g][t],
                                dots[g][t],
                                dv,
                                mv,
                                m,
                            );
                        }
                    }
                };
            }
            half!(0);
            half!(1);
        }
        for g in 0..G {
            for t in 0..T {
                S::store(y.add(t * ldy + ROWS * g), acc[g][t]);
            }
        }
    }
}

/// [`super::kernel::matmul`] for many rows: the same bits.
///
/// # Safety
/// As there.
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
    let (unit_bytes, unit_blocks) = const { (Facts::<L>::UNIT_BYTES, Facts::<L>::BLOCKS) };
    let mut panels = [const { MaybeUninit::<Panel>::uninit() }; PANELS];
    let panels = panels.as_mut_ptr().cast::<Panel>();
    // SAFETY: the tiles cover each group, column and row once, and read what of a panel was unpacked before.
    unsafe {
        let mut g = 0;
        while g < groups {
            let n = (groups - g).min(PANELS);
            let mut unit = 0;
            while unit < units {
                let some = (units - unit).min(BLOCKS / unit_blocks);
                let from = unit * unit_blocks;
                // What lies past the row's end is not multiplied: activations end there.
                let blocks = (some * unit_blocks).min(x.stride / BLOCK - from);
                for i in 0..n {
                    unpack::<S, L>(w.add(((g + i) * units + unit) * unit_bytes), blocks, panels.add(i));
                }
                let mut t = 0;
                while t < rows {
                    let x = QuantRows {
                        q: x.q.add(t * x.stride + from * BLOCK),
                        meta: x.meta.add(t * (x.stride / BLOCK) + from),
                        stride: x.stride,
                    };
                    let full = t + S::TILE <= rows;
                    let mut i = 0;
                    while i < n {
                        let (panels, y) = (panels.add(i), y.add(t * ldy + (g + i) * ROWS));
                        let pair = const { S::TILE_GROUPS[1] >= 2 } && full && i + 2 <= n;
                        let taken = if pair { 2 } else { 1 };
                        if t == 0 {
                            // What is unpacked next comes from memory meanwhile.
                            for i in i..i + taken {
                                let next = w.wrapping_add(((g + i) * units + unit + some) * unit_bytes);
                                let mut at = 0;
                                while at < some * unit_bytes {
                                    S::prefetch(next.wrapping_add(at));
                                    at += 64;
                                }
                            }
                        }
                        // Constants, as only what they rule out is never compiled.
                        macro_rules! run {
                            ($t:literal) => {
                                if const { S::TILE == $t } && full {
                                    if const { S::TILE_GROUPS[1] >= 2 } && pair {
                                        tile::<S, L, 2, $t>(panels, blocks, x, y, ldy, unit == 0);
                                    } else {
                                        tile::<S, L, 1, $t>(panels, blocks, x, y, ldy, unit == 0);
                                    }
                                }
                            };
                        }
                        run!(2);
                        run!(3);
                        run!(4);
                        if const { S::TILE == 1 } || !full {
                            tile::<S, L, 1, 1>(panels, blocks, x, y, ldy, unit == 0);
                        }
                        i += taken;
                    }
                    t += if full { S::TILE } else { 1 };
                }
                unit += some;
            }
            g += n;
        }
    }
}
