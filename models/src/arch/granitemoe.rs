//! Granite with mixtures of experts: Granite but for its feed-forwards.

use super::{Blueprint, common::Common, granite};
use crate::source::Config;
use kinfer_core::{NormKind, Result, Scores};

pub(super) fn read(config: &Config<'_>) -> Result<Blueprint> {
    let mut c = Common::read(config, NormKind::Rms)?;
    c.experts(config, Scores::Softmax, true)?;
    granite::multiplied(config, c)
}
