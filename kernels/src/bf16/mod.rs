//! Products in bf16: the path of prompt rows where the CPU multiplies bf16. Activations are rounded to it, sums are f32.
//!
//! AMX (`amx.rs`) takes all formats: weights are dequantised to bf16 in cache-sized panels. One fused multiply-add per weight and no
//! scale after it: on Sapphire Rapids that reaches 2.4-2.8 TFLOPS on two cores where the exact integer product with its scale per 32
//! columns ends at 1.1, and its error against f32 is smaller (0.25 % of a dot product against 0.6-1.2 %). AVX-512's dot products of
//! pairs of bf16 (`dot.rs`) do half as many operations as integer ones, and take weights of 16 bits only: with f32 activations
//! these get half of them.
//!
//! [`TileRows`] is the activations' form for both: strips of sixteen rows, a strip being one tile of 1 KiB after the other, each
//! `[row][32 columns]`.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod attn;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod weights;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use crate::isa::Isa;
use crate::ops::Attend;
use crate::pack::Packing;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
pub(crate) use tile::available;

/// Rows of a strip of activations.
pub const STRIP: usize = 16;

/// Activations in bf16 tiles.
#[derive(Clone, Copy, Debug)]
pub struct TileRows {
    /// `[strip][column / 32][row % 16][column % 32]`, aligned to 64 bytes.
    pub ptr: *const u16,
    /// Bytes of a strip: [`strip_len`] elements.
    pub strip: usize,
}

/// Elements of a strip of `cols` columns.
pub const fn strip_len(cols: usize) -> usize {
    cols.next_multiple_of(32) * STRIP
}

type TileFn = unsafe fn(*const u8, usize, usize, TileRows, Range<usize>, *mut f32, usize);

/// The product of one packing. That a value exists proves that this process may use its instructions.
#[derive(Clone, Copy, Debug)]
pub struct TileMatmul(TileFn);

impl TileMatmul {
    /// The product for `packing`; `None` when `isa` has none or this machine lacks `isa`: [`Isa::Amx`] has all but those of
    /// single-precision weights, which bf16 would round, and [`Isa::Avx512Bf16`] those of 16-bit float weights.
    pub fn new(packing: Packing, isa: Isa) -> Option<TileMatmul> {
        if !isa.available() {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        return kernels::of(packing, isa).map(TileMatmul);
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = packing;
            None
        }
    }

    /// Rows of which one call needs each weight once: their strips stay in L2 while weights stream by.
    pub fn rows_per_pass(cols: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        return STRIP * amx::strips_per_pass(cols);
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = cols;
            STRIP
        }
    }

    /// `y[t][16 g + lane] = w[g] . x[t]` for the rows `rows`, which need not be whole strips; the bits of a row depend on no
    /// other row, and not on how groups are split over calls.
    ///
    /// # Safety
    /// `w` points to `groups` packed groups of `cols` columns; `x` holds the strips of `rows`, padded with zeros to a multiple of
    /// 32 columns; `y` is the address of row 0, whether or not it exists; the rows `rows`, `ldy` floats apart, have room for
    /// `16 * groups` floats each, which nothing else accesses meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn multiply(
        &self,
        w: *const u8,
        groups: usize,
        cols: usize,
        x: TileRows,
        rows: Range<usize>,
        y: *mut f32,
        ldy: usize,
    ) {
        // SAFETY: passed on; `self` proves the instruction set.
        unsafe { (self.0)(w, groups, cols, x, rows, y, ldy) }
    }
}

/// Rounds activations to bf16 for [`TileMatmul`].
#[derive(Clone, Copy, Debug)]
pub struct TileConvert(Isa);

impl TileConvert {
    /// `None` when `isa` does not multiply bf16 or this machine lacks it.
    pub fn new(isa: Isa) -> Option<TileConvert> {
        (matches!(isa, Isa::Avx512Bf16 | Isa::Amx) && isa.available()).then_some(TileConvert(isa))
    }

    /// Writes `x`, a row or a part of it that begins at a multiple of 32, to row `row % 16` of a strip, of which `strip` is the part
    /// from `x`'s first column on. Columns up to the next multiple of 32 become zero.
    ///
    /// # Safety
    /// `strip` is aligned to 64 bytes and has [`strip_len`]`(x.len())` elements; nobody else accesses this row of it.
    pub unsafe fn row(&self, x: &[f32], row: usize, strip: *mut u16) {
        // SAFETY: passed on; `self` proves the instruction set.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            kernels::convert(x, row % STRIP, strip)
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (x, row, strip);
    }
}

