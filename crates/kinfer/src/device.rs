//! Devices by name. The only place that names backends.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The fastest device that is available.
    #[default]
    Auto,
    /// The CPU, by kinfer's own kernels.
    Cpu,
    /// The CPU through candle: the reference.
    Candle,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

impl Device {
    /// All devices that kinfer knows, available or not.
    pub const ALL: [Device; 5] = [Device::Auto, Device::Cpu, Device::Candle, Device::Cuda, Device::Metal];

    /// The device of that name; [`Device::name`]'s inverse, in any case.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that kinfer does not know.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|d| d.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = Self::ALL.map(Device::name).join(", ");
            Error::Usage(format!("unknown device `{name}`; known: {known}"))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Candle => "candle",
            Device::Cuda => "cuda",
            Device::Metal => "metal",
        }
    }

    /// Why it cannot be used in this build on this machine; `None` where it can.
    pub fn unavailable(self) -> Option<&'static str> {
        match self {
            Device::Auto | Device::Cpu => None,
            Device::Candle if cfg!(feature = "candle") => None,
            Device::Candle => {
                Some("this build has no candle support; build with `--features candle`, or use `cpu`")
            }
            Device::Cuda => Some("this version of kinfer has no CUDA support; use `cpu`"),
            Device::Metal => Some("this version of kinfer has no Metal support; use `cpu`"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Device {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}
