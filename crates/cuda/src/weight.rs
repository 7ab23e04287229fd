//! Weights on the device: packed as on the CPU and turned for GPUs, or floats.

use crate::driver::{Function, Gpu, Grid};
use crate::gemm::Gemm;
use crate::memory::Buffer;
use kinfer_core::backend::Matrix;
use kinfer_core::batch::Role;
use kinfer_core::{Error, Format, Result};
use kinfer_kernels::pack::{Float, Layout, Packing, ROWS, turn_for_gpu};
use std::sync::Arc;

/// Bytes that are packed at a time: while they are copied, the next ones are packed.
const STAGE: usize = 16 << 20;

/// A matrix, `[rows, cols]`: the rows of one or several stored matrices.
pub struct Weight {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Rows of one format each, in order.
    pub(crate) segments: Vec<Segment>,
}

/// Consecutive rows of one format.
pub(crate) struct Segment {
    /// First row of the weight.
    pub first: usize,
    pub rows: usize,
    pub data: Buffer,
    pub kernels: Kernels,
}

/// What multiplies a segment.
pub(crate) enum Kernels {
    /// Integer codes.
    Packed {
        /// Blocks of 64 or 256 columns of a row.
        units: usize,
        generated: Generated,
        embed: Function,
        /// For prompt rows, all or those of experts; the GPU has tensor cores.
        gemm: Option<Gemm>,
    },
    /// Floats: `enum Float` of `kernels/cuda/floats.cu`.
    Float { kind: i32, matvec: Function, experts: Function, embed: Function, gemm: Option<Gemm> },
}

/// What multiplies generated rows by integer codes: kernels of `kernels/cuda/matvec.cuh`.
pub(crate) struct Generated {
    /// For one row, and for one of an expert.
    pub one: Function,
    pub experts: Function,
    /// For several rows, by how many a block takes.
    pub several: Vec<(usize, Function)>,
    /// Chunks of 256 columns.
    pub chunks: usize,
}

impl Generated {
    fn new(gpu: &Gpu, function: impl Fn(&str) -> Result<Function>, cols: usize) -> Result<Generated> {
        let chunks = cols.div_ceil(CHUNK);
        if !gpu.has_bf16() {
            let several = vec![(8, function("direct8")?)];
            let (one, experts) = (function("direct1")?, function("direct_experts")?);
            return Ok(Generated { one, experts, several, chunks });
        }
        let several = [8, 16, 32].map(|n| Ok((n, function(&format!("batch{n}"))?)));
        let several = several.into_iter().collect::<Result<Vec<_>>>()?;
        let (one, experts) = (function("matvec1")?, function("experts")?);
        Ok(Generated { one, experts, several, chunks })
    }

    /// Blocks for `n` rows, each times `rows` rows of a weight or of its own expert's. A block has a group of each of so many `pieces`.
    pub fn one_grid(&self, n: usize, rows: usize, pieces: usize) -> Grid {
        let warps = self.chunks.min(PARTS);
        // Of a weight of few columns, fewer stages than the kernel has at most.
        let stages = warps * (pieces * self.chunks.div_ceil(warps)).min(AHEAD);
        let shared = self.one.shared as usize / (PARTS * AHEAD) * stages;
        Grid { shared: shared as u32, ..Grid::new(n, rows.div_ceil(pieces * ROWS), 32 * warps) }
    }

    /// Blocks for `n` rows with `kernel`, which takes `at_once`: `Batch` of `matvec.cuh`, or where nothing is copied to shared memory `direct`.
    pub fn several_grid(
        &self,
        kernel: &Function,
        n: usize,
        rows: usize,
        at_once: usize,
        pieces: usize,
    ) -> Grid {
        match kernel.shared {
            0 => self.one_grid(n.div_ceil(at_once), rows, pieces),
            shared => Grid { shared, ..Grid::new(n.div_ceil(at_once), rows.div_ceil(2 * ROWS), 256) },
        }
    }
}

/// Columns of a chunk, parts of a sum, and chunks that a warp copies ahead: as in `kernels/cuda/matvec.cuh`.
const CHUNK: usize = 256;
const PARTS: usize = 8;
const AHEAD: usize = 2;

/// Columns to which rows of floats are padded with zeros.
const FLOAT_PAD: usize = 32;

/// Bytes of such a weight on the device.
pub(crate) fn bytes(rows: usize, cols: usize, format: Format) -> u64 {
    (match Packing::of(format) {
        packing @ Packing::Quantised(_) => packing.bytes(rows, cols),
        Packing::Float(float) => rows * cols.next_multiple_of(FLOAT_PAD) * float.bytes(),
    }) as u64
}

