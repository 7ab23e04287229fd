//! The paged KV cache.

use crate::mem::{Arena, Region};
use kinfer_core::{KvTypes, LayerSpec, ModelSpec, Result};
use kinfer_kernels::ops::KvLayout;

/// Keys and values of all layers.
pub struct Kv {
    layers: Vec<LayerKv>,
}

pub(crate) struct LayerKv {
    pub layout: KvLayout,
    blocks: usize,
    data: Region,
}

fn layout(layer: &LayerSpec, types: KvTypes) -> KvLayout {
    KvLayout { kv_heads: layer.attn.kv_heads, head_dim: layer.attn.head_dim, types }
}

impl Kv {
    pub(crate) fn new(spec: &ModelSpec, blocks: usize, types: KvTypes, arena: &Arena) -> Result<Kv> {
        let layers = spec.layers.iter().map(|l| {
            let layout = layout(l, types);
            let data = arena.alloc(blocks * layout.block_bytes(), "the KV cache")?;
            Ok(LayerKv { layout, blocks, data })
        });
        Ok(Kv { layers: layers.collect::<Result<_>>()? })
    }

    pub(crate) fn bytes(spec: &ModelSpec, blocks: usize, types: KvTypes) -> u64 {
        spec.layers.iter().map(|l| (blocks * layout(l, types).block_bytes()) as u64).sum()
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
