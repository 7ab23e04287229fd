//! Memory of a device, and memory of this machine that devices copy from and to by themselves.

use crate::driver::Gpu;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use kinfer_core::{Error, Result};
use std::sync::Arc;

impl Gpu {
    /// Allocates `bytes`; `what` is for the error.
    pub fn alloc(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Buffer> {
        self.current()?;
        let size = bytes.max(256);
        // SAFETY: a size above zero; used on that stream only, and by what is recorded to be launched there.
        let allocated = unsafe {
            match self.pools {
                true => result::malloc_async(self.stream, size),
                false => result::malloc_sync(size),
            }
        };
        match allocated {
            Ok(pointer) => Ok(Buffer { gpu: self.clone(), pointer, bytes }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(Error::OutOfMemory {
                what: format!("{what} on {}", self.name),
                needed: bytes as u64,
                available: self.memory().map_or(0, |m| m.0),
                hint: "use a smaller context, a smaller quantisation, or `--device cpu`".into(),
            }),
            Err(e) => Err(self.error(&format!("allocating {bytes} bytes for {what}"), e)),
        }
    }

    /// Allocates and copies.
    pub fn upload<T: Plain>(self: &Arc<Self>, values: &[T], what: &str) -> Result<Buffer> {
        let buffer = self.alloc(size_of_val(values), what)?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Pinned memory of this machine, which the device copies from and to by itself.
    pub fn pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned> {
        self.current()?;
        // SAFETY: freed when the value is dropped.
        let pointer =
            self.check("allocating pinned memory", unsafe { result::malloc_host(bytes.max(1), 0) })?;
        let pinned = Pinned { gpu: self.clone(), pointer: pointer.cast(), bytes };
        // SAFETY: allocated with that size.
        unsafe { pinned.pointer.write_bytes(0, bytes) };
        Ok(pinned)
    }
}

/// Plain numbers, which devices have as we do.
///
/// # Safety
/// Every pattern of bits is a value, and there are no gaps.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u64 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}

/// Memory of the device.
pub(crate) struct Buffer {
    gpu: Arc<Gpu>,
    pointer: sys::CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Copies `values` to byte `at`, and waits.
    pub fn write<T: Plain>(&self, at: usize, values: &[T]) -> Result<()> {
        assert!(at + size_of_val(values) <= self.bytes, "a copy past the end of a buffer");
        self.gpu.current()?;
        // SAFETY: within the buffer by the assertion; waited for before `values` can go.
        unsafe {
            let copied = result::memcpy_htod_async(self.pointer + at as u64, values, self.gpu.stream);
            self.gpu.check("copying to the device", copied)?;
        }
        self.gpu.synchronize()
    }

    /// Puts a copy from pinned memory to byte `at` on `stream`: the device's, or one that is recorded.
    ///
    /// # Safety
    /// `from` is not written until the stream is done.
    pub unsafe fn write_from(
        &self,
        stream: sys::CUstream,
        at: usize,
        from: &Pinned,
        bytes: usize,
    ) -> Result<()> {
        assert!(at + bytes <= self.bytes && bytes <= from.bytes, "a copy past the end of a buffer");
        // SAFETY: within both by the assertion; by this function's contract.
        let copied = unsafe {
            let from = std::slice::from_raw_parts(from.pointer, bytes);
            result::memcpy_htod_async(self.pointer + at as u64, from, stream)
        };
        self.gpu.check("copying to the device", copied)
    }

    /// Copies the first `bytes` to pinned memory, and waits.
    pub fn read(&self, to: &mut Pinned, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= to.bytes, "a copy past the end of a buffer");
        // SAFETY: within both by the assertion, and waited for.
        unsafe {
            let copied = result::memcpy_dtoh_async(&mut to.bytes()[..bytes], self.pointer, self.gpu.stream);
            self.gpu.check("copying from the device", copied)?;
        }
        self.gpu.synchronize()
    }

    /// Fills the buffer with zeros.
    pub fn clear(&self) -> Result<()> {
        // SAFETY: the whole buffer.
        let set = unsafe { result::memset_d8_async(self.pointer, 0, self.bytes, self.gpu.stream) };
        self.gpu.check("clearing memory", set)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In the order of the stream it is free when what uses it is done; otherwise freeing waits for that. An error cannot be handled here.
        // SAFETY: allocated by `alloc`, freed once.
        unsafe {
            let _ = self.gpu.current();
            let _ = match self.gpu.pools {
                true => result::free_async(self.pointer, self.gpu.stream),
                false => result::free_sync(self.pointer),
            };
        }
    }
}

/// Pinned memory of this machine, filled with zeros.
pub(crate) struct Pinned {
    gpu: Arc<Gpu>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: owned memory.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn size(&self) -> usize {
        self.bytes
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with that size.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    /// Where kernels find it: a device has it at the address that it has here.
    pub fn pointer(&self) -> u64 {
        self.pointer as u64
    }

    /// The first `n` values. What a kernel writes here is to be waited for.
    pub fn values<T: Plain>(&self, n: usize) -> &[T] {
        assert!(n * size_of::<T>() <= self.bytes, "a read past the end of pinned memory");
        // SAFETY: within it by the assertion; every pattern of bits is a value, and it begins with a page.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), n) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `pinned`, freed once, after copies from it.
        unsafe {
            let _ = result::stream::synchronize(self.gpu.stream);
            let _ = result::free_host(self.pointer.cast());
        }
    }
}
