//! The paged cache.

use crate::mem::{Arena, Region};
use kinfer_core::{AttnSpec, ConvSpec, DeltaSpec, KvTypes, PartSpec, Result};
use kinfer_kernels::ops::KvLayout;
use std::ops::Range;

/// Keys and values of the attention blocks of a part, the tails of its convolutions, and the states of its delta nets.
pub struct Kv {
    layers: Vec<LayerKv>,
    tails: Vec<Tails>,
    states: Vec<States>,
}

/// The states of a delta net, `[states, key_heads, head_state]`.
pub(crate) struct States {
    spec: DeltaSpec,
    states: usize,
    data: Region,
}

/// The tails of a convolution's cache blocks, `[blocks, tail, width]`.
pub(crate) struct Tails {
    spec: ConvSpec,
    blocks: usize,
    data: Region,
}

pub(crate) struct LayerKv {
    pub layout: KvLayout,
    blocks: usize,
    data: Region,
}

fn layout(attn: &AttnSpec, types: KvTypes) -> KvLayout {
    KvLayout { kv_heads: attn.kv_heads, head_dim: attn.head_dim, types }
}

impl Kv {
    pub(crate) fn new(
        part: &PartSpec,
        blocks: usize,
        states: usize,
        types: KvTypes,
        arena: &Arena,
    ) -> Result<Kv> {
        let layers = part.attn.iter().map(|attn| {
            let layout = layout(attn, types);
            let data = arena.alloc(blocks * layout.block_bytes(), "the KV cache")?;
            Ok(LayerKv { layout, blocks, data })
        });
        let tails = part.conv.iter().map(|&spec| {
            let data = arena.alloc(spec.tail_bytes(blocks), "the tails of convolutions")?;
            Ok(Tails { spec, blocks, data })
        });
        let states = part.delta.iter().map(|&spec| {
            let data = arena.alloc(spec.state_bytes(states), "the states of delta nets")?;
            Ok(States { spec, states, data })
        });
        Ok(Kv {
            layers: layers.collect::<Result<_>>()?,
            tails: tails.collect::<Result<_>>()?,
            states: states.collect::<Result<_>>()?,
        })
    }

    pub(crate) fn bytes(part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        let attn = part.attn.iter().map(|attn| (blocks * layout(attn, types).block_bytes()) as u64);
        let tails = part.conv.iter().map(|conv| conv.tail_bytes(blocks) as u64);
        attn.chain(tails).chain(part.delta.iter().map(|delta| delta.state_bytes(states) as u64)).sum()
    }

    pub(crate) fn tails(&self, i: usize) -> &Tails {
        &self.tails[i]
    }

    pub(crate) fn states(&self, i: usize) -> &States {
        &self.states[i]
    }

    pub(crate) fn layer(&self, i: usize) -> &LayerKv {
        &self.layers[i]
    }
}

impl States {
    /// A key head of a state, `[head_state]`.
    ///
    /// # Safety
    /// Nobody else accesses it.
    #[allow(clippy::mut_from_ref)] // workers share the states and take disjoint heads
    pub unsafe fn head_mut(&self, state: usize, key: usize) -> &mut [f32] {
        let (heads, len) = (self.spec.key_heads, self.spec.head_state());
        assert!(state < self.states && key < heads, "head {key} of state {state}");
        // SAFETY: within the region, which is zeroed and aligned to a cache line; exclusive by this function's contract.
        unsafe {
            let first = self.data.as_mut_ptr().cast::<f32>().add((state * heads + key) * len);
            std::slice::from_raw_parts_mut(first, len)
        }
    }
}

impl Tails {
    /// Where channels `cols` of row `row` begin, see [`ConvSpec::tail_row`].
    fn at(&self, row: usize, cols: &Range<usize>) -> *mut f32 {
        let ConvSpec { width, .. } = self.spec;
        let inside = row < self.blocks * self.spec.tail() && cols.start <= cols.end && cols.end <= width;
        assert!(inside, "row {row}, channels {cols:?} of the tails");
        self.data.as_mut_ptr().cast::<f32>().wrapping_add(row * width + cols.start)
    }

    /// These channels of that row.
    ///
    /// # Safety
    /// Nobody writes them.
    pub unsafe fn row(&self, row: usize, cols: Range<usize>) -> &[f32] {
        // SAFETY: within the region, which is zeroed and aligned to a cache line.
        unsafe { std::slice::from_raw_parts(self.at(row, &cols), cols.len()) }
    }

    /// The same.
    ///
    /// # Safety
    /// Nobody else accesses them.
    #[allow(clippy::mut_from_ref)] // workers share the tails and write disjoint channels of them
    pub unsafe fn row_mut(&self, row: usize, cols: Range<usize>) -> &mut [f32] {
        // SAFETY: as in `row`.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, &cols), cols.len()) }
    }
}

impl LayerKv {
    /// The layer's cache, `[blocks, block_bytes]`.
    ///
    /// # Safety
    /// Nobody writes the parts that are read.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the region is that large, and zeroed.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.blocks * self.layout.block_bytes()) }
    }

    /// One head of one block.
    ///
    /// # Safety
    /// Nobody else accesses this head of this block.
    #[allow(clippy::mut_from_ref)] // workers share the cache and write disjoint heads of it
    pub unsafe fn head_mut(&self, block: u32, head: usize) -> &mut [u8] {
        let range = self.layout.head(block, head);
        debug_assert!(range.end <= self.blocks * self.layout.block_bytes());
        // SAFETY: block ids were checked against the cache's size when the step began.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_mut_ptr().add(range.start), range.len()) }
    }
}
