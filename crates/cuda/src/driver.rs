//! The CUDA driver: a device with its stream, memory on it, and kernels from the embedded PTX.

use crate::ptx::Level;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use kinfer_core::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// The driver's version from which launches that overlap are recorded as such: CUDA 12.3.
const OVERLAPS: i32 = 12030;

/// One GPU, with one stream on which everything is ordered.
pub(crate) struct Gpu {
    pub name: String,
    /// Of its kernels.
    pub level: Level,
    pub multiprocessors: usize,
    /// What tells it from other GPUs, as the driver's other tools write it: `GPU-…`.
    pub uuid: String,
    /// Whether kernels may begin before the one ahead of them has ended, recorded ones too.
    overlaps: bool,
    /// Whether memory is allocated and freed in the order of the stream.
    pub pools: bool,
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub stream: sys::CUstream,
    functions: Mutex<HashMap<String, Function>>,
    modules: Mutex<HashMap<&'static str, Module>>,
}

// SAFETY: the driver's objects may be used from any thread whose current context is theirs; `current` sees to that. What is ordered
// on the stream is ordered by its callers: a runner is used by one thread at a time.
unsafe impl Send for Gpu {}
// SAFETY: as above; the maps are behind mutexes.
unsafe impl Sync for Gpu {}

/// A kernel.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    raw: sys::CUfunction,
    /// Bytes of each parameter, from the PTX.
    parameters: Arc<[usize]>,
    /// Whether it may begin before the kernel ahead of it has ended: it waits by itself.
    early: bool,
    /// The most dynamic shared memory that it uses, bytes, where the PTX says so: it is allowed to.
    pub shared: u32,
}

// SAFETY: a handle that lives as long as its module, which `Gpu` keeps.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

#[derive(Clone)]
struct Module {
    raw: sys::CUmodule,
    text: Arc<str>,
}

/// A grid of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub blocks: (u32, u32, u32),
    pub threads: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
}

impl Grid {
    pub fn new(x: usize, y: usize, threads: usize) -> Grid {
        Grid { blocks: (x as u32, y as u32, 1), threads: threads as u32, shared: 0 }
    }
}

/// Number of GPUs that the driver knows; why there is none.
pub(crate) fn count() -> Result<usize, String> {
    // SAFETY: looks for a shared library.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver is installed: libcuda.so.1 is not found".into());
    }
    let count = || {
        result::init()?;
        result::device::get_count()
    };
    match count() {
        Ok(n) if n > 0 => Ok(n as usize),
        Ok(_) => Err("the NVIDIA driver knows no GPU".into()),
        Err(e) => Err(format!("the NVIDIA driver does not start: {}", describe(&e))),
    }
}

/// The driver's name for an error.
fn describe(error: &DriverError) -> String {
    match error.error_name() {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}

/// `GPU-` and the bytes in hexadecimal, in groups of 4, 2, 2, 2 and 6.
fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (i, byte) in bytes.iter().enumerate() {
        let dash = if [0, 4, 6, 8, 10].contains(&i) { "-" } else { "" };
        text += &format!("{dash}{byte:02x}");
    }
    text
}

