//! Packed weights and their matrix products.

use crate::act::{RoundedView, View};
use crate::mem::Region;
use crate::team::Worker;
use crate::{Cpu, Numerics};
use kinfer_core::backend::Matrix;
use kinfer_core::batch::Role;
use kinfer_core::{Format, Result};
use kinfer_kernels::bf16::{STRIP, TileMatmul};
use kinfer_kernels::pack::{Matmul, Packing, ROWS, padded_cols};
use std::ops::Range;

/// Bytes of 8-bit activations that one pass over the weights multiplies: half of a 2 MiB L2 cache, so that they stay there
/// while the weights stream by.
const TOKEN_BLOCK: usize = 1 << 20;
/// Most rows of a pass, so that a block of their outputs, [`crate::step::BLOCK_FLOATS`], has some columns.
const MAX_PASS: usize = 1024;

/// A packed matrix: parts one below the other.
pub struct Weight {
    parts: Vec<Part>,
    rows: usize,
    cols: usize,
    /// Its number in [`crate::Inputs`], where those are recorded.
    recorded: Option<usize>,
}

struct Part {
    matmul: Matmul,
    /// The product for prompt rows, where they have one of their own: in bf16.
    tiles: Option<TileMatmul>,
    data: Region,
    rows: usize,
    /// Output column of its first row.
    first: usize,
}

impl Part {
    /// Whether rows of `role` are multiplied as tiles.
    fn on_tiles(&self, role: Role) -> bool {
        role == Role::Prompt && self.tiles.is_some()
    }

    fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// The output columns of groups.
    fn columns(&self, groups: Range<usize>) -> Range<usize> {
        self.first + groups.start * ROWS..self.first + (groups.end * ROWS).min(self.rows)
    }
}

/// The inputs of a product: floats, and their rounded form where a part needs it.
#[derive(Clone, Copy)]
pub(crate) struct Input {
    pub float: View,
    pub rounded: RoundedView,
}

