//! Activations, and the views through which the workers of a stage share them.

use crate::mem::Buffer;
use kinfer_kernels::bf16::{STRIP, TileRows, strip_len};
use kinfer_kernels::pack::{ActBlock, BLOCK, QuantRows, padded_cols};
use std::ops::Range;
use std::sync::Mutex;

/// Activations, `[rows, width]`, and their rounded form.
pub struct Act {
    data: Buffer<f32>,
    /// Floats from one row to the next: the largest width.
    stride: usize,
    /// Rows and width last written.
    rows: usize,
    width: usize,
    /// The rows as the products take them; a stage fills it before it multiplies.
    pub(crate) rounded: Mutex<Rounded>,
}

/// Rows of activations as products with quantised weights take them: 8-bit integers with block scales, or bf16 tiles.
pub(crate) struct Rounded {
    /// Allocated when first used, since not all activations are multiplied.
    data: Option<(Buffer<i8>, Buffer<ActBlock>, Buffer<u16>)>,
    /// Integers for the largest rows.
    ints: usize,
    /// Elements of tiles for the largest rows; 0 where there are no tiles.
    tiles: usize,
}

impl Act {
    pub(crate) fn new(rows: usize, width: usize, tiles: bool) -> Act {
        let tiles = if tiles { rows.div_ceil(STRIP) * strip_len(width) } else { 0 };
        Act {
            data: Buffer::new(rows * width),
            stride: width,
            rows: 0,
            width,
            rounded: Mutex::new(Rounded { data: None, ints: rows * padded_cols(width), tiles }),
        }
    }

    /// Bytes of activations for `rows` rows.
    pub(crate) fn bytes(rows: usize, width: usize, tiles: bool) -> u64 {
        let ints = rows * padded_cols(width);
        let tiles = if tiles { rows.div_ceil(STRIP) * strip_len(width) } else { 0 };
        (rows * width * 4 + ints + ints / BLOCK * size_of::<ActBlock>() + 2 * tiles) as u64
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

impl Rounded {
    /// A view for rows of `cols` activations.
    pub(crate) fn view(&mut self, cols: usize) -> RoundedView {
        let (ints, tiles) = (self.ints, self.tiles);
        let (q, meta, tiles) = self
            .data
            .get_or_insert_with(|| (Buffer::new(ints), Buffer::new(ints / BLOCK), Buffer::new(tiles)));
        RoundedView {
            q: q.as_mut_slice().as_mut_ptr(),
            meta: meta.as_mut_slice().as_mut_ptr(),
            cols,
            stride: padded_cols(cols),
            tiles: tiles.as_mut_slice().as_mut_ptr(),
            strip: strip_len(cols),
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
    /// A view in which rows `rows` and columns `cols` lie densely in `buffer`; others are not there.
    pub fn block(buffer: &mut [f32], rows: &Range<usize>, cols: Range<usize>) -> View {
        let stride = cols.len();
        assert!(rows.len() * stride <= buffer.len(), "{rows:?} x {cols:?} in {} floats", buffer.len());
        let ptr = buffer.as_mut_ptr().wrapping_sub(rows.start * stride + cols.start);
        View { ptr, stride, width: cols.end }
    }

    /// Columns `cols` of row `r`.
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody writes them meanwhile.
    pub unsafe fn row<'a>(self, r: usize, cols: Range<usize>) -> &'a [f32] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts(self.ptr.wrapping_add(r * self.stride + cols.start), cols.len()) }
    }

    /// Columns `cols` of row `r`.
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody else accesses them meanwhile.
    pub unsafe fn row_mut<'a>(self, r: usize, cols: Range<usize>) -> &'a mut [f32] {
        // SAFETY: by this function's contract.
        unsafe {
            std::slice::from_raw_parts_mut(self.ptr.wrapping_add(r * self.stride + cols.start), cols.len())
        }
    }
}

/// Rows of rounded activations that several workers access at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct RoundedView {
    q: *mut i8,
    meta: *mut ActBlock,
    cols: usize,
    stride: usize,
    tiles: *mut u16,
    strip: usize,
}

// SAFETY: as `View`.
unsafe impl Send for RoundedView {}
// SAFETY: as `View`.
unsafe impl Sync for RoundedView {}

impl RoundedView {
    /// The integers and block scales of row `r` from column `start` (a multiple of 32) to column `end` (another, or the end of the
    /// row: then with its padding).
    ///
    /// # Safety
    /// They lie in the buffer, which lives, and nobody else accesses them meanwhile.
    pub unsafe fn ints_mut<'a>(
        self,
        r: usize,
        start: usize,
        end: usize,
    ) -> (&'a mut [i8], &'a mut [ActBlock]) {
        let end = if end == self.cols { self.stride } else { end };
        debug_assert!(start.is_multiple_of(BLOCK) && start <= end && end <= self.stride);
        // SAFETY: by this function's contract.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.q.add(r * self.stride + start), end - start),
                std::slice::from_raw_parts_mut(
                    self.meta.add((r * self.stride + start) / BLOCK),
                    (end - start) / BLOCK,
                ),
            )
        }
    }

    /// The 8-bit rows from `first` on, for a kernel.
    pub fn ints(self, first: usize) -> QuantRows {
        let at = first * self.stride;
        QuantRows {
            q: self.q.wrapping_add(at),
            meta: self.meta.wrapping_add(at / BLOCK),
            stride: self.stride,
        }
    }

    /// The strip of row `r` from column `start` (a multiple of 32) on.
    pub fn strip(self, r: usize, start: usize) -> *mut u16 {
        debug_assert!(start.is_multiple_of(BLOCK));
        self.tiles.wrapping_add(r / STRIP * self.strip + start * STRIP)
    }

    /// The tiles, for a kernel.
    pub fn tiles(self) -> TileRows {
        TileRows { ptr: self.tiles, strip: 2 * self.strip }
    }
}
