//! The state of one step.

use crate::Cpu;
use crate::mem::Buffer;
use crate::moe::Mixture;
use kinfer_core::batch::{BLOCK_LEN, Role};
use kinfer_core::{Batch, PartSpec, RopeSpec, Run};
use kinfer_kernels::bf16::TileAttend;
use kinfer_kernels::ops::{PARTITION_LEN, partial_len, rope_table};
use std::cell::UnsafeCell;

/// Query rows that one attention item takes: enough to share each load of keys, few enough that its partial results (up to
/// `16 * group * (head_dim + 16)` floats, twice) stay in L2.
pub(crate) const ATTN_ROWS: usize = 16;

/// Floats of a block of a product's outputs, which a stage finishes before the next block is computed: 512 KiB, so that they stay
/// in a 2 MiB L2 cache beside the product's inputs.
pub(crate) const BLOCK_FLOATS: usize = 1 << 17;

/// Positions, block tables, rotary tables and attention scratch of a step.
pub struct Step {
    pub(crate) tokens: Vec<u32>,
    pub(crate) runs: Vec<Run>,
    pub(crate) blocks: Vec<u32>,
    pub(crate) outputs: Vec<u32>,
    /// Position of each row.
    pub(crate) positions: Vec<u32>,
    /// Run of each row.
    pub(crate) run_of: Vec<u32>,
    /// Role of each row, as far as this backend tells them apart: without tiles every row counts as generated.
    roles: Vec<Role>,
    /// Role of each output row.
    output_roles: Vec<Role>,
    /// Rotary tables: for each rope, `[rows, half]` cosines, then as many sines.
    ropes: Vec<Vec<f32>>,
    /// Attention items of a layer: `(run, first row, rows)`; each stands for one item per KV head.
    pub(crate) tiles: Vec<(u32, u32, u32)>,
    /// Rows of one run that lie in one cache block: `(run, first row, rows)`.
    pub(crate) chunks: Vec<(u32, u32, u32)>,
    /// Scratch of each worker, for a block of a product's outputs, or for attention: two sets of partial results of one item, its
    /// outputs, and what tiles need.
    pub(crate) scratch: WorkerScratch,
    /// Partial results of a decode that is split by partitions.
    pub(crate) partials: Buffer<f32>,
    /// Rows compacted for [`kinfer_core::Backend::read`].
    pub(crate) compact: Vec<f32>,
    /// Rows on their way through experts.
    pub(crate) mixture: Mixture,
    max_rows: usize,
}

impl Step {
    pub(crate) fn new(part: &PartSpec, rows: usize, blocks: usize, cpu: &Cpu) -> Step {
        let threads = cpu.team.threads();
        let item = |a: &kinfer_core::AttnSpec| {
            let queries = ATTN_ROWS * a.heads / a.kv_heads.max(1);
            3 * queries * partial_len(a.head_dim) + TileAttend::scratch_len(a.head_dim, queries)
        };
        let item = part.attn.iter().map(item).max().unwrap_or(0);
        let delta = part.delta.iter().map(crate::delta::scratch_len).max().unwrap_or(0);
        let widest = part.ffn.iter().map(|f| f.hidden).max().unwrap_or(0).max(part.dim);
        let all_heads = part.attn.iter().map(|a| a.heads * partial_len(a.head_dim)).max().unwrap_or(0);
        let partitions = (blocks * BLOCK_LEN).div_ceil(PARTITION_LEN);
        Step {
            tokens: Vec::with_capacity(rows),
            runs: Vec::with_capacity(rows),
            blocks: Vec::with_capacity(blocks + rows),
            outputs: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            run_of: Vec::with_capacity(rows),
            roles: Vec::with_capacity(rows),
            output_roles: Vec::with_capacity(rows),
            ropes: part.ropes.iter().map(|r| vec![0.0; 2 * rows * r.inv_freq.len()]).collect(),
            tiles: Vec::with_capacity(rows),
            chunks: Vec::with_capacity(rows),
            scratch: WorkerScratch::new(threads, item.max(BLOCK_FLOATS + widest).max(delta)),
            partials: Buffer::new(all_heads * partitions),
            compact: Vec::new(),
            mixture: Mixture::new(part, rows, cpu.convert.is_some()),
            max_rows: rows,
        }
    }

