//! Layout of the KV cache.

use super::{Attend, BLOCK_LEN};
use crate::amx::TileAttend;
use crate::ops::{Ops, lanes::load_n};
use crate::simd::{LANES, Simd};
use half::f16;
use std::ops::Range;

/// Shape of a layer's KV blocks.
///
/// A block holds, head after head, the keys transposed, `[head_dim][BLOCK_LEN]`, so that a vector holds one element
/// of sixteen keys and scores need no horizontal sums; then the values, `[BLOCK_LEN][v_stride]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Elements from one position's values to the next: `head_dim` in whole vectors.
    pub fn v_stride(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Elements of one head of a block.
    pub fn head_elems(&self) -> usize {
        BLOCK_LEN * (self.head_dim + self.v_stride())
    }

    /// Elements of a block.
    pub fn block_elems(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_elems())
    }

    /// Where head `head` of block `block` lies in the layer's cache.
    pub fn head(&self, block: u32, head: usize) -> Range<usize> {
        // Saturated: beyond any cache rather than wrapped into it.
        let block = (block as usize).saturating_mul(self.block_elems());
        let start = block.saturating_add(head.saturating_mul(self.head_elems()));
        start..start.saturating_add(self.head_elems())
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

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
}

/// Element type of a KV cache: `f32`, the reference, or `f16`.
pub trait KvElem: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// Loads 16 elements.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// Stores 16 elements.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F);
    /// [`Ops::kv_write`] for this type.
    fn kv_write(ops: &Ops, head_dim: usize, head: &mut [Self], rows: KvRows<'_>);
    /// [`Ops::attend`] for this type.
    fn attend(
        ops: &Ops,
        a: &Attend<'_, Self>,
        partition: usize,
        partials: &mut [f32],
        tiles: Option<&mut TileAttend<'_>>,
    );
}

impl KvElem for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        // SAFETY: passed on.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f32, v: S::F) {
        // SAFETY: passed on.
        unsafe { S::store(p, v) }
    }
    fn kv_write(ops: &Ops, head_dim: usize, head: &mut [f32], rows: KvRows<'_>) {
        ops.kv_write_f32(head_dim, head, rows);
    }
    fn attend(
        ops: &Ops,
        a: &Attend<'_, f32>,
        partition: usize,
        partials: &mut [f32],
        _: Option<&mut TileAttend<'_>>,
    ) {
        ops.attend_f32(a, partition, partials);
    }
}

impl KvElem for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f16) -> S::F {
        // SAFETY: passed on; `f16` is a transparent `u16`.
        unsafe { S::load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f16, v: S::F) {
        // SAFETY: passed on; `f16` is a transparent `u16`.
        unsafe { S::store_f16(p.cast(), v) }
    }
    fn kv_write(ops: &Ops, head_dim: usize, head: &mut [f16], rows: KvRows<'_>) {
        ops.kv_write_f16(head_dim, head, rows);
    }
    fn attend(
        ops: &Ops,
        a: &Attend<'_, f16>,
        partition: usize,
        partials: &mut [f32],
        tiles: Option<&mut TileAttend<'_>>,
    ) {
        match tiles {
            Some(tiles) => tiles.attend(a, partition, partials),
            None => ops.attend_f16(a, partition, partials),
        }
    }
}

#[inline(always)]
pub unsafe fn kv_write<S: Simd, E: KvElem>(head_dim: usize, head: &mut [E], rows: KvRows<'_>) {
    let KvRows { k, v, stride, rows, slot } = rows;
    let layout = KvLayout { kv_heads: 1, head_dim };
    let fits = rows > 0
        && slot.checked_add(rows).is_some_and(|n| n <= BLOCK_LEN)
        && head_dim <= k.len().min(v.len())
        && stride.checked_mul(rows - 1).is_some_and(|n| n <= k.len().min(v.len()) - head_dim)
        && head.len() >= layout.head_elems();
    debug_assert!(fits, "{rows} rows of {head_dim} at slot {slot}");
    if !fits {
        return;
    }
    let (keys, values) = head.split_at_mut(BLOCK_LEN * head_dim);
    for r in 0..rows {
        for d in (0..head_dim).step_by(LANES) {
            // SAFETY: by `fits`, row `r` has `head_dim - d` elements from `d` on in `k` and in `v`, and place
            // `slot + r` lies in the block, whose value rows are whole vectors.
            unsafe {
                let n = head_dim - d;
                let at = r * stride + d;
                let mut b = [E::default(); LANES];
                E::store::<S>(b.as_mut_ptr(), load_n::<S>(k.as_ptr().add(at), n));
                for (i, &e) in b.iter().enumerate().take(n) {
                    *keys.get_unchecked_mut((d + i) * BLOCK_LEN + slot + r) = e;
                }
                let row = values.as_mut_ptr().add((slot + r) * layout.v_stride() + d);
                E::store::<S>(row, load_n::<S>(v.as_ptr().add(at), n));
            }
        }
    }
}
