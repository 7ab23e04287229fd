//! LFM2 with mixtures of experts, which sigmoids with a bias on the choice choose, after the first layers.

pub(super) use super::lfm2::mixture as read;
