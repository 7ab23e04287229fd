//! Devices by name. The only place that names backends.

use crate::{Error, LoadOptions, Numerics, Plan, Result};
use kinfer_core::{ModelSpec, RunnerLimits};
use kinfer_cpu::{Cpu, Inputs, Isa, machine};
use kinfer_cuda::Cuda;
pub use kinfer_cuda::{Level as GpuIsa, Peak as GpuPeak, Power as GpuPower};
use kinfer_models::arch::Blueprint;
use kinfer_models::{Place, Placement, Source};
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
            Device::Candle if cfg!(any(feature = "candle", target_os = "macos")) => None,
            Device::Candle => {
                Some("this build has no candle support; build with `--features candle`, or use `cpu`".into())
            }
            Device::Cuda(_) => kinfer_cuda::unavailable().map(Cow::Owned),
            Device::Metal if cfg!(target_os = "macos") => None,
            Device::Metal => Some("Metal is on Apple's machines; use `cpu`".into()),
        }
    }
}

impl Device {
    /// The most that a GPU reads and computes, measured; `None` for other devices.
    ///
    /// # Errors
    /// [`Error::Device`] when it is not available.
    pub fn peak(self) -> Result<Option<GpuPeak>> {
        match self {
            Device::Cuda(ordinal) => Ok(Some(kinfer_cuda::peak(ordinal.into())?)),
            _ => Ok(None),
        }
    }

    /// A GPU's energy counter, or why there is none; `None` for other devices.
    pub fn power(self) -> Option<Result<GpuPower, String>> {
        match self {
            Device::Cuda(ordinal) => Some(GpuPower::open(ordinal.into())),
            _ => None,
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

/// A model's blueprint, the devices of its parts, and which has what.
pub(crate) struct Placed {
    blueprint: Blueprint,
    places: Vec<Place>,
    placement: Placement,
}

impl Placed {
    /// Opens the devices that `options` name. On the CPU, `inputs` records what weights are multiplied with.
    pub fn new(source: &dyn Source, options: &LoadOptions, inputs: Option<Arc<Inputs>>) -> Result<Placed> {
        let device = options.device;
        let refuse = |reason: &str| Err(Error::Device { device: device.to_string(), reason: reason.into() });
        if let Some(reason) = device.unavailable() {
            return refuse(&reason);
        }
        if let Device::Cuda(ordinal) = device {
            if inputs.is_some() {
                return refuse("only `cpu` records what weights are multiplied with");
            }
            return on_gpus(source, options, ordinal);
        }
        if options.no_graphs {
            let what = "graphs are recorded on a GPU only";
            return Err(Error::Usage(format!("{what}: the device is `{device}`, not `cuda`")));
        }
        if options.gpu_isa.is_some() {
            let what = "this instruction set is a GPU's";
            return Err(Error::Usage(format!("{what}: the device is `{device}`, not `cuda`")));
        }
        if !options.offload.is_default() {
            let what =
                "layers and experts can be divided between a GPU and the CPU only where a GPU is asked for";
            return Err(Error::Usage(format!("{what}: the device is `{device}`, not `cuda`")));
        }
        let place = match (device, inputs) {
            #[cfg(any(feature = "candle", target_os = "macos"))]
            (Device::Candle, None) => Place::new(kinfer_candle::Candle::cpu()),
            #[cfg(target_os = "macos")]
            (Device::Metal, None) => Place::new(kinfer_candle::Candle::metal()?),
            (Device::Candle | Device::Metal, _) => {
                return refuse("only `cpu` records what weights are multiplied with");
            }
            (_, None) => Place::new(cpu(options)?),
            (_, Some(inputs)) => Place::new(cpu(options)?.recording(inputs)),
        };
        let blueprint = kinfer_models::arch::read(source)?;
        let placement = Placement::whole(blueprint.spec.layers.len());
        Ok(Placed { placement, places: vec![place], blueprint })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.blueprint.spec
    }

    /// Memory that the model and a runner would take, of each device.
    pub fn plan(&self, source: &dyn Source, limits: &RunnerLimits) -> Result<Plan> {
        let Self { blueprint, places, placement } = self;
        Ok(Plan::new(kinfer_models::plan_parts(places, placement, blueprint, source, limits)?))
    }

    /// Loads the weights.
    pub fn load(
        self,
        source: &dyn Source,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn kinfer_core::Model>> {
        let Self { blueprint, places, placement } = self;
        Ok(kinfer_models::build_parts(places, &placement, blueprint, source, progress)?)
    }
}

/// On the GPUs that have a share, from `first` on, and on the CPU what is left.
fn on_gpus(source: &dyn Source, options: &LoadOptions, first: u16) -> Result<Placed> {
    let mut shares = options.offload.shares()?;
    let mut places = Vec::with_capacity(shares.len() + 1);
    for (ordinal, _) in (usize::from(first)..).zip(&shares).filter(|(_, share)| **share > 0.0) {
        places.push(Place::new(cuda(ordinal, options)?));
    }
    shares.retain(|share| *share > 0.0);
    places.push(Place::new(cpu(options)?));
    let blueprint = kinfer_models::arch::read(source)?;
    let placement = options.offload.placement(&blueprint.spec, &shares, |placement, limits| {
        Ok(kinfer_models::plan_parts(&places, placement, &blueprint, source, limits)?)
    })?;
    if !placement.uses(shares.len()) {
        places.pop();
        if options.isa.is_some() {
            return Err(Error::Usage("an instruction set is the CPU's; the GPU has the whole model".into()));
        }
    }
    Ok(Placed { blueprint, places, placement })
}

/// Memory that can be allocated now; `None` where it is not known.
pub(crate) fn available_memory() -> Option<u64> {
    machine::available_memory()
}

fn cuda(ordinal: usize, options: &LoadOptions) -> Result<Cuda> {
    let tensor_cores = match options.numerics {
        Numerics::Auto => true,
        Numerics::Int8 => false,
        Numerics::F32 => {
            let needs =
                "GPUs compute products in bf16 and 8-bit integers; `f32` numerics need the device `cpu`";
            return Err(Error::Usage(needs.into()));
        }
    };
    let threads = options.threads.unwrap_or_else(machine::threads);
    let level = match &options.gpu_isa {
        Some(name) => GpuIsa::parse(name).map(Some),
        None => GpuIsa::from_env(),
    };
    let (level, graphs) = (level.map_err(Error::Usage)?, !options.no_graphs);
    let options = kinfer_cuda::Options { ordinal, level, tensor_cores, graphs, threads };
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
