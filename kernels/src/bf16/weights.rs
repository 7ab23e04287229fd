//! Packed weights as bf16 tiles.

use crate::pack::kernel::{load_scale, quad_codes, sub_scales};
use crate::pack::layout::Facts;
use crate::pack::{BLOCK, ROWS};
use crate::simd::{Avx512Vnni, Simd};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Bytes of a tile: 32 columns of sixteen rows.
pub(super) const TILE: usize = 1024;

/// A packing whose groups can be turned into tiles.
pub(super) trait Weights {
    /// Bytes of a packed group.
    fn group_bytes(cols: usize) -> usize;

    /// Tile `k` of a group: the weights of columns `32 k .. 32 k + 32`, rounded to bf16, `[column / 2][row][column % 2]`, as
    /// the second factor of a tile product lies. Columns past `cols` are zero.
    ///
    /// # Safety
    /// The CPU has AVX-512 as [`Avx512Vnni`]; `group` is a packed group of `cols` columns; `out` has [`TILE`] bytes.
    unsafe fn tile(group: *const u8, cols: usize, k: usize, out: *mut u8);
}

/// Two columns of sixteen rows, the low half of each lane from `even`, rounded to bf16 (ties away from zero: one addition per
/// column, where ties to even would take three instructions).
#[inline(always)]
pub(super) unsafe fn pair(even: __m512, odd: __m512) -> __m512i {
    // SAFETY: by the caller's instruction set.
    unsafe {
        let round = _mm512_set1_epi32(0x8000);
        let even = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(even), round));
        let odd = _mm512_add_epi32(_mm512_castps_si512(odd), round);
        // mask ? even : odd
        _mm512_ternarylogic_epi32::<0xE2>(even, _mm512_set1_epi32(0xffff), odd)
    }
}

/// Quantised weights of layout `L` of [`crate::pack::layout::LAYOUTS`].
pub(super) struct Quant<const L: usize>;

impl<const L: usize> Weights for Quant<L> {
    fn group_bytes(cols: usize) -> usize {
        Facts::<L>::LAYOUT.group_bytes(cols)
    }

    /// `w = fma(1 + code / 2^bits, 2^bits d, -(2^bits + offset) d - min)`: the code's bits become the mantissa of a number
    /// in `[1, 2)`, which saves the conversion from integer.
    #[inline(always)]
    unsafe fn tile(group: *const u8, _cols: usize, k: usize, out: *mut u8) {
        type S = Avx512Vnni;
        let layout = const { Facts::<L>::LAYOUT };
        let (bits, blocks) = const { (Facts::<L>::CODE_BITS, Facts::<L>::BLOCKS) };
        // SAFETY: block `k % blocks` of unit `k / blocks` lies in the group; eight quads of two vectors fill the tile.
        unsafe {
            let unit = group.add(k / blocks * Facts::<L>::UNIT_BYTES);
            let b = k % blocks;
            let vectors = unit.add(Facts::<L>::SCALE_BYTES + b * Facts::<L>::BLOCK_BYTES);
            let out = out.cast::<__m512i>();
            let one = _mm512_set1_epi32(0x3f80_0000);
            let mask = _mm512_set1_epi32(((1 << bits) - 1) << (23 - bits));
            for half in 0..2 {
                let (d, m) = if layout.two_level {
                    let d = load_scale::<S, L>(unit);
                    let dmin = if layout.min { S::load_f16(unit.add(32).cast()) } else { S::zero() };
                    let i = if layout.group < BLOCK { 2 * b + half } else { b };
                    sub_scales::<S, L>(unit, i, d, dmin)
                } else {
                    let m = if layout.min { S::load_f16(unit.add(64 + 32 * b).cast()) } else { S::zero() };
                    (load_scale::<S, L>(unit.add(32 * b)), m)
                };
                let levels = (1u32 << bits) as f32;
                let scale = S::mul(d, S::splat(levels));
                let zero = S::mul(d, S::splat(-(levels + Facts::<L>::OFFSET as f32)));
                let zero = if layout.min { S::sub(zero, m) } else { zero };
                for quad in 4 * half..4 * half + 4 {
                    // A format whose codes lie in one plane needs no assembling: `mask` picks the bits from where they are.
                    let (codes, low) = match layout.bits {
                        _ if layout.levels.is_some() => (quad_codes::<S, L>(vectors, quad), 0),
                        8 => (S::load_codes(vectors.add(64 * quad)), 0),
                        4 => (S::load_codes(vectors.add(64 * (quad % 4))), 4 * (quad as i32 / 4)),
                        2 => (S::load_codes(vectors.add(64 * (quad / 4))), 2 * (quad as i32 % 4)),
                        _ => (quad_codes::<S, L>(vectors, quad), 0),
                    };
                    let mut columns = [S::zero(); 4];
                    for (i, column) in columns.iter_mut().enumerate() {
                        let left = 23 - bits as i32 - 8 * i as i32 - low;
                        let moved = if left >= 0 {
                            _mm512_sll_epi32(codes, _mm_cvtsi32_si128(left))
                        } else {
                            _mm512_srl_epi32(codes, _mm_cvtsi32_si128(-left))
                        };
                        // (moved & mask) | one
                        let x = _mm512_ternarylogic_epi32::<0xEA>(moved, mask, one);
                        *column = S::fma(_mm512_castsi512_ps(x), scale, zero);
                    }
                    _mm512_storeu_si512(out.add(2 * quad).cast(), pair(columns[0], columns[1]));
                    _mm512_storeu_si512(out.add(2 * quad + 1).cast(), pair(columns[2], columns[3]));
                }
            }
        }
    }
}