/// Computes `rounds` rounds of independent products, on AMX with factors from L1: [`crate::peak::run`] for bf16.
pub(crate) fn peak(isa: Isa, rounds: usize) -> Option<u64> {
    TileConvert::new(isa)?;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction set is available.
    unsafe {
        match isa {
            Isa::Amx => amx::peak(rounds),
            _ => dot::peak(rounds),
        }
    }
    let multiply_adds = match isa {
        // Four products of tiles.
        Isa::Amx => 4 * 16 * 16 * 32,
        // Sixteen dot products of pairs in sixteen lanes.
        _ => 16 * 16 * 2,
    };
    Some((2 * rounds * multiply_adds) as u64)
}

/// Attention on tiles, with its working memory.
#[derive(Debug)]
pub struct TileAttend<'a> {
    scratch: &'a mut [f32],
}

impl<'a> TileAttend<'a> {
    /// Floats of working memory for `queries` queries.
    pub fn scratch_len(head_dim: usize, queries: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        return attn::scratch_len(head_dim, queries);
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (head_dim, queries);
            0
        }
    }

    /// `proof` shows what this process may use; `None` if that is not [`Isa::Amx`]. `scratch` is aligned to 64 bytes and holds
    /// [`TileAttend::scratch_len`] floats.
    pub fn new(proof: TileConvert, scratch: &'a mut [f32]) -> Option<Self> {
        assert!(scratch.as_ptr().addr().is_multiple_of(64), "the tiles' working memory is not aligned");
        (proof.0 == Isa::Amx).then_some(TileAttend { scratch })
    }

    /// [`crate::ops::Ops::attend`] on tiles.
    pub(crate) fn attend(&mut self, a: &Attend<'_>, partition: usize, partials: &mut [f32]) {
        // SAFETY: that `self` exists proves the instruction set; `new` checked the alignment.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            kernels::attend(a, partition, partials, self.scratch)
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (a, partition, partials, &self.scratch);
    }
}

#[cfg(target_arch = "x86_64")]
mod kernels {
    use super::{STRIP, TileFn, TileRows, amx, attn, dot, weights};
    use crate::isa::Isa;
    use crate::ops::Attend;
    use crate::pack::layout::by_layout;
    use crate::pack::{Float, Packing};
    use std::arch::x86_64::*;
    use std::ops::Range;

    pub(super) fn of(packing: Packing, isa: Isa) -> Option<TileFn> {
        match (isa, packing) {
            (Isa::Amx, Packing::Quantised(layout)) => by_layout!(layout, quant as TileFn),
            (Isa::Amx, Packing::Float(Float::F16)) => Some(half::<weights::F16>),
            (Isa::Amx, Packing::Float(Float::BF16)) => Some(half::<weights::Bf16>),
            (Isa::Avx512Bf16, Packing::Float(Float::F16)) => Some(half_dot::<weights::F16>),
            (Isa::Avx512Bf16, Packing::Float(Float::BF16)) => Some(half_dot::<weights::Bf16>),
            _ => None,
        }
    }

    macro_rules! instance {
        ($name:ident [$($generics:tt)*] $module:ident, $weights:ty, $features:literal) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<$($generics)*>(
                w: *const u8,
                groups: usize,
                cols: usize,
                x: TileRows,
                rows: Range<usize>,
                y: *mut f32,
                ldy: usize,
            ) {
                // SAFETY: passed on.
                unsafe { $module::multiply::<$weights>(w, groups, cols, x, rows, y, ldy) }
            }
        };
    }
    instance!(quant[const L: usize] amx, weights::Quant<L>,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
    instance!(half[E: weights::Element] amx, weights::Half<E>,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
    instance!(half_dot[E: weights::Element] dot, weights::Half<E>,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c");

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn attend(a: &Attend<'_>, partition: usize, partials: &mut [f32], scratch: &mut [f32]) {
        // SAFETY: passed on.
        unsafe { attn::attend(a, partition, partials, scratch) }
    }

    /// Rounds to nearest even.
    ///
    /// # Safety
    /// As [`super::TileConvert::row`]; the CPU has AVX-512 with BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn convert(x: &[f32], row: usize, strip: *mut u16) {
        let mut tail = [0f32; 32];
        for (k, part) in x.chunks(32).enumerate() {
            let p = if part.len() == 32 {
                part.as_ptr()
            } else {
                tail[..part.len()].copy_from_slice(part);
                tail.as_ptr()
            };
            // SAFETY: 32 floats at `p`, 32 elements of this row at the address written.
            unsafe {
                let v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p.add(16)), _mm512_loadu_ps(p));
                let to = strip.add((k * STRIP + row) * 32);
                _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(v));
            }
        }
    }
}
