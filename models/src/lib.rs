//! Architectures as data, one decoder, the model catalogue.

pub mod catalog;