/// An element type of float weights, see [`Half`].
pub(super) trait Element {
    /// Two columns of sixteen rows as bf16, `[row][column]`.
    ///
    /// # Safety
    /// `p` points to 32 elements; the CPU has AVX-512 as [`Avx512Vnni`].
    unsafe fn pair(p: *const u16) -> __m512i;
}
/// IEEE half.
pub(super) struct F16;
/// bfloat16.
pub(super) struct Bf16;
impl Element for F16 {
    #[inline(always)]
    unsafe fn pair(p: *const u16) -> __m512i {
        // SAFETY: passed on.
        unsafe { pair(Avx512Vnni::load_f16(p), Avx512Vnni::load_f16(p.add(ROWS))) }
    }
}
impl Element for Bf16 {
    #[inline(always)]
    unsafe fn pair(p: *const u16) -> __m512i {
        const INTERLEAVED: [u16; 32] = {
            let mut from = [0; 32];
            let mut i = 0;
            while i < 32 {
                from[i] = (i / 2 + i % 2 * ROWS) as u16;
                i += 1;
            }
            from
        };
        // SAFETY: by this function's contract.
        unsafe {
            let from = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
            _mm512_permutexvar_epi16(from, _mm512_loadu_si512(p.cast()))
        }
    }
}

/// 16-bit float weights.
pub(super) struct Half<E>(PhantomData<E>);

impl<E: Element> Weights for Half<E> {
    fn group_bytes(cols: usize) -> usize {
        2 * ROWS * cols
    }

    #[inline(always)]
    unsafe fn tile(group: *const u8, cols: usize, k: usize, out: *mut u8) {
        // SAFETY: columns below `cols` lie in the group; sixteen vectors fill the tile.
        unsafe {
            let (group, out) = (group.cast::<u16>(), out.cast::<__m512i>());
            for i in 0..BLOCK / 2 {
                let c = BLOCK * k + 2 * i;
                let columns = match cols.saturating_sub(c) {
                    0 => _mm512_setzero_si512(),
                    1 => {
                        let mut last = [0; 2 * ROWS];
                        group.add(ROWS * c).copy_to_nonoverlapping(last.as_mut_ptr(), ROWS);
                        E::pair(last.as_ptr())
                    }
                    _ => E::pair(group.add(ROWS * c)),
                };
                _mm512_storeu_si512(out.add(i).cast(), columns);
            }
        }
    }
}
