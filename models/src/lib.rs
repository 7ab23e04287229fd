//! Models: architectures as data ([`arch`]), one forward pass for all of them, and the step from a model file to
//! weights on a device ([`load`]).
//!
//! Nothing here knows a device, a thread or an instruction set: all arithmetic is a
//! [`kinfer_core::Backend`]'s.
#![forbid(unsafe_code)]

mod alibi;
pub mod arch;
mod build;
pub mod catalog;
mod decoder;
mod loading;
mod parts;
mod place;
mod plan;
mod recipe;
mod rope;
mod sampling;
pub mod scales;
pub mod source;
mod states;
pub mod synthetic;
mod tails;

pub use loading::Progress;
pub use parts::Placement;
pub use place::Place;
pub use recipe::{Recipe, Targets};
pub use sampling::SamplingDefaults;
pub use source::Source;

use arch::Blueprint;
use kinfer_core::{Backend, DeviceMemory, Model, Result, RunnerLimits};
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
    let placement = Placement::whole(blueprint.spec.layers.len());
    build_parts(vec![Place::new(backend)], &placement, blueprint, source, progress)
}

/// [`build`] for several devices, each of which has the blocks that `placement` gives it.
///
/// # Errors
/// As [`build`]; [`kinfer_core::Error::Batch`] for a placement that does not fit the model or the devices.
pub fn build_parts(
    places: Vec<Place>,
    placement: &Placement,
    blueprint: Blueprint,
    source: &dyn Source,
    progress: Progress<'_>,
) -> Result<Arc<dyn Model>> {
    let mut loading = loading::Loading::new(blueprint, source, progress)?;
    placement.check(&loading.spec, places.len())?;
    let load = |(i, place): (usize, Place)| place.0.load(&mut loading, placement.has(i));
    let parts = places.into_iter().enumerate().map(load).collect::<Result<_>>()?;
    let model = parts::Parts::new(&loading, placement, parts);
    loading.finish()?;
    Ok(Arc::new(model))
}

/// What loading `source` on `backend` and making a runner with `limits` would take; loads nothing.
///
/// # Errors
/// As [`load`], but for what only the tensors' shapes can tell.
pub fn plan<B: Backend>(backend: &B, source: &dyn Source, limits: &RunnerLimits) -> Result<DeviceMemory> {
    let blueprint = arch::read(source)?;
    let placement = Placement::whole(blueprint.spec.layers.len());
    plan::of_part(backend, &blueprint, source, &placement.has(0), limits)
}

/// The same for several devices.
///
/// # Errors
/// As [`plan`].
pub fn plan_parts(
    places: &[Place],
    placement: &Placement,
    blueprint: &Blueprint,
    source: &dyn Source,
    limits: &RunnerLimits,
) -> Result<Vec<DeviceMemory>> {
    let part = |(i, place): (usize, &Place)| place.0.plan(blueprint, source, &placement.has(i), limits);
    places.iter().enumerate().map(part).collect()
}
