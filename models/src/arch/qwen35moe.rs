//! Qwen 3.5 with mixtures of experts: Qwen 3.5 but for its feed-forwards.

use super::{Blueprint, qwen35};
use crate::source::Config;
use kinfer_core::{HeadSharing, Result};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    qwen35::mixture(config, HeadSharing::Turns)
}
