//! EmbeddingGemma: Gemma 3 whose positions see the whole text, half a window to either side in layers that have one.
//!
//! The files may have two more products, of what was pooled ([`AFTER_POOLING`]): they are no part of the forward.

use super::{Blueprint, gemma3};
use crate::source::Config;
use kinfer_core::Result;

/// Matrices that a pooled vector is multiplied with, one after the other.
pub const AFTER_POOLING: [&str; 2] = ["dense_2.weight", "dense_3.weight"];

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    // Their sizes, which the tensors have too.
    config.ignore(&["dense_2_feat_", "dense_3_feat_"]);
    let mut b = gemma3::encoder(config)?;
    b.names.ignored = &AFTER_POOLING;
    Ok(b)
}
