//! The energy that a GPU takes, by NVIDIA's management library, which is opened when it is asked for.

use crate::driver::Gpu;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::ffi::OsStr;

/// A GPU's energy counter.
pub struct Power {
    nvml: Nvml,
    uuid: String,
}

impl Power {
    /// The counter of GPU `ordinal`.
    ///
    /// # Errors
    /// Why there is none: no such GPU, no management library beside the driver, or a GPU without a counter (those before Volta).
    pub fn open(ordinal: usize) -> Result<Power, String> {
        let uuid = Gpu::open(ordinal, None).map_err(|e| e.to_string())?.uuid.clone();
        // Of the installed names, this is the one that a driver without development files has.
        let library = OsStr::new("libnvidia-ml.so.1");
        let library = if cfg!(windows) { OsStr::new("nvml.dll") } else { library };
        let nvml = Nvml::builder().lib_path(library).init().map_err(|e| e.to_string())?;
        let power = Power { nvml, uuid };
        power.joules()?;
        Ok(power)
    }

    /// Energy taken since the driver was loaded, joules.
    ///
    /// # Errors
    /// The library's.
    pub fn joules(&self) -> Result<f64, String> {
        let millijoules = || -> Result<u64, NvmlError> {
            self.nvml.device_by_uuid(self.uuid.as_str())?.total_energy_consumption()
        };
        millijoules().map(|mj| mj as f64 / 1e3).map_err(|e| e.to_string())
    }
}
