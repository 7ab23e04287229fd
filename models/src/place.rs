//! Backends whose type is erased, so that parts of a model can be put on several kinds.

use crate::arch::Blueprint;
use crate::loading::Loading;
use crate::parts::{Has, Part};
use crate::plan;
use crate::source::Source;
use kinfer_core::{Backend, DeviceMemory, Result, RunnerLimits};
use std::sync::Arc;

/// A device that a part of a model can be put on: any [`Backend`].
pub struct Place(pub(crate) Box<dyn AnyBackend>);

impl Place {
    /// The device of that backend.
    pub fn new<B: Backend>(backend: B) -> Self {
        Place(Box::new(backend))
    }
}

/// What a [`Backend`] does with a part as a whole.
pub(crate) trait AnyBackend {
    /// Loads the part's weights.
    fn load(self: Box<Self>, loading: &mut Loading<'_>, has: Has) -> Result<Arc<dyn Part>>;
    /// Memory that the part and a runner of it would take.
    fn plan(
        &self,
        blueprint: &Blueprint,
        source: &dyn Source,
        has: &Has,
        limits: &RunnerLimits,
    ) -> Result<DeviceMemory>;
}

impl<B: Backend> AnyBackend for B {
    fn load(self: Box<Self>, loading: &mut Loading<'_>, has: Has) -> Result<Arc<dyn Part>> {
        Ok(Arc::new(loading.part(*self, has)?))
    }

    fn plan(
        &self,
        blueprint: &Blueprint,
        source: &dyn Source,
        has: &Has,
        limits: &RunnerLimits,
    ) -> Result<DeviceMemory> {
        plan::of_part(self, blueprint, source, has, limits)
    }
}