/// A failure of the driver, and what it was asked for.
#[derive(Debug)]
struct Failure {
    what: String,
    error: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

impl std::error::Error for Failure {}

impl Gpu {
    /// Opens GPU `ordinal`, for kernels of `level` or of the best one.
    pub fn open(ordinal: usize, level: Option<Level>) -> Result<Arc<Gpu>> {
        let fail = |reason: String| Error::Device { device: format!("cuda:{ordinal}"), reason };
        let count = count().map_err(fail)?;
        if ordinal >= count {
            return Err(fail(format!("this machine has {count} NVIDIA GPUs, numbered from 0")));
        }
        let open = || {
            let device = result::device::get(ordinal as i32)?;
            let name = result::device::get_name(device)?;
            use sys::CUdevice_attribute_enum as Attribute;
            // SAFETY: `device` is one; the context is released when the value that keeps it is dropped.
            unsafe {
                let attribute = |a| result::device::get_attribute(device, a);
                let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
                let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
                let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
                let pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
                let uuid = result::device::get_uuid(device)?;
                let context = result::primary_ctx::retain(device)?;
                result::ctx::set_current(context)?;
                let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
                let (capability, multiprocessors) = ((10 * major + minor) as u32, multiprocessors as usize);
                let mut version = 0;
                sys::cuDriverGetVersion(&mut version).result()?;
                let overlaps = version >= OVERLAPS;
                Ok((name, capability, multiprocessors, uuid.bytes, overlaps, pools, device, context, stream))
            }
        };
        let opened: Result<_, DriverError> = open();
        let (name, capability, multiprocessors, uuid, overlaps, pools, device, context, stream) =
            opened.map_err(|e| fail(describe(&e)))?;
        if capability < 75 {
            return Err(fail(format!(
                "{name} has compute capability {}.{}; kinfer's kernels need 7.5 (Turing) or later",
                capability / 10,
                capability % 10
            )));
        }
        let level = level.unwrap_or_else(|| Level::best(capability));
        if !level.runs_on(capability) {
            let (level, major, minor) = (level.name(), capability / 10, capability % 10);
            return Err(fail(format!(
                "{name} has compute capability {major}.{minor}, which does not run {level}"
            )));
        }
        let (functions, modules) = Default::default();
        let uuid = uuid_text(uuid.map(|byte| byte as u8));
        Ok(Arc::new(Gpu {
            name,
            level,
            multiprocessors,
            uuid,
            overlaps,
            pools,
            device,
            context,
            stream,
            functions,
            modules,
        }))
    }

    /// Whether products of bf16 run on tensor cores.
    pub fn has_bf16(&self) -> bool {
        self.level != Level::Sm75
    }

    /// Free and total memory of the device, bytes. Waits: what was freed in the order of the stream is free then.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.current()?;
        self.synchronize()?;
        let (free, total) = self.check("asking for free memory", result::mem_get_info())?;
        Ok((free as u64, total as u64))
    }

    pub fn error(&self, what: &str, error: DriverError) -> Error {
        let failure = Failure { what: what.into(), error: describe(&error) };
        Error::Backend { device: format!("cuda ({})", self.name), source: Box::new(failure) }
    }

    pub fn check<T>(&self, what: &str, result: Result<T, DriverError>) -> Result<T> {
        result.map_err(|e| self.error(what, e))
    }

    /// Makes this device the calling thread's.
    pub fn current(&self) -> Result<()> {
        // SAFETY: the context is retained.
        self.check("choosing the device", unsafe { result::ctx::set_current(self.context) })
    }

