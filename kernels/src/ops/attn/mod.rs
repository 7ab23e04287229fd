//! Attention over a paged KV cache.
//!
//! Keys are visited in fixed places: tiles of [`BLOCK_LEN`] positions within partitions of [`PARTITION_LEN`], both
//! counted from position 0. A partition yields a partial softmax `(m, l, o)` per query: the largest score, the sum of
//! the weights `e^(score - m)`, and the weighted sum of the values (Milakov & Gimelshein 2018; Dao et al. 2022).
//! Partials are merged in ascending order. A query takes part in nothing but the tiles that hold a key it sees, and
//! adds up those keys alone, in ascending order. So its result has the same bits whatever queries are computed
//! beside it, however the prompt is cut and wherever the partitions are computed.

mod format;
mod kernel;
mod kv;

pub(crate) use format::{Bf16, F16, F32, KvFormat, Q4_0, Q8_0};
pub use format::{KvType, KvTypes};
pub(crate) use kernel::{Tile, scores, weigh};
pub use kernel::{attend, finish, merge};
pub use kv::{KvLayout, KvRows};
pub(crate) use kv::{write_keys, write_values};
#[cfg(target_arch = "x86_64")]
pub(crate) use {format::UNIT, kernel::softmax, kv::SCALES};

use super::Ops;
use crate::bf16::TileAttend;
use crate::simd::LANES;
use std::ops::Range;

/// Positions of a KV block: two vectors of keys.
pub const BLOCK_LEN: usize = 32;

/// Positions whose keys one partial result covers. 8 blocks: long enough that the merge is lost in the noise (2 % of
/// the work), short enough to spread a decode at depth over threads.
pub const PARTITION_LEN: usize = 256;

/// Dimensions and positions up to here are sure not to overflow where they are multiplied by small constants.
pub(crate) const LIMIT: usize = i32::MAX as usize;

/// Queries of one key/value head, for consecutive positions of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// Shape of the cache's blocks.
    pub layout: KvLayout,
    /// The layer's blocks, `[blocks, layout.block_bytes()]`.
    pub cache: &'a [u8],
    /// The sequence's block table: position `p` lies in block `table[p / BLOCK_LEN]`.
    pub table: &'a [u32],
    /// The key/value head that all queries share.
    pub kv_head: usize,
    /// Query heads that share it.
    pub group: usize,
    /// The queries: head `g` of row `r` at `q[r * q_stride + g * head_dim..]`.
    pub q: &'a [f32],
    /// Elements from one row to the next in `q`.
    pub q_stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row; row `r` is at `start + r`.
    pub start: usize,
    /// Length of the sequence where rows see keys behind their own, too; `None`: each sees those up to and including its own.
    pub whole: Option<usize>,
    /// Sliding window: a query at position `p` sees no key at or below `p - window`, nor one at or above `p + window`.
    pub window: Option<usize>,
    /// Multiplies the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// One slope for each head of the group: a score loses that much for each position between query and key, whichever comes first
    /// (Press et al. 2021, arXiv 2108.12409), after the cap.
    pub alibi: Option<&'a [f32]>,
    /// One for each head of the group: a score that the softmax takes into account and no value belongs to (attention sinks, as
    /// in gpt-oss).
    pub sinks: Option<&'a [f32]>,
}

impl Attend<'_> {
    /// The partitions that hold a visible key of some row.
    pub fn partitions(&self) -> Range<usize> {
        live_partitions(self.start, self.rows, self.whole, self.window)
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.rows * self.group
    }

    /// Rows that see some key of the tile at `tile`: neither is all of it behind what they see nor are they a window past it.
    pub(crate) fn rows_seeing(&self, tile: usize) -> Range<usize> {
        let end = match self.window {
            None => self.rows,
            Some(0) => 0,
            Some(w) => (tile + BLOCK_LEN - 1).saturating_add(w).saturating_sub(self.start).min(self.rows),
        };
        let first = match (self.whole, self.window) {
            (None, _) => tile,
            (Some(len), _) if tile >= len => return 0..0,
            (Some(_), window) => window.map_or(0, |w| (tile + 1).saturating_sub(w)),
        };
        first.saturating_sub(self.start)..end
    }

    /// Keys seen by the query at `position`.
    fn visible(&self, position: usize) -> Range<usize> {
        visible(position, self.whole, self.window)
    }

    /// The first position whose key no row sees. For tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn end(&self) -> usize {
        self.visible((self.start + self.rows).saturating_sub(1)).end
    }

    /// The keys of the tile at `tile` that row `row` sees, counted from the tile's first.
    pub(crate) fn seen(&self, row: usize, tile: usize) -> (usize, usize) {
        let seen = self.visible(self.start + row);
        (seen.start.saturating_sub(tile), (seen.end - tile).min(BLOCK_LEN))
    }

    /// Empties the partial results of all queries, `[queries, partial_len]`. `false`, and nothing done, where the slices do not hold
    /// what the fields promise.
    pub(crate) fn begin(&self, partials: &mut [f32]) -> bool {
        let fits = self.fits(partials.len());
        debug_assert!(fits, "slices do not fit {} rows of {} in {:?}", self.rows, self.group, self.layout);
        if fits {
            let stride = partial_len(self.layout.head_dim);
            for p in partials[..self.queries() * stride].chunks_exact_mut(stride) {
                p.fill(0.0);
                p[0] = f32::NEG_INFINITY;
            }
        }
        fits
    }

    /// Whether the slices hold what the other fields promise.
    fn fits(&self, partials: usize) -> bool {
        let KvLayout { kv_heads, head_dim, types: _ } = self.layout;
        let small = [kv_heads, head_dim, self.group, self.rows, self.start].iter().all(|&n| n <= LIMIT);
        small
            && self.kv_head < kv_heads
            && self.alibi.is_none_or(|slopes| slopes.len() == self.group)
            && self.rows > 0
            && self
                .q_stride
                .checked_mul(self.rows - 1)
                .and_then(|n| n.checked_add(self.group.checked_mul(head_dim)?))
                .is_some_and(|n| n <= self.q.len())
            && self.queries().checked_mul(partial_len(head_dim)).is_some_and(|n| n <= partials)
    }
}

