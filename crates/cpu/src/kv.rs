//! The paged KV cache.

use crate::mem::{Arena, Region};
use kinfer_core::{AttnSpec, KvTypes, PartSpec, Result};
use kinfer_kernels::ops::KvLayout;

/// Keys and values of the attention blocks of a part.
pub struct Kv {
    layers: Vec<LayerKv>,
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
    pub(crate) fn new(part: &PartSpec, blocks: usize, types: KvTypes, arena: &Arena) -> Result<Kv> {
        let layers = part.attn.iter().map(|attn| {
            let layout = layout(attn, types);
            let data = arena.alloc(blocks * layout.block_bytes(), "the KV cache")?;
            Ok(LayerKv { layout, blocks, data })
        });
        Ok(Kv { layers: layers.collect::<Result<_>>()? })
    }

    pub(crate) fn bytes(part: &PartSpec, blocks: usize, types: KvTypes) -> u64 {
        part.attn.iter().map(|attn| (blocks * layout(attn, types).block_bytes()) as u64).sum()
    }

    pub(crate) fn layer(&self, i: usize) -> &LayerKv {
        &self.layers[i]
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
