//! Activations, and the views through which the workers of a stage share them.

use crate::mem::Buffer;
use kinfer_kernels::pack::{ActBlock, BLOCK, QuantRows, padded_cols};
use std::ops::Range;
use std::sync::Mutex;

/// Activations, `[rows, width]`, and their 8-bit form.
pub struct Act {
    data: Buffer<f32>,
    /// Floats from one row to the next: the largest width.
    stride: usize,
    /// Rows and width last written.
    rows: usize,
    width: usize,
    /// The 8-bit form of the rows; a stage fills it before it multiplies.
    pub(crate) quant: Mutex<Quantised>,
}

/// Rows of 8-bit activations.
pub(crate) struct Quantised {
    /// Integers and block scales; allocated when first used, since not all activations are multiplied.
    data: Option<(Buffer<i8>, Buffer<ActBlock>)>,
    /// Integers for the largest rows.
    len: usize,
}

impl Act {
    pub(crate) fn new(rows: usize, width: usize) -> Act {
        Act {
            data: Buffer::new(rows * width),
            stride: width,
            rows: 0,
            width,
            quant: Mutex::new(Quantised { data: None, len: rows * padded_cols(width) }),
        }
    }

    /// Bytes of activations for `rows` rows.
    pub(crate) fn bytes(rows: usize, width: usize) -> u64 {
        let quant = padded_cols(width) * (1 + size_of::<ActBlock>() / BLOCK);
        (rows * (width * 4 + quant)) as u64
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Sets what the next writer fills.
    pub(crate) fn shape(&mut self, rows: usize, width: usize) {
        assert!(
            width <= self.stride && rows * self.stride <= self.data.as_slice().len(),
            "[{rows}, {width}] activations in a buffer of {} with rows of {}",
            self.data.as_slice().len(),
            self.stride
        );
        (self.rows, self.width) = (rows, width);
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn row(&self, r: usize) -> &[f32] {
        &self.data.as_slice()[r * self.stride..][..self.width]
    }

    pub(crate) fn data(&self) -> &[f32] {
        self.data.as_slice()
    }

    /// A view for the workers of a stage that only read.
    pub(crate) fn view(&self) -> View {
        View { ptr: self.data.as_slice().as_ptr().cast_mut(), stride: self.stride, width: self.width }
    }

    /// A view for the workers of a stage that write.
    pub(crate) fn view_mut(&mut self) -> View {
        View { ptr: self.data.as_mut_slice().as_mut_ptr(), stride: self.stride, width: self.width }
    }
}

impl Quantised {
    /// A view for rows of `cols` activations.
    pub(crate) fn view(&mut self, cols: usize) -> QuantView {
        let len = self.len;
        let (q, meta) = self.data.get_or_insert_with(|| (Buffer::new(len), Buffer::new(len / BLOCK)));
        QuantView {
            q: q.as_mut_slice().as_mut_ptr(),
            meta: meta.as_mut_slice().as_mut_ptr(),
            stride: padded_cols(cols),
        }
    }
}

/// Rows of floats that several workers access at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub ptr: *mut f32,
    pub stride: usize,
    pub width: usize,
}

// SAFETY: a view is a pointer with dimensions; every access states what it needs.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Columns `cols` of row `r`.
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody writes them meanwhile.
    pub unsafe fn row<'a>(self, r: usize, cols: Range<usize>) -> &'a [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts(self.ptr.add(r * self.stride + cols.start), cols.len()) }
    }

    /// Columns `cols` of row `r`.
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody else accesses them meanwhile.
    pub unsafe fn row_mut<'a>(self, r: usize, cols: Range<usize>) -> &'a mut [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(r * self.stride + cols.start), cols.len()) }
    }
}

/// Rows of 8-bit activations that several workers access at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct QuantView {
    q: *mut i8,
    meta: *mut ActBlock,
    stride: usize,
}

// SAFETY: as `View`.
unsafe impl Send for QuantView {}
// SAFETY: as `View`.
unsafe impl Sync for QuantView {}

impl QuantView {
    /// The integers and block scales of row `r` from column `start` (a multiple of 32) for `len` columns; up to the end of the
    /// padded row when `len` reaches the row's end.
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody else accesses them meanwhile.
    pub unsafe fn part_mut<'a>(
        self,
        r: usize,
        start: usize,
        len: usize,
    ) -> (&'a mut [i8], &'a mut [ActBlock]) {
        debug_assert!(start.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) && start + len <= self.stride);
        // SAFETY: by this function's contract.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.q.add(r * self.stride + start), len),
                std::slice::from_raw_parts_mut(self.meta.add((r * self.stride + start) / BLOCK), len / BLOCK),
            )
        }
    }

    /// Padded columns of a row.
    pub fn padded(self) -> usize {
        self.stride
    }

    /// The rows from `first` on, for a kernel.
    pub fn rows(self, first: usize) -> QuantRows {
        let at = first * self.stride;
        QuantRows {
            q: self.q.wrapping_add(at),
            meta: self.meta.wrapping_add(at / BLOCK),
            stride: self.stride,
        }
    }
}
