//! How much memory a model and an engine take.

use crate::device::Placed;
use crate::{Device, EngineBuilder, Error, GpuLayers, LoadOptions, Model, Offload, Result, device};
use kinfer_core::{DeviceMemory, KvTypes, RunnerLimits};
use kinfer_load::gguf::Gguf;

/// Bytes of memory that a model and an engine of it take, of each device that has a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The devices; `available` of the CPU is what this machine has, `None` where the system does not say.
    pub devices: Vec<DeviceMemory>,
}

impl Plan {
    pub(crate) fn new(mut devices: Vec<DeviceMemory>) -> Self {
        for memory in devices.iter_mut().filter(|m| m.available.is_none()) {
            memory.available = device::available_memory();
        }
        Plan { devices }
    }

    /// Weights, on all devices.
    pub fn weights(&self) -> u64 {
        self.devices.iter().map(|m| m.weights).sum()
    }

    /// The cache of keys and values, on all devices.
    pub fn kv(&self) -> u64 {
        self.devices.iter().map(|m| m.kv).sum()
    }

    /// Activations, logits and other buffers, on all devices.
    pub fn scratch(&self) -> u64 {
        self.devices.iter().map(|m| m.scratch).sum()
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.devices.iter().map(DeviceMemory::total).sum()
    }

    /// What can be allocated now on all devices; `None`: some device does not say.
    pub fn available(&self) -> Option<u64> {
        self.devices.iter().map(|m| m.available).sum()
    }

    /// Whether each device has what it needs; `None`: some device does not say.
    pub fn fits(&self) -> Option<bool> {
        self.devices
            .iter()
            .map(|m| Some(m.total() <= m.available?))
            .try_fold(true, |all, fits| Some(all & fits?))
    }

    /// The plan for a model file and an engine with one sequence of `context` tokens and default batches; loads nothing.
    ///
    /// # Errors
    /// Those of [`Model::load`] that the metadata can tell, and of [`EngineBuilder::build`] for the context.
    pub fn of_file(gguf: &Gguf, device: Device, context: usize, kv: impl Into<KvTypes>) -> Result<Self> {
        let builder = EngineBuilder::default().context(context).kv(kv);
        let offload = Offload { layers: GpuLayers::Fit(builder.clone()), ..Offload::default() };
        // A plan needs no threads.
        let options = LoadOptions { device, offload, threads: Some(1), ..LoadOptions::default() };
        let placed = Placed::new(gguf, &options, None)?;
        let (_, limits) = builder.runner_limits(placed.spec())?;
        placed.plan(gguf, &limits)
    }

    /// Whether what `bytes` says of each device fits there; `what` needs it.
    pub(crate) fn check(&self, what: &str, bytes: impl Fn(&DeviceMemory) -> u64) -> Result<()> {
        for m in &self.devices {
            let needed = bytes(m);
            if let Some(available) = m.available.filter(|&a| a < needed) {
                let of_part =
                    if self.devices.len() > 1 { format!(" on {}", m.device) } else { String::new() };
                return Err(Error::Memory { what: format!("{what}{of_part}"), needed, available });
            }
        }
        Ok(())
    }

    /// The plan for a loaded model.
    pub(crate) fn of_model(model: &Model, limits: &RunnerLimits) -> Self {
        Self::new(model.inner().memory(limits))
    }
}

/// What a runner takes of a device.
pub(crate) fn of_runner(memory: &DeviceMemory) -> u64 {
    memory.kv.saturating_add(memory.scratch)
}
