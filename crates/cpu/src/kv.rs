//! The paged KV cache.

use crate::mem::{Arena, Region};
use half::f16;
use kinfer_core::{KvType, ModelSpec, Result};
use kinfer_kernels::ops::{KvElem, KvLayout};

/// Keys and values of all layers.
pub struct Kv {
    kind: KvType,
    layers: Vec<LayerKv>,
}

pub(crate) struct LayerKv {
    pub layout: KvLayout,
    blocks: usize,
    data: Region,
}

impl Kv {
    pub(crate) fn new(spec: &ModelSpec, blocks: usize, kind: KvType, arena: &Arena) -> Result<Kv> {
        let layers = spec.layers.iter().map(|l| {
            let layout = KvLayout { kv_heads: l.attn.kv_heads, head_dim: l.attn.head_dim };
            let data = arena.alloc(blocks * layout.block_elems() * kind.bytes(), "the KV cache")?;
            Ok(LayerKv { layout, blocks, data })
        });
        Ok(Kv { kind, layers: layers.collect::<Result<_>>()? })
    }

    pub(crate) fn bytes(spec: &ModelSpec, blocks: usize, kind: KvType) -> u64 {
        let elems = |l: &kinfer_core::LayerSpec| {
            KvLayout { kv_heads: l.attn.kv_heads, head_dim: l.attn.head_dim }.block_elems()
        };
        spec.layers.iter().map(|l| (blocks * elems(l) * kind.bytes()) as u64).sum()
    }

    pub(crate) fn kind(&self) -> KvType {
        self.kind
    }

    pub(crate) fn layer(&self, i: usize) -> &LayerKv {
        &self.layers[i]
    }
}

impl LayerKv {
    /// The layer's cache, `[blocks, block_elems]`.
    ///
    /// # Safety
    /// `E` is the cache's element type, and nobody writes the parts that are read.
    pub unsafe fn elems<E: KvElem>(&self) -> &[E] {
        // SAFETY: the region is that large, zeroed, and both element types take any bits.
        unsafe {
            std::slice::from_raw_parts(self.data.as_ptr().cast(), self.blocks * self.layout.block_elems())
        }
    }

    /// One head of one block.
    ///
    /// # Safety
    /// `E` is the cache's element type, and nobody else accesses this head of this block.
    #[allow(clippy::mut_from_ref)] // workers share the cache and write disjoint heads of it
    pub unsafe fn head_mut<E: KvElem>(&self, block: u32, head: usize) -> &mut [E] {
        let range = self.layout.head(block, head);
        debug_assert!(range.end <= self.blocks * self.layout.block_elems());
        // SAFETY: block ids were checked against the cache's size when the step began.
        unsafe {
            std::slice::from_raw_parts_mut(self.data.as_mut_ptr().cast::<E>().add(range.start), range.len())
        }
    }
}

/// Calls a function that is generic over the cache's element type.
macro_rules! by_kind {
    ($kind:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $kind {
            kinfer_core::KvType::F16 => $f::<half::f16>($($arg),*),
            kinfer_core::KvType::F32 => $f::<f32>($($arg),*),
        }
    };
}
pub(crate) use by_kind;

const _: () = assert!(size_of::<f16>() == 2);