    /// Waits until everything on the stream is done.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives.
        self.check("waiting for the device", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Kernel `name` of module `module`, loaded when it is first asked for.
    pub fn function(&self, module: &'static str, name: &str) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        self.current()?;
        let what = format!("loading kernel {name}");
        let module = self.module(module)?;
        let parameters = crate::ptx::parameters(&module.text, name).ok_or_else(|| Error::Unsupported {
            what: what.clone(),
            supported: "the kernels in the PTX".into(),
        })?;
        let symbol = CString::new(name).unwrap_or_default();
        // SAFETY: the module lives as long as `self`.
        let raw = self.check(&what, unsafe { result::module::get_function(module.raw, symbol) })?;
        let early = self.overlaps && crate::ptx::waits(&module.text, name);
        let shared = crate::ptx::shared(&module.text, name);
        let function = Function { raw, parameters: parameters.into(), early, shared };
        if shared > 0 {
            self.allow_shared(&function, shared)?;
        }
        functions.insert(name.into(), function.clone());
        Ok(function)
    }

    fn module(&self, name: &'static str) -> Result<Module> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let what = format!("compiling kernels {name} for {}", self.name);
        let text = crate::ptx::module(name, self.level)
            .ok_or_else(|| Error::Unsupported { what: what.clone(), supported: "the embedded PTX".into() })?;
        let image = CString::new(text.as_str()).unwrap_or_default();
        // SAFETY: the image is PTX, which the driver checks, and ends with a zero.
        let raw = self.check(&what, unsafe { result::module::load_data(image.as_ptr().cast()) })?;
        let module = Module { raw, text: text.into() };
        modules.insert(name, module.clone());
        Ok(module)
    }

    /// Lets `function` use `bytes` of dynamic shared memory.
    pub fn allow_shared(&self, function: &Function, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives.
        let set = unsafe { result::function::set_function_attribute(function.raw, attribute, bytes as i32) };
        self.check("asking for shared memory", set)
    }

    /// Puts a kernel on `stream`: this device's, or one that is recorded.
    ///
    /// # Safety
    /// The arguments are what the kernel takes, and what they point to lives and is large enough until the stream is done.
    pub unsafe fn launch(
        &self,
        stream: sys::CUstream,
        function: &Function,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let sizes = arguments.iter().map(|a| a.bytes);
        if !sizes.clone().eq(function.parameters.iter().copied()) {
            let got: Vec<usize> = sizes.collect();
            return Err(Error::Batch(format!("a kernel takes {:?} bytes, not {got:?}", function.parameters)));
        }
        let mut pointers: [*mut c_void; 12] = [std::ptr::null_mut(); 12];
        for (pointer, argument) in pointers.iter_mut().zip(arguments) {
            *pointer = argument.value;
        }
        let Grid { blocks, threads, shared } = grid;
        let pointers = &mut pointers[..arguments.len()];
        let launched = if function.early {
            let mut early = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: blocks.0,
                gridDimY: blocks.1,
                gridDimZ: blocks.2,
                blockDimX: threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shared,
                hStream: stream,
                attrs: &mut early,
                numAttrs: 1,
            };
            let arguments = pointers.as_mut_ptr();
            // SAFETY: as many arguments of as many bytes as the kernel has, and one attribute; the driver is new enough to have the
            // function; the rest by this function's contract.
            unsafe { sys::cuLaunchKernelEx(&config, function.raw, arguments, std::ptr::null_mut()) }.result()
        } else {
            // SAFETY: as above.
            unsafe { result::launch_kernel(function.raw, blocks, (threads, 1, 1), shared, stream, pointers) }
        };
        launched.map_err(|e| self.error("launching a kernel", e))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Nothing can be done about an error here: the driver frees all when the process ends.
        // SAFETY: buffers keep the device alive, so nothing uses it any more.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            for module in self.modules.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
                let _ = result::module::unload(module.raw);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A stream on which nothing runs: what is put there is recorded. The device's own stream goes on meanwhile, for others that compute there.
pub(crate) struct Recorder {
    stream: sys::CUstream,
    gpu: Arc<Gpu>,
}

// SAFETY: used by one thread at a time: a step owns it.
unsafe impl Send for Recorder {}

impl Recorder {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Recorder> {
        gpu.current()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Recorder { stream: gpu.check("making a stream", stream)?, gpu: gpu.clone() })
    }

    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Begins to record. Meanwhile the steps of other devices wait for theirs, which the stricter modes refuse.
    pub fn begin(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives.
        self.gpu.check("recording a graph", unsafe { result::stream::begin_capture(self.stream, mode) })
    }

    /// Ends recording.
    pub fn end(&self) -> Result<Graph> {
        // SAFETY: the stream lives and is recorded; the graph is destroyed once, after it was instantiated.
        unsafe {
            let graph = self.gpu.check("recording a graph", result::stream::end_capture(self.stream))?;
            let flags = sys::CUgraphInstantiate_flags(0);
            let exec = result::graph::instantiate(graph, flags);
            self.gpu.check("recording a graph", result::graph::destroy(graph))?;
            Ok(Graph { exec: self.gpu.check("instantiating a graph", exec)?, gpu: self.gpu.clone() })
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. An error cannot be handled here.
        unsafe {
            let _ = self.gpu.current();
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// A recorded step.
pub(crate) struct Graph {
    exec: sys::CUgraphExec,
    gpu: Arc<Gpu>,
}

// SAFETY: used by one thread at a time: a step owns it.
unsafe impl Send for Graph {}

impl Graph {
    /// Puts the recorded work on the stream.
    pub fn launch(&self) -> Result<()> {
        // SAFETY: the buffers that it uses live: the step that recorded it owns them, or they are weights.
        self.gpu.check("launching a graph", unsafe { result::graph::launch(self.exec, self.gpu.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated once, destroyed once.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}

/// An argument of a kernel, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Argument {
    value: *mut c_void,
    bytes: usize,
}

impl Argument {
    pub fn new<T: Copy>(value: &T) -> Argument {
        Argument { value: (value as *const T).cast_mut().cast(), bytes: size_of::<T>() }
    }
}
