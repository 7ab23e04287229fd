//! The product on AMX tiles.

use super::tile::{TileConfig, release, tile_dot_bf16, tile_load, tile_store, tile_zero};
use super::weights::{TILE, Weights};
use super::{STRIP, TileRows};
use crate::pack::ROWS;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Tiles of columns that a panel of dequantised weights covers: two groups of 256 columns are 16 KiB, so that two panels
/// stay in L1 beside a strip of activations. Measured best of 256, 512 and 1024 columns on Sapphire Rapids.
const PANEL: usize = 8;
/// Tiles of columns whose activations stay in L2 while weights stream by; the sums wait in the output between chunks.
const CHUNK: usize = 64;
/// Bytes of activations of a chunk that are multiplied in one pass over the weights: half of a 2 MiB L2 cache.
const L2_SHARE: usize = 1 << 20;
/// Most strips of such a pass: their sums, 2 KiB per strip, wait in [`Scratch`] between panels.
const STRIPS: usize = 32;

/// Working memory of one call, on its stack.
#[repr(align(64))]
struct Scratch {
    /// The panel in use and the one being made: `[2 groups][PANEL]` tiles each.
    panels: [MaybeUninit<[u8; 2 * PANEL * TILE]>; 2],
    /// Sums of two groups: `[strip][group]` tiles.
    sums: MaybeUninit<[u8; STRIPS * 2 * TILE]>,
    /// A tile on its way from or to rows of which not all are wanted.
    part: MaybeUninit<[u8; TILE]>,
}

/// Dequantises the panels of a pass one tile at a time, spread between the tile products of the panel before: both kinds
/// of work then overlap (8-27 % faster than one after the other).
struct Feed<W> {
    w: *const u8,
    groups: usize,
    cols: usize,
    /// Tiles of columns of the chunk.
    k: Range<usize>,
    panels: [*mut u8; 2],
    /// The tile that comes next: panel, group within it, tile of columns within it.
    next: (usize, usize, usize),
    /// Grows by the panel's tiles with every step; a tile is due whenever it reaches `steps`.
    credit: usize,
    gain: usize,
    steps: usize,
    _weights: std::marker::PhantomData<W>,
}

impl<W: Weights> Feed<W> {
    fn panels_of_pair(&self) -> usize {
        self.k.len().div_ceil(PANEL)
    }

    /// First group, number of groups, and tiles of columns of a panel; no groups past the last.
    fn panel(&self, p: usize) -> (usize, usize, Range<usize>) {
        let n = self.panels_of_pair();
        let first = p / n * 2;
        let width = self.k.len().div_ceil(n);
        let k = self.k.start + p % n * width;
        (first, self.groups.saturating_sub(first).min(2), k..(k + width).min(self.k.end))
    }

    /// Prepares to make panel `p` within `steps` steps.
    fn start(&mut self, p: usize, steps: usize) {
        let (_, groups, k) = self.panel(p);
        (self.next, self.credit, self.gain, self.steps) = ((p, 0, 0), 0, groups * k.len(), steps);
    }

    /// One step of several.
    ///
    /// # Safety
    /// As [`multiply`].
    #[inline(always)]
    unsafe fn step(&mut self) {
        self.credit += self.gain;
        while self.credit >= self.steps {
            self.credit -= self.steps;
            // SAFETY: passed on.
            unsafe { self.tile() };
        }
    }

    /// # Safety
    /// As [`multiply`].
    #[inline(always)]
    unsafe fn tile(&mut self) {
        let (p, g, i) = self.next;
        let (first, _, k) = self.panel(p);
        // SAFETY: `start` counted the panel's tiles, so this one exists.
        unsafe {
            let group = self.w.add((first + g) * W::group_bytes(self.cols));
            W::tile(group, self.cols, k.start + i, self.panels[p % 2].add((g * PANEL + i) * TILE));
        }
        self.next = if i + 1 < k.len() { (p, g, i + 1) } else { (p, g + 1, 0) };
    }
}

