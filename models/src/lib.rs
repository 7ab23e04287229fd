//! Models: architectures as data ([`arch`]), one forward pass for all of them, and the step from a model file to
//! weights on a device ([`load`]).
//!
//! Nothing here knows a device, a thread or an instruction set: all arithmetic is a
//! [`kinfer_core::Backend`]'s.
#![forbid(unsafe_code)]

pub mod arch;
mod build;
pub mod catalog;
mod decoder;
mod plan;
mod recipe;
mod rope;
mod sampling;
pub mod source;
pub mod synthetic;

pub use build::Progress;
pub use decoder::Decoder;
pub use plan::{MemoryPlan, plan};
pub use recipe::{Recipe, Targets};
pub use sampling::SamplingDefaults;
pub use source::Source;

use arch::Blueprint;
use kinfer_core::{Backend, Model, Result};
use std::sync::Arc;

/// Loads a model onto a device. `progress` is told the bytes of the file packed so far, and in all.
///
/// # Errors
/// [`kinfer_core::Error::Unsupported`] for an architecture, tensor format or tensor that kinfer does not know;
/// [`kinfer_core::Error::Metadata`], [`kinfer_core::Error::MissingTensor`] or [`kinfer_core::Error::Shape`] for a
/// file that contradicts itself; the backend's own errors.
pub fn load<B: Backend>(backend: B, source: &dyn Source, progress: Progress<'_>) -> Result<Arc<dyn Model>> {
    build(backend, arch::read(source)?, source, progress)
}

/// [`load`] for a blueprint that the caller has read, or made.
///
/// # Errors
/// As [`load`], but for those about metadata.
pub fn build<B: Backend>(
    backend: B,
    blueprint: Blueprint,
    source: &dyn Source,
    progress: Progress<'_>,
) -> Result<Arc<dyn Model>> {
    Ok(Arc::new(build::decoder(backend, blueprint, source, progress)?))
}