impl Weight {
    /// Packs `parts`, rows concatenated, and copies them to the device.
    pub(crate) fn upload(gpu: &Arc<Gpu>, parts: &[Matrix<'_>], threads: usize) -> Result<Weight> {
        let cols = parts.first().map_or(0, |p| p.cols);
        let mut segments: Vec<Segment> = Vec::new();
        let mut first = 0;
        for same in parts.chunk_by(|a, b| a.format == b.format) {
            let stored: Vec<&[u8]> = same.iter().flat_map(|p| (0..p.rows).map(|r| p.row(r))).collect();
            let scales: Vec<f32> = same.iter().flat_map(|p| (0..p.rows).map(|_| p.scale)).collect();
            let format = same[0].format;
            let segment = match Packing::of(format) {
                packing @ Packing::Quantised(layout) => {
                    packed(gpu, packing, layout, format, (&stored, &scales), cols, threads)?
                }
                Packing::Float(float) => floats(gpu, float, &stored, cols, threads)?,
            };
            segments.push(Segment { first, ..segment });
            first += stored.len();
        }
        Ok(Weight { rows: first, cols, segments })
    }

    /// What a kernel multiplies rows of these roles by and activates at once: all of the weight, where gate and up are whole groups.
    pub(crate) fn activates(&self, roles: &[Role], gated: bool) -> Option<&Segment> {
        match self.segments.as_slice() {
            [segment] if matches!(segment.kernels, Kernels::Packed { .. }) => {
                let groups = !gated || self.rows.is_multiple_of(2 * ROWS);
                (groups && !roles.contains(&Role::Prompt)).then_some(segment)
            }
            _ => None,
        }
    }

    /// Whether products with rows of these roles read floats; if not, rounded rows alone.
    pub(crate) fn reads_floats(&self, roles: &[Role]) -> bool {
        self.segments.iter().any(|s| match &s.kernels {
            Kernels::Packed { .. } => false,
            Kernels::Float { gemm, .. } => gemm.is_none() || roles.contains(&Role::Generated),
        })
    }
}

fn packed(
    gpu: &Arc<Gpu>,
    packing: Packing,
    layout: Layout,
    format: Format,
    (rows, scales): (&[&[u8]], &[f32]),
    cols: usize,
    threads: usize,
) -> Result<Segment> {
    let unknown = || Error::Unsupported {
        what: format!("{format} on CUDA"),
        supported: "the formats with CUDA kernels".into(),
    };
    let index = layout.index().ok_or_else(unknown)?;
    let module = crate::ptx::layout_module(index).ok_or_else(unknown)?;
    let function = |kernel: &str| gpu.function(module, &format!("{kernel}_{index}"));
    let kernels = Kernels::Packed {
        units: layout.units(cols),
        generated: Generated::new(gpu, function, cols)?,
        embed: function("embed")?,
        gemm: Gemm::new(gpu, module, |kernel| format!("{kernel}_{index}"))?,
    };
    let groups: Vec<(&[&[u8]], &[f32])> = rows.chunks(ROWS).zip(scales.chunks(ROWS)).collect();
    let data = upload(gpu, &groups, packing.group_bytes(cols), threads, |(group, scales), out, scratch| {
        scratch.resize(out.len(), 0);
        packing.pack_group(format, group, cols, scratch);
        packing.scale_group(scales.iter().copied(), scratch);
        turn_for_gpu(layout, scratch, out);
    })?;
    Ok(Segment { first: 0, rows: rows.len(), data, kernels })
}

fn floats(gpu: &Arc<Gpu>, float: Float, rows: &[&[u8]], cols: usize, threads: usize) -> Result<Segment> {
    let function = |kernel: &str| gpu.function("floats", kernel);
    let kind = match float {
        Float::F32 => 0,
        Float::F16 => 1,
        Float::BF16 => 2,
    };
    let kernels = Kernels::Float {
        kind,
        matvec: function("float_matvec")?,
        experts: function("float_experts")?,
        embed: function("float_embed")?,
        // Rounding weights of 24 bits would lose what they were stored for.
        gemm: match float {
            Float::F32 => None,
            _ => Gemm::new(gpu, "floats", |kernel| format!("float_{kernel}"))?,
        },
    };
    let bytes = cols.next_multiple_of(FLOAT_PAD) * float.bytes();
    let data = upload(gpu, rows, bytes, threads, |row, out, _| {
        out[..row.len()].copy_from_slice(row);
        out[row.len()..].fill(0);
    })?;
    Ok(Segment { first: 0, rows: rows.len(), data, kernels })
}

/// Makes `bytes` bytes of each item and copies them to the device, in order. `threads` threads pack one stage while the device copies
/// the other one.
fn upload<T: Sync>(
    gpu: &Arc<Gpu>,
    items: &[T],
    bytes: usize,
    threads: usize,
    make: impl Fn(&T, &mut [u8], &mut Vec<u8>) + Sync,
) -> Result<Buffer> {
    let data = gpu.alloc(items.len() * bytes, "weights")?;
    let per_stage = (STAGE / bytes.max(1)).clamp(1, items.len().max(1));
    let mut stages = [gpu.pinned(per_stage * bytes)?, gpu.pinned(per_stage * bytes)?];
    for (i, items) in items.chunks(per_stage).enumerate() {
        let stage = &mut stages[i % 2];
        let each = items.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for (items, out) in items.chunks(each).zip(stage.bytes().chunks_mut(each * bytes)) {
                let make = &make;
                scope.spawn(move || {
                    let mut scratch = Vec::new();
                    for (item, out) in items.iter().zip(out.chunks_exact_mut(bytes)) {
                        make(item, out, &mut scratch);
                    }
                });
            }
        });
        // The copy before this one has to end before its stage is packed again.
        gpu.synchronize()?;
        // SAFETY: this stage is packed again after the next one's wait.
        unsafe { data.write_from(gpu.stream, i * per_stage * bytes, stage, items.len() * bytes)? };
    }
    gpu.synchronize()?;
    Ok(data)
}
