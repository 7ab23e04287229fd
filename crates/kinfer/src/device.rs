//! Devices by name. The only place that names backends.

use crate::{Error, LoadOptions, Numerics, Result};
use kinfer_core::RunnerLimits;
use kinfer_cpu::{Cpu, Inputs, Isa, machine};
use kinfer_cuda::Cuda;
use kinfer_models::{MemoryPlan, Source};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU. GPUs are used when they are asked for: no kernel has run on a real one yet.
    #[default]
    Auto,
    /// The CPU, by kinfer's own kernels.
    Cpu,
    /// The CPU through candle: the reference.
    Candle,
    /// An NVIDIA GPU, by its number in the driver's order.
    Cuda(u16),
    /// An Apple GPU.
    Metal,
}

impl Device {
    /// All devices that kinfer knows, available or not.
    pub const ALL: [Device; 5] = [Device::Auto, Device::Cpu, Device::Candle, Device::Cuda(0), Device::Metal];

    /// The device of that name, in any case; of several NVIDIA GPUs `cuda:1` is the second.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that kinfer does not know.
    pub fn parse(name: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        if let Some(Ok(ordinal)) = lower.strip_prefix("cuda:").map(str::parse) {
            return Ok(Device::Cuda(ordinal));
        }
        Self::ALL.into_iter().find(|d| d.name() == lower).ok_or_else(|| {
            let known = Self::ALL.map(Device::name).join(", ");
            Error::Usage(format!(
                "unknown device `{name}`; known: {known}; of several GPUs cuda:0, cuda:1, …"
            ))
        })
    }

    /// Its name, without a number.
    pub fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Candle => "candle",
            Device::Cuda(_) => "cuda",
            Device::Metal => "metal",
        }
    }

    /// Why it cannot be used in this build on this machine; `None` where it can.
    pub fn unavailable(self) -> Option<Cow<'static, str>> {
        match self {
            Device::Auto | Device::Cpu => None,
            Device::Candle if cfg!(feature = "candle") => None,
            Device::Candle => {
                Some("this build has no candle support; build with `--features candle`, or use `cpu`".into())
            }
            Device::Cuda(_) => kinfer_cuda::unavailable().map(Cow::Owned),
            Device::Metal => Some("this version of kinfer has no Metal support; use `cpu`".into()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cuda(ordinal) if *ordinal > 0 => write!(f, "cuda:{ordinal}"),
            _ => f.write_str(self.name()),
        }
    }
}

impl FromStr for Device {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

/// Evaluates an expression with the device's backend.
macro_rules! on {
    ($options:expr, |$backend:ident| $use:expr) => {{
        let options: &LoadOptions = $options;
        let device = options.device;
        if let Some(reason) = device.unavailable() {
            return Err(Error::Device { device: device.to_string(), reason: reason.into() });
        }
        match device {
            #[cfg(feature = "candle")]
            Device::Candle => {
                let $backend = kinfer_candle::Candle::cpu();
                $use
            }
            Device::Cuda(ordinal) => {
                let $backend = cuda(ordinal, options)?;
                $use
            }
            _ => {
                let $backend = cpu(options)?;
                $use
            }
        }
    }};
}

/// Loads a model's weights onto the device of `options`.
pub(crate) fn load(
    source: &dyn Source,
    options: &LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Arc<dyn kinfer_core::Model>> {
    on!(options, |backend| Ok(kinfer_models::load(backend, source, progress)?))
}

/// The same on the CPU, with the inputs of all products recorded.
pub(crate) fn load_recording(
    source: &dyn Source,
    options: &LoadOptions,
    inputs: Arc<Inputs>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Arc<dyn kinfer_core::Model>> {
    if !matches!(options.device, Device::Auto | Device::Cpu) {
        let (device, reason) =
            (options.device.to_string(), "only `cpu` records what weights are multiplied with");
        return Err(Error::Device { device, reason: reason.into() });
    }
    Ok(kinfer_models::load(cpu(options)?.recording(inputs), source, progress)?)
}

/// Memory that a model and a runner would take there.
pub(crate) fn plan(source: &dyn Source, options: &LoadOptions, limits: &RunnerLimits) -> Result<MemoryPlan> {
    // A plan needs no threads.
    let LoadOptions { device, numerics, ref isa, .. } = *options;
    let options =
        LoadOptions { device, numerics, isa: isa.clone(), threads: Some(1), ..LoadOptions::default() };
    on!(&options, |backend| Ok(kinfer_models::plan(&backend, source, limits)?))
}

/// Memory that can be allocated now; `None` where it is not known.
pub(crate) fn available_memory() -> Option<u64> {
    machine::available_memory()
}

fn cuda(ordinal: u16, options: &LoadOptions) -> Result<Cuda> {
    let tensor_cores = match options.numerics {
        Numerics::Auto => true,
        Numerics::Int8 => false,
        Numerics::F32 => {
            let needs =
                "GPUs compute products in bf16 and 8-bit integers; `f32` numerics need the device `cpu`";
            return Err(Error::Usage(needs.into()));
        }
    };
    if options.isa.is_some() {
        return Err(Error::Usage("an instruction set is the CPU's; a GPU takes none".into()));
    }
    let threads = options.threads.unwrap_or_else(machine::threads);
    let options =
        kinfer_cuda::Options { ordinal: ordinal.into(), tensor_cores, threads, ..Default::default() };
    Ok(Cuda::new(options)?)
}

fn cpu(options: &LoadOptions) -> Result<Cpu> {
    let isa = match &options.isa {
        Some(name) => Isa::parse(name),
        None => Isa::from_env(),
    };
    let numerics = match options.numerics {
        Numerics::Auto => kinfer_cpu::Numerics::Auto,
        Numerics::Int8 => kinfer_cpu::Numerics::Int8,
        Numerics::F32 => kinfer_cpu::Numerics::F32,
    };
    let threads = options.threads.unwrap_or_else(machine::threads);
    if threads == 0 {
        return Err(Error::Usage("threads: 0; at least 1 is needed".into()));
    }
    Ok(Cpu::new(threads, isa.map_err(Error::Usage)?, numerics)?)
}