    pub(crate) fn begin(&mut self, ropes: &[RopeSpec], batch: &Batch, cpu: &Cpu) {
        fn copy<T: Clone>(to: &mut Vec<T>, from: &[T]) {
            to.clear();
            to.extend_from_slice(from);
        }
        copy(&mut self.tokens, &batch.tokens);
        copy(&mut self.runs, &batch.runs);
        copy(&mut self.blocks, &batch.blocks);
        copy(&mut self.outputs, &batch.outputs);
        self.positions.clear();
        self.run_of.clear();
        self.roles.clear();
        self.output_roles.clear();
        self.tiles.clear();
        self.chunks.clear();
        for (i, run) in self.runs.iter().enumerate() {
            self.positions.extend((run.start..run.start + run.rows.len()).map(|p| p as u32));
            self.run_of.extend(std::iter::repeat_n(i as u32, run.rows.len()));
            let role = if cpu.convert.is_some() { run.role } else { Role::Generated };
            self.roles.extend(std::iter::repeat_n(role, run.rows.len()));
            let mut row = run.rows.start;
            while row < run.rows.end {
                let n = ATTN_ROWS.min(run.rows.end - row);
                self.tiles.push((i as u32, row as u32, n as u32));
                row += n;
            }
            let mut row = run.rows.start;
            while row < run.rows.end {
                let slot = (run.start + row - run.rows.start) % BLOCK_LEN;
                let n = (BLOCK_LEN - slot).min(run.rows.end - row);
                self.chunks.push((i as u32, row as u32, n as u32));
                row += n;
            }
        }
        self.output_roles.extend(self.outputs.iter().map(|&r| self.roles[r as usize]));
        let rows = self.positions.len();
        for (spec, table) in ropes.iter().zip(&mut self.ropes) {
            let half = spec.inv_freq.len();
            let (cos, sin) = table.split_at_mut(self.max_rows * half);
            let (cos, sin) = (Chunks::new(cos, half), Chunks::new(sin, half));
            cpu.team.run(|w| {
                for r in w.share(rows) {
                    // SAFETY: row `r` of both tables is this worker's.
                    let (cos, sin) = unsafe { (cos.chunk(r), sin.chunk(r)) };
                    rope_table(self.positions[r] as usize, &spec.inv_freq, spec.magnitude, cos, sin);
                }
            });
        }
    }

    /// Cosines and sines of row `r`.
    pub(crate) fn rope(&self, rope: usize, r: usize) -> (&[f32], &[f32]) {
        let table = &self.ropes[rope];
        let half = table.len() / 2 / self.max_rows;
        let (cos, sin) = table.split_at(self.max_rows * half);
        (&cos[r * half..(r + 1) * half], &sin[r * half..(r + 1) * half])
    }

    /// Roles of activations of `rows` rows: either all rows of the step, or its output rows. If there are as many of both,
    /// every row is an output row.
    pub(crate) fn roles_of(&self, rows: usize) -> &[Role] {
        if rows == self.roles.len() { &self.roles } else { &self.output_roles }
    }

    /// What experts work on, and the role of each row of the step.
    pub(crate) fn mixture_and_roles(&mut self) -> (&mut Mixture, &[Role]) {
        (&mut self.mixture, &self.roles)
    }

    /// The block table of a run.
    pub(crate) fn table(&self, run: &Run) -> &[u32] {
        &self.blocks[run.blocks.clone()]
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.tokens.len()
    }
}

/// A buffer for each worker.
pub(crate) struct WorkerScratch(Vec<UnsafeCell<Buffer<f32>>>);

// SAFETY: each worker takes its own buffer, see `of`.
unsafe impl Sync for WorkerScratch {}

impl WorkerScratch {
    fn new(threads: usize, floats: usize) -> Self {
        WorkerScratch((0..threads).map(|_| UnsafeCell::new(Buffer::new(floats))).collect())
    }

    /// The buffer of worker `id`.
    ///
    /// # Safety
    /// Only worker `id` asks for it, and holds it once.
    #[allow(clippy::mut_from_ref)] // by the contract
    pub(crate) unsafe fn of(&self, id: usize) -> &mut [f32] {
        // SAFETY: exclusive by this function's contract.
        unsafe { (*self.0[id].get()).as_mut_slice() }
    }
}

/// Equal chunks of a slice that several workers write, each its own.
pub(crate) struct Chunks<'a> {
    ptr: *mut f32,
    len: usize,
    chunk: usize,
    _slice: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: a borrowed slice of plain numbers; `chunk` states what concurrent use needs.
unsafe impl Sync for Chunks<'_> {}

impl<'a> Chunks<'a> {
    pub(crate) fn new(slice: &'a mut [f32], chunk: usize) -> Self {
        Chunks { ptr: slice.as_mut_ptr(), len: slice.len(), chunk, _slice: std::marker::PhantomData }
    }

    /// Chunk `i`.
    ///
    /// # Safety
    /// Nobody else holds chunk `i`.
    #[allow(clippy::mut_from_ref)] // workers share this and take disjoint chunks
    pub(crate) unsafe fn chunk(&self, i: usize) -> &mut [f32] {
        assert!((i + 1) * self.chunk <= self.len, "chunk {i} of {} floats", self.len);
        // SAFETY: within the slice by the assertion, exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.chunk), self.chunk) }
    }
}