/// Multiplies the strips `a` with a panel into the sum tiles; strips of activations and groups of the panel lie `TILE`s apart.
///
/// # Safety
/// As [`multiply`]; the tiles are configured.
#[inline(always)]
unsafe fn dots<W: Weights, const S: usize, const G: usize>(
    a: [*const u8; 2],
    b: *const u8,
    n: usize,
    feed: &mut Feed<W>,
) {
    // SAFETY: `n` tiles at each address.
    unsafe {
        for i in 0..n {
            let at = i * TILE;
            tile_load!(4, a[0].add(at), 64usize);
            tile_load!(6, b.add(at), 64usize);
            tile_dot_bf16!(0, 4, 6);
            if G == 2 {
                tile_load!(7, b.add(PANEL * TILE + at), 64usize);
                tile_dot_bf16!(1, 4, 7);
            }
            if S == 2 {
                tile_load!(5, a[1].add(at), 64usize);
                tile_dot_bf16!(2, 5, 6);
                if G == 2 {
                    tile_dot_bf16!(3, 5, 7);
                }
            }
            feed.step();
        }
    }
}

/// Where sums are between panels.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Zero,
    Scratch,
    Output,
}

/// The output of a pass: `y[row][16 g + lane]`.
struct Output {
    y: *mut f32,
    ldy: usize,
    rows: Range<usize>,
    part: *mut u8,
}

impl Output {
    /// Address of a strip and group, and the rows of the strip that are wanted.
    fn at(&self, strip: usize, group: usize) -> (*mut f32, Range<usize>) {
        let row = strip * STRIP;
        let wanted = self.rows.start.max(row) - row..self.rows.end.min(row + STRIP) - row;
        (self.y.wrapping_add(row * self.ldy + group * ROWS), wanted)
    }

    /// Copies the wanted rows between the output and `part`.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn copy(&self, y: *mut f32, wanted: Range<usize>, load: bool) {
        for r in wanted {
            // SAFETY: wanted rows lie in the output.
            unsafe {
                let (y, part) = (y.add(r * self.ldy), self.part.cast::<f32>().add(r * ROWS));
                let (from, to) = if load { (y, part) } else { (part, y) };
                std::ptr::copy_nonoverlapping(from, to, ROWS);
            }
        }
    }
}

/// The sum tile `$t` of strip `$s` and group `$g` to or from its place.
macro_rules! move_sum {
    ($op:ident, $t:literal, $place:expr, $out:expr, $sums:expr, ($strip:expr, $s:literal), ($group:expr, $g:literal)) => {
        match $place {
            Place::Zero => tile_zero!($t),
            Place::Scratch => $op!($t, $sums.add((2 * $s + $g) * TILE), 64usize),
            Place::Output => {
                let (y, wanted) = $out.at($strip + $s, $group + $g);
                if wanted.len() == STRIP {
                    $op!($t, y, $out.ldy * 4);
                } else if stringify!($op) == "tile_load" {
                    $out.copy(y, wanted, true);
                    $op!($t, $out.part, 64usize);
                } else {
                    $op!($t, $out.part, 64usize);
                    $out.copy(y, wanted, false);
                }
            }
        }
    };
}

/// One panel for one or two strips: sums from `from`, products, sums to `to`.
///
/// # Safety
/// As [`dots`]; `sums` are the tiles of these strips.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn block<W: Weights, const S: usize, const G: usize>(
    a: [*const u8; 2],
    b: *const u8,
    n: usize,
    feed: &mut Feed<W>,
    (from, to): (Place, Place),
    (strip, group): (usize, usize),
    sums: *mut u8,
    out: &Output,
) {
    macro_rules! each {
        ($op:ident, $place:expr) => {
            move_sum!($op, 0, $place, out, sums, (strip, 0), (group, 0));
            if G == 2 {
                move_sum!($op, 1, $place, out, sums, (strip, 0), (group, 1));
            }
            if S == 2 {
                move_sum!($op, 2, $place, out, sums, (strip, 1), (group, 0));
                if G == 2 {
                    move_sum!($op, 3, $place, out, sums, (strip, 1), (group, 1));
                }
            }
        };
    }
    // SAFETY: passed on.
    unsafe {
        each!(tile_load, from);
        dots::<W, S, G>(a, b, n, feed);
        each!(tile_store, to);
    }
}

/// Strips that one pass over the weights multiplies.
pub(super) fn strips_per_pass(cols: usize) -> usize {
    (L2_SHARE / (cols.div_ceil(32).min(CHUNK) * TILE)).clamp(2, STRIPS)
}

