//! Activations on the device: floats, and the same values rounded the way that products read them.

use crate::driver::Gpu;
use crate::memory::{Buffer, Pinned};
use cudarc::driver::sys::CUstream;
use kinfer_core::{Error, Result};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;

/// Columns to which rounded rows are padded with zeros: the columns of a unit of the packed layouts.
const PAD: usize = 64;
/// Bytes of a block of 32 activations in 8 bits (`ActBlock` of the kernels).
pub(crate) const BLOCK_BYTES: usize = 48;

/// Activations, `[rows, width]`.
pub struct Act {
    gpu: Arc<Gpu>,
    capacity: (usize, usize),
    floats: Buffer,
    /// Allocated when something is first rounded: logits never are.
    rounded: OnceCell<Rounded>,
    rows: usize,
    width: usize,
    is_rounded: Cell<bool>,
}

struct Rounded {
    int8: Buffer,
    /// For prompt rows; the GPU has tensor cores.
    bf16: Option<Buffer>,
}

/// Activations as kernels take them for writing: `Out` of `kernels/cuda/common.cuh`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Out {
    pub floats: u64,
    pub int8: u64,
    pub bf16: u64,
    pub roles: u64,
    pub width: i32,
    pub padded: i32,
}

impl Act {
    pub(crate) fn new(gpu: &Arc<Gpu>, rows: usize, width: usize) -> Result<Act> {
        let floats = gpu.alloc(4 * rows * width, "activations")?;
        let (rounded, is_rounded) = (OnceCell::new(), Cell::new(false));
        Ok(Act { gpu: gpu.clone(), capacity: (rows, width), floats, rounded, rows: 0, width: 0, is_rounded })
    }

    pub(crate) fn bytes(gpu: &Gpu, rows: usize, width: usize) -> u64 {
        (rows * (4 * width + Self::rounded_bytes(gpu, width))) as u64
    }

    fn rounded_bytes(gpu: &Gpu, width: usize) -> usize {
        let padded = width.next_multiple_of(PAD);
        padded / 32 * BLOCK_BYTES + if gpu.has_bf16() { 2 * padded } else { 0 }
    }

    /// Sets the shape that is going to be written.
    pub(crate) fn shape(&mut self, rows: usize, width: usize) -> Result<()> {
        let (most_rows, most_width) = self.capacity;
        if rows > most_rows || width > most_width {
            let shape = format!("{rows} x {width} activations in a buffer of {most_rows} x {most_width}");
            return Err(Error::Batch(shape));
        }
        (self.rows, self.width) = (rows, width);
        self.is_rounded.set(false);
        Ok(())
    }

    /// Rows at most.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity.0
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Width of rounded rows.
    pub(crate) fn padded(&self) -> usize {
        self.width.next_multiple_of(PAD)
    }

    /// The floats, `[rows, width]`.
    pub(crate) fn floats(&self) -> u64 {
        self.floats.pointer()
    }

    /// Copies the rows to pinned memory, and waits.
    pub(crate) fn read(&self, to: &mut Pinned) -> Result<()> {
        self.floats.read(to, 4 * self.rows * self.width)
    }

    /// Puts a copy of all its rows from pinned memory on `stream`.
    ///
    /// # Safety
    /// As for [`Buffer::write_from`].
    pub(crate) unsafe fn write_from(&self, stream: CUstream, from: &Pinned, bytes: usize) -> Result<()> {
        // SAFETY: by this function's contract.
        unsafe { self.floats.write_from(stream, 0, from, bytes) }
    }

    fn allocated(&self) -> Result<&Rounded> {
        if let Some(rounded) = self.rounded.get() {
            return Ok(rounded);
        }
        let (rows, width) = self.capacity;
        let padded = width.next_multiple_of(PAD);
        let int8 = self.gpu.alloc(rows * padded / 32 * BLOCK_BYTES, "activations")?;
        let bf16 = match self.gpu.has_bf16() {
            true => Some(self.gpu.alloc(2 * rows * padded, "activations")?),
            false => None,
        };
        Ok(self.rounded.get_or_init(|| Rounded { int8, bf16 }))
    }

    /// The rounded rows: 8-bit blocks, and bf16 or 0.
    pub(crate) fn rounded(&self) -> Result<(u64, u64)> {
        let rounded = self.allocated()?;
        Ok((rounded.int8.pointer(), rounded.bf16.as_ref().map_or(0, Buffer::pointer)))
    }

    pub(crate) fn is_rounded(&self) -> bool {
        self.is_rounded.get()
    }

    /// Says whether the rounded rows are those of the floats.
    pub(crate) fn set_rounded(&self, is: bool) {
        self.is_rounded.set(is);
    }

    /// For a kernel that writes rounded rows of these roles alone: nobody is going to read the floats.
    pub(crate) fn out_rounded(&self, roles: u64) -> Result<Out> {
        Ok(Out { floats: 0, ..self.out(roles)? })
    }

    /// For a kernel that writes floats and rounded rows of these roles.
    pub(crate) fn out(&self, roles: u64) -> Result<Out> {
        let (int8, bf16) = self.rounded()?;
        self.is_rounded.set(true);
        let (width, padded) = (self.width as i32, self.padded() as i32);
        Ok(Out { floats: self.floats(), int8, bf16, roles, width, padded })
    }
}