impl Weight {
    /// Packs the rows of `parts`, in parallel, straight from where they lie. With [`Numerics::F32`], quantised formats are
    /// dequantised to f32.
    pub(crate) fn pack(parts: &[Matrix<'_>], cpu: &Cpu) -> Result<Weight> {
        let (isa, exact) = (cpu.isa, cpu.numerics == Numerics::F32);
        let cols = parts.first().map_or(0, |p| p.cols);
        let recorded = cpu.inputs.as_ref().map(|inputs| inputs.weight(parts));
        let mut weight = Weight { parts: Vec::with_capacity(parts.len()), rows: 0, cols, recorded };
        for m in parts {
            let packing = packing(m.format, exact);
            let bytes = packing.bytes(m.rows, cols);
            let data = cpu.arena.alloc(bytes, &format!("weight `{}`", m.name))?;
            let matmul = Matmul::new(packing, isa).ok_or_else(|| kinfer_core::Error::Device {
                device: "cpu".into(),
                reason: format!("this machine has no {isa}"),
            })?;
            let tiles = cpu.convert.and_then(|_| TileMatmul::new(packing, isa));
            let part = Part { matmul, tiles, data, rows: m.rows, first: weight.rows };
            cpu.team.run(|w| pack_share(&part, m, exact, w));
            weight.rows += m.rows;
            weight.parts.push(part);
        }
        Ok(weight)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn recorded(&self) -> Option<usize> {
        self.recorded
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Whether some part multiplies 8-bit activations of rows of `role`.
    fn wants_ints(&self, role: Role) -> bool {
        self.parts.iter().any(|p| !p.on_tiles(role) && matches!(p.matmul.packing(), Packing::Quantised(_)))
    }

    /// Whether some part multiplies tiles.
    fn wants_tiles(&self) -> bool {
        self.parts.iter().any(|p| p.on_tiles(Role::Prompt))
    }

    /// Whether some part multiplies rounded activations.
    pub(crate) fn wants_rounded(&self) -> bool {
        self.wants_ints(Role::Generated) || self.wants_tiles()
    }

    /// Whether some part multiplies the floats of rows of `role`.
    fn wants_floats(&self, role: Role) -> bool {
        self.parts.iter().any(|p| !p.on_tiles(role) && matches!(p.matmul.packing(), Packing::Float(_)))
    }

    /// Makes `row` columns `cols` of row `r` of the input, in the forms in which the products read rows of its role.
    ///
    /// # Safety
    /// The columns are the caller's alone and begin at a multiple of 32; they end at one or at the row's end. `row` may be where they
    /// are already.
    pub(crate) unsafe fn put(
        &self,
        cpu: &Cpu,
        row: &[f32],
        x: Input,
        role: Role,
        r: usize,
        cols: Range<usize>,
    ) {
        if cols.is_empty() {
            return;
        }
        // SAFETY: by this function's contract.
        unsafe {
            let there = x.float.ptr.wrapping_add(r * x.float.stride + cols.start);
            if self.wants_floats(role) && !std::ptr::eq(there, row.as_ptr()) {
                x.float.row_mut(r, cols.clone()).copy_from_slice(row);
            }
            if let (Role::Prompt, Some(convert), true) = (role, cpu.convert, self.wants_tiles()) {
                convert.row(row, r, x.rounded.strip(r, cols.start));
            }
            if self.wants_ints(role) {
                let (ints, meta) = x.rounded.ints_mut(r, cols.start, cols.end);
                cpu.quantize.row(row, ints, meta);
            }
        }
    }

    /// Cuts rows into passes, as many as stay in L2 in rounded form while weights stream by: of one role, where it matters.
    pub(crate) fn passes(&self, roles: &[Role]) -> impl Iterator<Item = Range<usize>> {
        let pass = |start: usize| {
            let like = |&&role: &&Role| role == roles[start] || !self.wants_tiles();
            let same = roles[start..].iter().take_while(like).count();
            let most = match roles[start] {
                Role::Prompt if self.wants_tiles() => TileMatmul::rows_per_pass(self.cols),
                _ => (TOKEN_BLOCK / padded_cols(self.cols)).clamp(16, MAX_PASS),
            };
            // Tile products take strips, so a pass ends where one does.
            start..(start / STRIP * STRIP + most).min(start + same)
        };
        let first = (!roles.is_empty()).then(|| pass(0));
        std::iter::successors(first, move |p| (p.end < roles.len()).then(|| pass(p.end)))
    }

    /// Groups of sixteen rows over all parts.
    pub(crate) fn groups(&self) -> usize {
        self.parts.iter().map(Part::groups).sum()
    }

    /// Whether each group's outputs are whole: then group `g` gives the columns `16 g .. 16 g + 16`.
    pub(crate) fn whole_groups(&self) -> bool {
        self.parts.iter().all(|p| p.rows.is_multiple_of(ROWS))
    }

    /// This worker's even share of the groups, in pairs: the kernels read two streams of groups.
    pub(crate) fn share(&self, w: &Worker<'_>) -> Range<usize> {
        let groups = self.groups();
        let pairs = w.share(groups.div_ceil(2));
        (2 * pairs.start).min(groups)..(2 * pairs.end).min(groups)
    }

    /// `out[r][rows of groups] = weight . x[r]` for the groups `range` and the rows of a pass; returns the output columns.
    ///
    /// # Safety
    /// `x` holds these rows with [`Weight::cols`] columns, put there for `role` by [`Weight::put`]; `out` has room for
    /// them with the columns of these groups; nobody else accesses those meanwhile.
    pub(crate) unsafe fn multiply(
        &self,
        range: Range<usize>,
        x: Input,
        role: Role,
        rows: Range<usize>,
        out: View,
    ) -> Range<usize> {
        for (part, groups) in self.parts_of(range.clone()) {
            // SAFETY: these groups are within the caller's promise.
            unsafe { part.multiply(groups, self.cols, x, role, rows.clone(), out) };
        }
        self.columns(range)
    }

    /// The output columns of the groups `range`.
    pub(crate) fn columns(&self, range: Range<usize>) -> Range<usize> {
        let mut all: Option<Range<usize>> = None;
        for (part, groups) in self.parts_of(range) {
            let cols = part.columns(groups);
            all = Some(all.map_or(cols.start, |c| c.start)..cols.end);
        }
        all.unwrap_or(0..0)
    }

    /// The parts that the groups `range` lie in, and which of each part's groups they are.
    fn parts_of(&self, range: Range<usize>) -> impl Iterator<Item = (&Part, Range<usize>)> {
        let mut end = 0;
        self.parts.iter().filter_map(move |part| {
            let start = end;
            end += part.groups();
            let groups = range.start.max(start)..range.end.min(end);
            (!groups.is_empty()).then(|| (part, groups.start - start..groups.end - start))
        })
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
    /// As [`Weight::multiply`], for rows of one role.
    unsafe fn multiply(
        &self,
        groups: Range<usize>,
        cols: usize,
        x: Input,
        role: Role,
        rows: Range<usize>,
        out: View,
    ) {
        // A last group with fewer than sixteen rows must not write past them: it goes through a buffer.
        let whole = groups.end.min(self.rows / ROWS);
        // SAFETY: the region holds the groups; inputs and outputs by the caller's promise.
        unsafe {
            if whole > groups.start {
                let y = out.ptr.wrapping_add(self.first + groups.start * ROWS);
                self.call(groups.start..whole, cols, x, role, rows.clone(), y, out.stride);
            }
            if groups.end > whole {
                let (first, cut) = (self.first + whole * ROWS, self.rows - whole * ROWS);
                let mut y = [[0f32; ROWS]; STRIP];
                let mut t = rows.start;
                while t < rows.end {
                    // Not across the bounds of strips: the tile product takes whole ones.
                    let n = (STRIP - t % STRIP).min(rows.end - t);
                    let row_0 = y.as_mut_ptr().cast::<f32>().wrapping_sub(t * ROWS);
                    self.call(whole..whole + 1, cols, x, role, t..t + n, row_0, ROWS);
                    for (r, y) in (t..t + n).zip(&y) {
                        out.row_mut(r, first..first + cut).copy_from_slice(&y[..cut]);
                    }
                    t += n;
                }
            }
        }
    }

    /// `y` is the address of row 0, whether or not it exists.
    ///
    /// # Safety
    /// As [`Weight::multiply`], for groups of sixteen rows and rows of one role.
    #[allow(clippy::too_many_arguments)]
    unsafe fn call(
        &self,
        groups: Range<usize>,
        cols: usize,
        x: Input,
        role: Role,
        rows: Range<usize>,
        y: *mut f32,
        ldy: usize,
    ) {
        let packing = self.matmul.packing();
        // SAFETY: passed on.
        unsafe {
            let w = self.data.as_ptr().add(groups.start * packing.group_bytes(cols));
            let groups = groups.len();
            if let (Role::Prompt, Some(tiles)) = (role, self.tiles) {
                return tiles.multiply(w, groups, cols, x.rounded.tiles(), rows, y, ldy);
            }
            let (t, n, y) = (rows.start, rows.len(), y.wrapping_add(rows.start * ldy));
            match packing {
                Packing::Quantised(_) => {
                    self.matmul.quantised(w, groups, cols, x.rounded.ints(t), n, y, ldy);
                }
                Packing::Float(_) => {
                    let xf = x.float.ptr.wrapping_add(t * x.float.stride);
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
                m.values(r, &mut floats);
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
            packing.scale_group(rows.map(|_| m.scale), out);
        }
    }
}