/// `y[t][16 g + lane] = w[g] . x[t]` for `groups` groups and the rows `rows`.
///
/// Each output is one chain of tile products over ascending columns, 32 at a time, whatever the rows and groups beside it: so
/// its bits depend on its own row and weights alone.
///
/// # Safety
/// [`super::tile::available`] returned true, and the CPU has AVX-512 as [`crate::simd::Avx512Vnni`]. `w` points to `groups`
/// packed groups of `cols` columns; `x` holds the strips of `rows`; `y` is the address of row 0, and the rows `rows`, `ldy`
/// floats apart, have room for `16 * groups` floats each, which nothing else accesses meanwhile.
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
    let mut scratch = MaybeUninit::<Scratch>::uninit();
    let scratch = scratch.as_mut_ptr();
    let tiles = cols.div_ceil(32);
    let per_pass = strips_per_pass(cols);
    let (first, last) = (rows.start / STRIP, rows.end.div_ceil(STRIP));
    // SAFETY: strips and groups as the caller vouches; scratch is written before it is read: panels by the feed, sums by
    // the panel before.
    unsafe {
        let sums = (&raw mut (*scratch).sums).cast::<u8>();
        let panels = (&raw mut (*scratch).panels).cast::<u8>();
        let out = Output { y, ldy, rows, part: (&raw mut (*scratch).part).cast() };
        TileConfig::load();
        for begin in (first..last).step_by(per_pass) {
            let end = (begin + per_pass).min(last);
            for k in (0..tiles).step_by(CHUNK) {
                let k = k..(k + CHUNK).min(tiles);
                let mut feed = Feed::<W> {
                    w,
                    groups,
                    cols,
                    panels: [panels, panels.add(2 * PANEL * TILE)],
                    next: (0, 0, 0),
                    credit: 0,
                    gain: 0,
                    steps: 1,
                    k: k.clone(),
                    _weights: std::marker::PhantomData,
                };
                let per_pair = feed.panels_of_pair();
                feed.start(0, 1);
                feed.step();
                for p in 0..groups.div_ceil(2) * per_pair {
                    let (group, pair, columns) = feed.panel(p);
                    feed.start(p + 1, (end - begin).div_ceil(2) * columns.len());
                    let panel = feed.panels[p % 2].cast_const();
                    let (kb, n) = (p % per_pair, columns.len());
                    let from = match (kb, k.start) {
                        (0, 0) => Place::Zero,
                        (0, _) => Place::Output,
                        _ => Place::Scratch,
                    };
                    let places = (from, if kb + 1 == per_pair { Place::Output } else { Place::Scratch });
                    for strip in (begin..end).step_by(2) {
                        let a0 = x.ptr.cast::<u8>().add(strip * x.strip + columns.start * TILE);
                        let (at, sums) = ((strip, group), sums.add((strip - begin) * 2 * TILE));
                        let a = [a0, a0.wrapping_add(x.strip)];
                        match (end - strip > 1, pair > 1) {
                            (true, true) => block::<W, 2, 2>(a, panel, n, &mut feed, places, at, sums, &out),
                            (true, false) => block::<W, 2, 1>(a, panel, n, &mut feed, places, at, sums, &out),
                            (false, true) => block::<W, 1, 2>(a, panel, n, &mut feed, places, at, sums, &out),
                            _ => block::<W, 1, 1>(a, panel, n, &mut feed, places, at, sums, &out),
                        }
                    }
                }
            }
        }
        release();
    }
}

/// `rounds` rounds of four independent tile products, with the four loads of their factors that as many sums in registers
/// leave to any product.
///
/// # Safety
/// [`super::tile::available`] returned true.
pub(super) unsafe fn peak(rounds: usize) {
    #[repr(align(64))]
    struct Factors([u8; 4 * TILE]);
    let factors = Factors([0; 4 * TILE]);
    let p = std::hint::black_box(&factors).0.as_ptr();
    // SAFETY: by this function's contract; four tiles lie at `p`.
    unsafe {
        TileConfig::load();
        for _ in 0..rounds {
            tile_load!(4, p, 64usize);
            tile_load!(6, p.add(TILE), 64usize);
            tile_dot_bf16!(0, 4, 6);
            tile_load!(7, p.add(2 * TILE), 64usize);
            tile_dot_bf16!(1, 4, 7);
            tile_load!(5, p.add(3 * TILE), 64usize);
            tile_dot_bf16!(2, 5, 6);
            tile_dot_bf16!(3, 5, 7);
        }
        release();
    }
}
