//! The kernels that every model needs, by name.

use crate::driver::{Function, Gpu};
use crate::stages;
use kinfer_core::Result;

/// Kernels on rows, and of attention.
pub(crate) struct Kernels {
    pub norm: Function,
    pub round: Function,
    pub add_norm: Function,
    pub norm_heads: Function,
    pub rope: Function,
    pub activate: Function,
    pub add: Function,
    pub add_bias: Function,
    pub add_positions: Function,
    pub gather: Function,
    pub softcap: Function,
    pub route: Function,
    pub gate_rows: Function,
    pub mix: Function,
    pub group_rows: Function,
    pub short_conv: Function,
    pub draw: Function,
    pub kv_write: Function,
    pub qkv_finish: Function,
    /// For groups of up to 2 and 4 query heads; larger ones are divided.
    pub attend_partition: [(usize, Function); 2],
    pub attend_latent: Function,
    pub attend_merge: Function,
    pub gate_columns: Function,
    pub rearrange: Function,
    pub rearrange_to_rows: Function,
    pub attend_prompt: Option<[(stages::Tile, Function); stages::TILES.len()]>,
}

impl Kernels {
    pub fn new(gpu: &Gpu) -> Result<Kernels> {
        let rows = |name| gpu.function("rows", name);
        let attention = |name: &str| gpu.function("attention", name);
        let partition = |heads: usize| Ok((heads, attention(&format!("attend_partition_{heads}"))?));
        let prompt = |tile: stages::Tile| {
            let function = attention(tile.name)?;
            gpu.allow_shared(&function, tile.shared())?;
            Ok((tile, function))
        };
        Ok(Kernels {
            norm: rows("norm_rows")?,
            round: rows("round_rows")?,
            add_norm: rows("add_norm")?,
            norm_heads: rows("norm_heads")?,
            rope: rows("rope_rows")?,
            activate: rows("activate")?,
            add: rows("add_rows")?,
            add_bias: rows("add_bias")?,
            add_positions: rows("add_positions")?,
            gather: rows("gather_rows")?,
            softcap: rows("softcap")?,
            route: rows("route")?,
            gate_rows: rows("gate_rows")?,
            mix: rows("mix")?,
            group_rows: rows("group_rows")?,
            short_conv: rows("short_conv")?,
            draw: gpu.function("draw", "draw")?,
            kv_write: attention("kv_write")?,
            qkv_finish: attention("qkv_finish")?,
            attend_partition: [partition(2)?, partition(4)?],
            attend_latent: attention("attend_latent")?,
            attend_merge: attention("attend_merge")?,
            gate_columns: rows("gate_columns")?,
            rearrange: rows("rearrange")?,
            rearrange_to_rows: rows("rearrange_to_rows")?,
            attend_prompt: match gpu.has_bf16() {
                true => {
                    let [narrow, biased, middle, wide] = stages::TILES;
                    Some([prompt(narrow)?, prompt(biased)?, prompt(middle)?, prompt(wide)?])
                }
                false => None,
            },
        })
    }
}
