//! Float weights: sixteen rows interleaved column by column, activations in f32.
#![allow(clippy::needless_range_loop)] // register tiles: the indices are the tile's coordinates

use super::layout::ROWS;
use crate::quant::Format;
use crate::simd::Simd;

/// Element type of a float weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// Single precision.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

impl Float {
    /// The element type of a float format; `None` for quantised formats.
    pub fn of(format: Format) -> Option<Float> {
        match format {
            Format::F32 => Some(Float::F32),
            Format::F16 => Some(Float::F16),
            Format::BF16 => Some(Float::BF16),
            _ => None,
        }
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }
}

/// Packs up to sixteen rows: element `(row, col)` lies at `16 col + row`. Missing rows become zeros.
pub fn pack_group(float: Float, rows: &[&[u8]], out: &mut [u8]) {
    match float {
        Float::F32 => interleave::<4>(rows, out),
        Float::F16 | Float::BF16 => interleave::<2>(rows, out),
    }
}

/// [`pack_group`] for elements of `N` bytes, a few columns of all rows at a time, which stay in L1.
fn interleave<const N: usize>(rows: &[&[u8]], out: &mut [u8]) {
    const COLUMNS: usize = 64;
    let (out, _) = out.as_chunks_mut::<N>();
    for (i, out) in out.chunks_mut(COLUMNS * ROWS).enumerate() {
        if rows.len() < ROWS {
            out.fill([0; N]);
        }
        for (r, row) in rows.iter().enumerate().take(ROWS) {
            let (row, _) = row.as_chunks::<N>();
            for (src, dst) in row[i * COLUMNS..].iter().zip(out[r..].iter_mut().step_by(ROWS)) {
                *dst = *src;
            }
        }
    }
}

/// Row `r` of a packed group as f32.
pub fn unpack_row(float: Float, group: &[u8], r: usize, out: &mut [f32]) {
    let n = float.bytes();
    for (src, out) in group.chunks_exact(ROWS * n).zip(out) {
        let b = &src[n * r..n * (r + 1)];
        *out = match float {
            Float::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Float::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Float::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        };
    }
}

/// Sixteen weights of one column, by element type.
pub(super) trait Element: Copy + 'static {
    const BYTES: usize;
    /// # Safety
    /// `p` points to sixteen elements; the CPU has `S`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

macro_rules! element {
    ($name:ident, $bytes:literal, $load:ident) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name;
        impl Element for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const u8) -> S::F {
                // SAFETY: passed on.
                unsafe { S::$load(p.cast()) }
            }
        }
    };
}
element!(F32, 4, load);
element!(F16, 2, load_f16);
element!(BF16, 2, load_bf16);

/// As [`super::kernel::matmul`], on f32 activations: each output is one chain of fused multiply-adds over ascending columns.
///
/// # Safety
/// The CPU has `S`. `w` points to `groups` packed groups of `cols` columns, `x` holds `rows` rows of `cols` floats
/// `ldx` apart, `y` has `rows` rows `ldy` apart with room for `16 groups` floats each.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn matmul<S: Simd, E: Element>(
    w: *const u8,
    groups: usize,
    cols: usize,
    x: *const f32,
    ldx: usize,
    rows: usize,
    y: *mut f32,
    ldy: usize,
) {
    // SAFETY: the tiles cover each group and row once.
    unsafe {
        let apart = groups / 2;
        for i in 0..groups.div_ceil(2) {
            let pair = i < apart;
            let g = if pair { i } else { groups - 1 };
            let (w, y) = (w.add(g * cols * ROWS * E::BYTES), y.add(g * ROWS));
            let mut t = 0;
            while t < rows {
                let (x, y) = (x.add(t * ldx), y.add(t * ldy));
                match (rows - t, pair) {
                    (4.., true) if const { S::TILE_GROUPS[1] == 2 } => {
                        tile::<S, E, 2, 4>(w, cols, x, ldx, y, ldy, apart)
                    }
                    (4.., _) => {
                        tile::<S, E, 1, 4>(w, cols, x, ldx, y, ldy, 1);
                        if pair {
                            let w = w.add(apart * cols * ROWS * E::BYTES);
                            tile::<S, E, 1, 4>(w, cols, x, ldx, y.add(apart * ROWS), ldy, 1);
                        }
                    }
                    (_, true) => tile::<S, E, 2, 1>(w, cols, x, ldx, y, ldy, apart),
                    (_, false) => tile::<S, E, 1, 1>(w, cols, x, ldx, y, ldy, 1),
                }
                t += if rows - t >= 4 { 4 } else { 1 };
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, E: Element, const G: usize, const T: usize>(
    w: *const u8,
    cols: usize,
    x: *const f32,
    ldx: usize,
    y: *mut f32,
    ldy: usize,
    apart: usize,
) {
    // SAFETY: as `matmul`.
    unsafe {
        let mut acc = [[S::zero(); T]; G];
        for c in 0..cols {
            for g in 0..G {
                let p = w.add((g * apart * cols + c) * ROWS * E::BYTES);
                let v = E::load::<S>(p);
                if T == 1 && c % (64 / (ROWS * E::BYTES)).max(1) == 0 {
                    S::prefetch(p.wrapping_add(super::kernel::PREFETCH));
                }
                for t in 0..T {
                    acc[g][t] = S::fma(v, S::splat(*x.add(t * ldx + c)), acc[g][t]);
                }
            }
        }
        for g in 0..G {
            for t in 0..T {
                S::store(y.add(t * ldy + ROWS * apart * g), acc[g][t]);
            }
        }
    }
}