/// Keys seen by the query at `position`, see [`Attend::whole`] and [`Attend::window`].
fn visible(position: usize, whole: Option<usize>, window: Option<usize>) -> Range<usize> {
    let end = match whole {
        None => position + 1,
        Some(len) => window.map_or(len, |w| len.min(position.saturating_add(w))),
    };
    window.map_or(0, |w| (position + 1).saturating_sub(w))..end
}

/// The partitions that hold a key visible to some of `rows` queries at positions `start..`, see [`Attend::whole`].
pub fn live_partitions(
    start: usize,
    rows: usize,
    whole: Option<usize>,
    window: Option<usize>,
) -> Range<usize> {
    let first = visible(start, whole, window).start;
    let end = visible((start + rows).saturating_sub(1), whole, window).end;
    first / PARTITION_LEN..end.div_ceil(PARTITION_LEN)
}

/// Floats before `o` in a partial result: a vector with `m` and whether any key was seen (1 or 0), and the sum of
/// weights `l` as a vector whose lanes are added up at the end.
pub(crate) const PARTIAL_HEAD: usize = 2 * LANES;

/// Floats of a query's partial result: `m`, `l`, and `o`, padded to whole vectors.
pub fn partial_len(head_dim: usize) -> usize {
    PARTIAL_HEAD + head_dim.next_multiple_of(LANES)
}

/// What one instruction set does with one type of keys and of values.
pub(crate) struct KvOps {
    /// See [`write_keys`].
    pub write_keys: unsafe fn(KvLayout, *mut u8, KvRows<'_>),
    /// See [`write_values`].
    pub write_values: unsafe fn(KvLayout, *mut u8, KvRows<'_>),
    /// See [`scores`].
    pub scores: TileFn,
    /// See [`weigh`].
    pub weigh: TileFn,
}

/// A step of a tile's first `n` queries.
pub(crate) type TileFn = unsafe fn(&mut Tile, usize);

impl Ops {
    /// Writes keys and values of consecutive positions into one head of one block:
    /// `head` is `cache[layout.head(block, kv_head)]`. What is written for a position depends on nothing else.
    pub fn kv_write(&self, layout: KvLayout, head: &mut [u8], rows: KvRows<'_>) {
        let fits = rows.fits(layout.head_dim) && head.len() >= layout.head_bytes();
        debug_assert!(fits, "{} rows at slot {} in {layout:?}", rows.rows, rows.slot);
        if fits {
            // SAFETY: `Ops::new` hands the record out only where the CPU has its instruction set; by `fits`.
            unsafe {
                (self.kv[layout.types.k as usize].write_keys)(layout, head.as_mut_ptr(), rows);
                (self.kv[layout.types.v as usize].write_values)(layout, head.as_mut_ptr(), rows);
            }
        }
    }

    /// Computes the partial results of all queries over one partition: `partials`, `[rows, group, partial_len]`, is
    /// overwritten. A query that sees no key of the partition gets an empty partial. With `tiles`, caches go through them,
    /// unless keys or values are in single precision.
    pub fn attend(
        &self,
        a: &Attend<'_>,
        partition: usize,
        partials: &mut [f32],
        tiles: Option<&mut TileAttend<'_>>,
    ) {
        let KvTypes { k, v } = a.layout.types;
        match tiles {
            Some(tiles) if k != KvType::F32 && v != KvType::F32 => tiles.attend(a, partition, partials),
            _ => {
                let (k, v) = (&self.kv[k as usize], &self.kv[v as usize]);
                self.attend_by(a, partition, partials, k.scores, v.weigh);
            }
        }
    }

    /// Attention of all queries: every live partition in turn, merged and finished. Row `r`, head `g` goes to
    /// `out[r * stride + g * head_dim..]`. `scratch` holds `2 * queries * partial_len` floats.
    pub fn attention(
        &self,
        a: &Attend<'_>,
        scratch: &mut [f32],
        out: &mut [f32],
        stride: usize,
        mut tiles: Option<&mut TileAttend<'_>>,
    ) {
        let head_dim = a.layout.head_dim;
        let len = a.queries() * partial_len(head_dim);
        debug_assert!(scratch.len() >= 2 * len);
        let (partials, next) = scratch.split_at_mut(len.min(scratch.len() / 2));
        let next = &mut next[..partials.len()];
        let live = a.partitions();
        self.attend(a, live.start, partials, tiles.as_deref_mut());
        for partition in live.skip(1) {
            self.attend(a, partition, next, tiles.as_deref_mut());
            self.merge(head_dim, partials, next);
        }
        self.finish(head_dim, a.group, partials, a.sinks, out, stride);
    }
}
