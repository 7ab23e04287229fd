//! Packed weights and their matrix products.

use crate::act::{QuantView, View};
use crate::mem::{Arena, Region};
use crate::team::{Team, Worker};
use kinfer_core::backend::Matrix;
use kinfer_core::{Format, Result};
use kinfer_kernels::isa::Isa;
use kinfer_kernels::pack::{Matmul, Packing, ROWS, padded_cols};
use kinfer_kernels::quant::dequantize;
use std::ops::Range;

/// Bytes of 8-bit activations that one pass over the weights multiplies: half of a 2 MiB L2 cache, so that they stay there
/// while the weights stream by.
const TOKEN_BLOCK: usize = 1 << 20;

/// A packed matrix: parts one below the other.
pub struct Weight {
    parts: Vec<Part>,
    rows: usize,
    cols: usize,
}

struct Part {
    matmul: Matmul,
    data: Region,
    rows: usize,
    /// Output column of its first row.
    first: usize,
}

impl Part {
    fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }
}

/// The inputs of a product: floats, and their 8-bit form where a part needs it.
#[derive(Clone, Copy)]
pub(crate) struct Input {
    pub float: View,
    pub quant: QuantView,
}

impl Weight {
    /// Packs the rows of `parts`, in parallel, straight from where they lie. With `exact`, quantised formats are
    /// dequantised to f32.
    pub(crate) fn pack(
        parts: &[Matrix<'_>],
        isa: Isa,
        exact: bool,
        arena: &Arena,
        team: &Team,
    ) -> Result<Weight> {
        let cols = parts.first().map_or(0, |p| p.cols);
        let mut weight = Weight { parts: Vec::with_capacity(parts.len()), rows: 0, cols };
        for m in parts {
            let packing = packing(m.format, exact);
            let bytes = packing.bytes(m.rows, cols);
            let data = arena.alloc(bytes, &format!("weight `{}`", m.name))?;
            let matmul = Matmul::new(packing, isa).ok_or_else(|| kinfer_core::Error::Device {
                device: "cpu".into(),
                reason: format!("this machine has no {isa}"),
            })?;
            let part = Part { matmul, data, rows: m.rows, first: weight.rows };
            team.run(|w| pack_share(&part, m, exact, w));
            weight.rows += m.rows;
            weight.parts.push(part);
        }
        Ok(weight)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Whether some part multiplies 8-bit activations.
    pub(crate) fn wants_quantised(&self) -> bool {
        self.parts.iter().any(|p| matches!(p.matmul.packing(), Packing::Quantised(_)))
    }

    /// Groups of sixteen rows over all parts.
    pub(crate) fn groups(&self) -> usize {
        self.parts.iter().map(Part::groups).sum()
    }

    /// Whether each group's outputs are whole: then group `g` gives the columns `16 g .. 16 g + 16`.
    pub(crate) fn whole_groups(&self) -> bool {
        self.parts.iter().all(|p| p.rows.is_multiple_of(ROWS))
    }

    /// This worker's even share of the groups, in pairs: the kernels stream two groups at a time.
    pub(crate) fn share(&self, w: &Worker<'_>) -> Range<usize> {
        let groups = self.groups();
        let pairs = w.share(groups.div_ceil(2));
        (2 * pairs.start).min(groups)..(2 * pairs.end).min(groups)
    }

    /// `out[r][rows of groups] = weight . x[r]` for the groups `range`; returns the output columns.
    ///
    /// # Safety
    /// `x` holds `rows` rows of [`Weight::cols`] columns, the 8-bit form too if [`Weight::wants_quantised`]; `out` has room for
    /// `rows` rows of [`Weight::rows`] columns; nobody else accesses the output columns of these groups meanwhile.
    pub(crate) unsafe fn multiply(
        &self,
        range: Range<usize>,
        x: Input,
        rows: usize,
        out: View,
    ) -> Range<usize> {
        let block = (TOKEN_BLOCK / padded_cols(self.cols)).max(16);
        let mut cols: Option<Range<usize>> = None;
        let mut before = 0;
        for part in &self.parts {
            let groups = range.start.max(before)..range.end.min(before + part.groups());
            before += part.groups();
            if groups.is_empty() {
                continue;
            }
            let groups = groups.start + part.groups() - before..groups.end + part.groups() - before;
            let first = part.first + groups.start * ROWS;
            let end = (part.first + groups.end * ROWS).min(part.first + part.rows);
            cols = Some(cols.map_or(first, |c| c.start)..end);
            let mut t = 0;
            while t < rows {
                let n = block.min(rows - t);
                // SAFETY: rows `t..t + n` and these groups are within the caller's promise.
                unsafe { part.multiply(groups.clone(), self.cols, x, t, n, out) };
                t += n;
            }
        }
        cols.unwrap_or(0..0)
    }

    /// Row `r` as f32.
    pub(crate) fn dequantise_row(&self, r: usize, out: &mut [f32]) {
        let Some(part) = self.parts.iter().rev().find(|p| p.first <= r) else { return };
        let packing = part.matmul.packing();
        let bytes = packing.group_bytes(self.cols);
        let r = r - part.first;
        // SAFETY: the region holds every group of the part and was filled by `pack`.
        let group = unsafe { std::slice::from_raw_parts(part.data.as_ptr().add(r / ROWS * bytes), bytes) };
        packing.unpack_row(group, r % ROWS, out);
    }
}

impl Part {
    /// # Safety
    /// As [`Weight::multiply`], for rows `t..t + n`.
    unsafe fn multiply(&self, groups: Range<usize>, cols: usize, x: Input, t: usize, n: usize, out: View) {
        // A last group with fewer than sixteen rows must not write past them: it goes through a buffer.
        let whole = groups.end.min(self.rows / ROWS);
        // SAFETY: the region holds the groups; inputs and outputs by the caller's promise.
        unsafe {
            if whole > groups.start {
                let y = out.ptr.add(t * out.stride + self.first + groups.start * ROWS);
                self.call(groups.start, whole - groups.start, cols, x, t, n, y, out.stride);
            }
            if groups.end > whole {
                let cut = self.rows - whole * ROWS;
                let mut y = [0f32; ROWS];
                for r in t..t + n {
                    self.call(whole, 1, cols, x, r, 1, y.as_mut_ptr(), ROWS);
                    let first = self.first + whole * ROWS;
                    out.row_mut(r, first..first + cut).copy_from_slice(&y[..cut]);
                }
            }
        }
    }

    /// # Safety
    /// As [`Matmul::quantised`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn call(
        &self,
        first: usize,
        groups: usize,
        cols: usize,
        x: Input,
        t: usize,
        n: usize,
        y: *mut f32,
        ldy: usize,
    ) {
        let packing = self.matmul.packing();
        // SAFETY: passed on.
        unsafe {
            let w = self.data.as_ptr().add(first * packing.group_bytes(cols));
            match packing {
                Packing::Quantised(_) => self.matmul.quantised(w, groups, cols, x.quant.rows(t), n, y, ldy),
                Packing::Float(_) => {
                    let xf = x.float.ptr.add(t * x.float.stride);
                    self.matmul.float(w, groups, cols, xf, x.float.stride, n, y, ldy);
                }
            }
        }
    }
}

fn packing(format: Format, exact: bool) -> Packing {
    match Packing::of(format) {
        Packing::Quantised(_) if exact => Packing::of(Format::F32),
        p => p,
    }
}

/// Bytes of a packed matrix.
pub(crate) fn packed_bytes(rows: usize, cols: usize, format: Format, exact: bool) -> u64 {
    packing(format, exact).bytes(rows, cols) as u64
}

/// Packs a worker's share of a part.
fn pack_share(part: &Part, m: &Matrix<'_>, exact: bool, w: &Worker<'_>) {
    let packing = part.matmul.packing();
    let bytes = packing.group_bytes(m.cols);
    let dequantise = exact && m.format.quant().is_some();
    let mut floats = vec![0f32; if dequantise { m.cols } else { 0 }];
    let mut exact_rows = vec![0u8; floats.len() * 4 * ROWS];
    for g in w.share(part.groups()) {
        let rows = g * ROWS..((g + 1) * ROWS).min(part.rows);
        // SAFETY: group `g` lies in the region, and this worker alone has it.
        let out = unsafe { std::slice::from_raw_parts_mut(part.data.as_mut_ptr().add(g * bytes), bytes) };
        let mut stored = [&[][..]; ROWS];
        if dequantise {
            for (r, dst) in rows.clone().zip(exact_rows.chunks_exact_mut(4 * m.cols)) {
                dequantize(m.format, m.row(r), &mut floats);
                for (d, f) in dst.chunks_exact_mut(4).zip(&floats) {
                    d.copy_from_slice(&f.to_le_bytes());
                }
            }
            for (s, row) in stored.iter_mut().zip(exact_rows.chunks_exact(4 * m.cols)) {
                *s = row;
            }
            packing.pack_group(Format::F32, &stored[..rows.len()], m.cols, out);
        } else {
            for (s, r) in stored.iter_mut().zip(rows.clone()) {
                *s = m.row(r);
            }
            packing.pack_group(m.format, &stored[..rows.len()], m.cols, out);
        }
    }
}

/// Quantises a worker's share of rows.
///
/// # Safety
/// `x` holds `rows` rows of `cols` columns that nobody writes meanwhile; `q` has room for them and nobody else accesses it.
pub(crate) unsafe fn quantise_rows(
    kernel: kinfer_kernels::pack::Quantize,
    x: View,
    q: QuantView,
    cols: usize,
    rows: Range<usize>,
) {
    for r in rows {
        // SAFETY: row `r` is this worker's.
        unsafe {
            let (ints, meta) = q.part_mut(r, 0, q.padded());
            kernel.row(x.row(r, 0..cols), ints, meta);
        }
    }
}
