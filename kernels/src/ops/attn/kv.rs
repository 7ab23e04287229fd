//! Layout of the KV cache.

use super::BLOCK_LEN;
use super::format::{KvFormat, KvTypes, UNIT};
use crate::ops::lanes::load_n;
use crate::simd::{LANES, Simd};
use half::f16;
use std::ops::Range;

/// Bytes of the scales of one group of dimensions, for all positions of a block.
pub(crate) const SCALES: usize = BLOCK_LEN * size_of::<f16>();

// A unit of keys is one dimension of a block.
const _: () = assert!(UNIT == BLOCK_LEN);

/// Shape of a layer's KV blocks.
///
/// A block holds, head after head, the keys transposed, `[head_dim][BLOCK_LEN]`, so that a vector holds one element
/// of sixteen keys and scores need no horizontal sums, and their scales, `[group][BLOCK_LEN]`; then the values,
/// `[BLOCK_LEN][v_stride bytes]`, and their scales, `[group][BLOCK_LEN]`. A group is 32 dimensions, the last one what is left;
/// only [`KvType::Q8_0`](super::KvType::Q8_0) and [`KvType::Q4_0`](super::KvType::Q4_0) have scales, in half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Types of keys and of values.
    pub types: KvTypes,
}

impl KvLayout {
    /// Bytes from one position's values to the next: `head_dim` in whole vectors; where two vectors share their bytes, in
    /// whole pairs.
    pub fn v_stride(&self) -> usize {
        let unit = self.types.v.unit_bytes();
        let whole = if unit < UNIT { UNIT } else { LANES };
        self.head_dim.next_multiple_of(whole) * unit / UNIT
    }

    /// Bytes of one head's keys and their scales: where its values begin.
    pub fn keys_bytes(&self) -> usize {
        self.head_dim * self.types.k.unit_bytes() + SCALES * self.types.k.scales(self.head_dim)
    }

    /// Bytes of one head of a block.
    pub fn head_bytes(&self) -> usize {
        let values = BLOCK_LEN * self.v_stride() + SCALES * self.types.v.scales(self.head_dim);
        self.keys_bytes() + values
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_bytes())
    }

    /// Where head `head` of block `block` lies in the layer's cache.
    pub fn head(&self, block: u32, head: usize) -> Range<usize> {
        // Saturated: beyond any cache rather than wrapped into it.
        let block = (block as usize).saturating_mul(self.block_bytes());
        let start = block.saturating_add(head.saturating_mul(self.head_bytes()));
        start..start.saturating_add(self.head_bytes())
    }
}

/// Keys and values of one head at consecutive positions of one block.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// Row `r`'s key at `k[r * stride..]`, `head_dim` elements.
    pub k: &'a [f32],
    /// Row `r`'s value at `v[r * stride..]`.
    pub v: &'a [f32],
    /// Elements from one row to the next in `k` and in `v`.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Place of the first row in its block: `position % BLOCK_LEN`; `slot + rows <= BLOCK_LEN`.
    pub slot: usize,
}

impl KvRows<'_> {
    /// Whether the slices hold what the other fields promise, and the rows lie in a block.
    pub(super) fn fits(&self, head_dim: usize) -> bool {
        let KvRows { k, v, stride, rows, slot } = *self;
        let len = k.len().min(v.len());
        rows > 0
            && slot.checked_add(rows).is_some_and(|n| n <= BLOCK_LEN)
            && head_dim <= len
            && stride.checked_mul(rows - 1).is_some_and(|n| n <= len - head_dim)
    }
}

/// Elements `d ..` of a row of `head_dim`, up to 32; zeros follow.
#[inline(always)]
unsafe fn unit<S: Simd>(row: *const f32, d: usize, head_dim: usize) -> [S::F; 2] {
    let p = row.wrapping_add(d);
    // SAFETY: `head_dim` elements at `row`, `d` less than that.
    unsafe {
        [
            load_n::<S>(p, head_dim - d),
            load_n::<S>(p.wrapping_add(LANES), (head_dim - d).saturating_sub(LANES)),
        ]
    }
}

/// Writes the keys of `rows` into a head of the layout `layout`.
#[inline(always)]
pub(crate) unsafe fn write_keys<S: Simd, K: KvFormat>(layout: KvLayout, head: *mut u8, rows: KvRows<'_>) {
    let head_dim = layout.head_dim;
    for r in 0..rows.rows {
        for d in (0..head_dim).step_by(UNIT) {
            // SAFETY: the head is `layout`'s and `rows` fit, by the caller: each dimension has a unit, each group its scales.
            unsafe {
                let (codes, scale) =
                    K::encode::<S>(unit::<S>(rows.k.as_ptr().add(r * rows.stride), d, head_dim));
                for (i, &code) in codes.iter().enumerate().take(head_dim - d) {
                    K::set(head.add((d + i) * K::UNIT_BYTES), rows.slot + r, code);
                }
                if K::SCALED {
                    let scales = head.add(head_dim * K::UNIT_BYTES + d / UNIT * SCALES).cast::<u16>();
                    scales.add(rows.slot + r).write_unaligned(scale);
                }
            }
        }
    }
}

/// Writes the values of `rows` into a head of the layout `layout`.
#[inline(always)]
pub(crate) unsafe fn write_values<S: Simd, V: KvFormat>(layout: KvLayout, head: *mut u8, rows: KvRows<'_>) {
    let (head_dim, v_stride) = (layout.head_dim, layout.v_stride());
    // SAFETY: the head is `layout`'s, by the caller.
    let values = unsafe { head.add(layout.keys_bytes()) };
    for r in 0..rows.rows {
        for d in (0..head_dim).step_by(UNIT) {
            // SAFETY: as above, and `rows` fit: a row is `v_stride` bytes, each group has its scales after the last row.
            unsafe {
                let (codes, scale) =
                    V::encode::<S>(unit::<S>(rows.v.as_ptr().add(r * rows.stride), d, head_dim));
                let at = d / UNIT * V::UNIT_BYTES;
                let to = values.add((rows.slot + r) * v_stride + at);
                for (i, &code) in codes.iter().enumerate().take((v_stride - at) * UNIT / V::UNIT_BYTES) {
                    V::set(to, i, code);
                }
                if V::SCALED {
                    let scales = values.add(BLOCK_LEN * v_stride + d / UNIT * SCALES).cast::<u16>();
                    scales.add(rows.slot + r).write_unaligned(scale);
                }
            }
        }
    }
}
