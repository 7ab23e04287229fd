//! The paged KV cache on the device; `kernels/cuda/attention.cu` has its layout.

use crate::delta;
use crate::driver::Gpu;
use crate::memory::Buffer;
use kinfer_core::batch::BLOCK_LEN;
use kinfer_core::{AttnSpec, Error, KvType, KvTypes, PartSpec, Result};
use std::sync::Arc;

/// Largest width of a head that the kernels take.
pub(crate) const MAX_HEAD_DIM: usize = 256;
/// Largest width of a latent with what turns beside it, that they take.
pub(crate) const MAX_LATENT: usize = 640;

/// Keys and values of the attention blocks of a part, the tails of its convolutions, and the states of its delta nets.
pub struct Kv {
    layers: Vec<Buffer>,
    tails: Vec<Buffer>,
    /// Of each delta net what was convolved last, and the states of its heads.
    states: Vec<[Buffer; 2]>,
    types: KvTypes,
}

/// A layer's cache as kernels take it: `Cache` of `attention.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Cache {
    data: u64,
    blocks: u64,
    kv_heads: i32,
    head_dim: i32,
    k_type: i32,
    v_type: i32,
    k_row: i32,
    v_row: i32,
}

/// `enum Type` of `attention.cu`.
fn code(kind: KvType) -> Option<i32> {
    match kind {
        KvType::F32 => Some(0),
        KvType::F16 => Some(1),
        KvType::Bf16 => Some(2),
        KvType::Q8_0 => Some(3),
        KvType::Q4_0 => None,
    }
}

/// Bytes of a position's row of one head.
fn row_bytes(kind: KvType, head_dim: usize) -> usize {
    let padded = head_dim.next_multiple_of(8);
    let bytes = match kind {
        KvType::F32 => 4 * padded,
        KvType::F16 | KvType::Bf16 => 2 * padded,
        KvType::Q8_0 | KvType::Q4_0 => padded + 2 * padded.div_ceil(32),
    };
    bytes.next_multiple_of(16)
}

fn block_bytes(spec: &AttnSpec, types: KvTypes) -> usize {
    spec.kv_heads * BLOCK_LEN * (row_bytes(types.k, spec.head_dim) + row_bytes(types.v, spec.head_dim))
}

impl Kv {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        part: &PartSpec,
        blocks: usize,
        states: usize,
        types: KvTypes,
    ) -> Result<Kv> {
        for kind in [types.k, types.v] {
            if code(kind).is_none() {
                let supported = "f32, f16, bf16 and q8_0".into();
                return Err(Error::CacheType { device: "cuda".into(), kind, supported });
            }
        }
        let cleared = |bytes, what| {
            let data = gpu.alloc(bytes, what)?;
            data.clear()?;
            Ok(data)
        };
        let layers = part.attn.iter().map(|attn| cleared(blocks * block_bytes(attn, types), "the KV cache"));
        let tails =
            part.conv.iter().map(|conv| cleared(conv.tail_bytes(blocks), "the tails of convolutions"));
        // A position 0 finds zeros, whatever is there.
        let states = part.delta.iter().map(|delta| {
            let [past, heads] =
                delta::state_bytes(delta).map(|n| cleared(states * n, "the states of delta nets"));
            Ok([past?, heads?])
        });
        Ok(Kv {
            layers: layers.collect::<Result<_>>()?,
            tails: tails.collect::<Result<_>>()?,
            states: states.collect::<Result<_>>()?,
            types,
        })
    }

    pub(crate) fn bytes(part: &PartSpec, blocks: usize, states: usize, types: KvTypes) -> u64 {
        let attn = part.attn.iter().map(|attn| blocks * block_bytes(attn, types));
        let conv = part.conv.iter().map(|conv| conv.tail_bytes(blocks));
        let delta = part.delta.iter().map(|delta| states * delta::state_bytes(delta).iter().sum::<usize>());
        attn.chain(conv).chain(delta).map(|bytes| bytes as u64).sum()
    }

    /// The tails of convolution block `layer`, `[blocks, tail, width]`.
    pub(crate) fn tails(&self, layer: usize) -> u64 {
        self.tails[layer].pointer()
    }

    /// What delta net `layer` convolved last, and the states of its heads.
    pub(crate) fn states(&self, layer: usize) -> [u64; 2] {
        self.states[layer].each_ref().map(Buffer::pointer)
    }

    /// The cache of attention block `layer`, with block tables at `blocks` of the device.
    pub(crate) fn cache(&self, layer: usize, spec: &AttnSpec, blocks: u64) -> Cache {
        Cache {
            data: self.layers[layer].pointer(),
            blocks,
            kv_heads: spec.kv_heads as i32,
            head_dim: spec.head_dim as i32,
            k_type: code(self.types.k).unwrap_or_default(),
            v_type: code(self.types.v).unwrap_or_default(),
            k_row: row_bytes(self.types.k, spec.head_dim) as i32,
            v_row: row_bytes(self.types.v, spec.head_dim) as i32,
        }
    }
}
