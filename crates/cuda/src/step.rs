//! The state of a step: where its rows stand, on the device and here, and the recorded graphs.

use crate::act::Act;
use crate::delta::Made;
use crate::draw::{self, Ranks};
use crate::driver::{Function, Gpu, Graph, Recorder};
use crate::experts::{Choice, MAX_EXPERTS, Mixture};
use crate::kv::{MAX_HEAD_DIM, MAX_LATENT};
use crate::memory::{Buffer, Pinned};
use cudarc::driver::sys::CUstream;
use kinfer_core::batch::Role;
use kinfer_core::{AttnSpec, Batch, Error, PartSpec, Result, RopeSpec, Run};
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Keys of a partition of decode attention, as in `attention.cu`.
pub(crate) const PARTITION: usize = 256;
/// Floats of partial attention results at most, where more than a row's are needed.
const PARTIALS: usize = 16 << 20;

/// Positions, block tables, rotary tables and scratch of a step.
pub struct Step {
    gpu: Arc<Gpu>,
    max_rows: usize,
    /// What of the batch is on the device: `Field`s of `max_rows` numbers, then the block tables.
    numbers: Buffer,
    staging: Pinned,
    block_capacity: usize,
    rows: usize,
    runs: Vec<Run>,
    roles: Vec<Role>,
    output_roles: Vec<Role>,
    /// How many of the likeliest tokens are drawn from; `None`: logits are read.
    candidates: Option<usize>,
    /// Partitions that the longest sequence has, rounded up to a power of two: the grid of decode attention, and so of a graph.
    pub(crate) partitions: usize,
    ropes: Vec<Rope>,
    pub(crate) partials: Buffer,
    pub(crate) partial_floats: usize,
    pub(crate) mixture: Option<Mixture>,
    /// What delta nets make of the step's rows.
    pub(crate) made: Option<Made>,
    /// Rows of the heads of latent attention, where there is some.
    heads: Option<Choice>,
    /// Of each attention block with linear biases its slopes, `[heads]`.
    slopes: Vec<Option<Buffer>>,
    /// Made when tokens are first drawn.
    pub(crate) ranks: Option<Ranks>,
    /// Rows that are read; made when some first are.
    host: Option<Pinned>,
    /// Rows from another device on their way to this one; made when some first come.
    incoming: Option<Pinned>,
    pub(crate) mode: Cell<Mode>,
    graphs: HashMap<Key, Option<Recorded>>,
    key: Option<Key>,
    /// Whether the piece that `key` names has not begun.
    between: bool,
    /// Whether rows came from another device in this piece.
    wrote: bool,
    /// Whether something may be on the stream that was not waited for.
    running: bool,
    rope_table: Function,
    /// Where steps of generated rows are recorded, if they are.
    recorder: Option<Recorder>,
}

/// What becomes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is put on the stream.
    Launch,
    /// It is recorded.
    Record,
    /// It is in the graph, which is launched as soon as its inputs are there: the device computes while the model is walked through.
    Replay,
}

/// Steps that launch the same work: generated rows only, one to a sequence, all of which are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    partitions: usize,
    /// How many of the likeliest tokens are drawn from; `None`: logits are read.
    candidates: Option<usize>,
    /// Which piece of the step: a read ends one, and what comes from another device begins the next.
    piece: u32,
}

/// A recorded piece.
struct Recorded {
    graph: Graph,
    /// Whether it waits for rows from another device.
    writes: bool,
}

/// A rotary table: frequencies, and cosines and sines of the step's rows.
struct Rope {
    spec: RopeSpec,
    frequencies: Buffer,
    cosines: Buffer,
    sines: Buffer,
}

/// The per-row arrays of a step.
#[derive(Clone, Copy)]
pub(crate) enum Field {
    Tokens,
    Positions,
    /// First entry of the row's block table.
    Tables,
    /// Last position of the row's run.
    Ends,
    Roles,
    /// Where the state of the row's sequence is.
    States,
    Outputs,
    OutputRoles,
    /// Of outputs: see `Draws` of `draw.cu`.
    Temperature,
    TopK,
    TopP,
    Below,
    Low,
    High,
}
const FIELDS: usize = 14;

impl Step {
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        part: &PartSpec,
        rows: usize,
        blocks: usize,
        record: bool,
    ) -> Result<Step> {
        let attn = || part.attn.iter();
        let most = |a: &AttnSpec| if a.latent.is_some() { MAX_LATENT } else { MAX_HEAD_DIM };
        if let Some(wide) = attn().find(|a| a.head_dim > most(a)) {
            return Err(Error::Unsupported {
                what: format!("heads of {} elements on CUDA", wide.head_dim),
                supported: format!("up to {}; `--device cpu` has no limit", most(wide)),
            });
        }
        let latent_heads = attn().filter(|a| a.latent.is_some()).map(|a| a.heads).max();
        if let Some(heads) = latent_heads.filter(|&heads| heads > MAX_EXPERTS) {
            return Err(Error::Unsupported {
                what: format!("latent attention of {heads} heads on CUDA"),
                supported: format!("up to {MAX_EXPERTS}; `--device cpu` has no limit"),
            });
        }
        let slopes = attn().map(|a| a.alibi.as_ref().map(|s| gpu.upload(s, "attention")).transpose());
        let per_partition = attn().map(|a| a.heads * (a.head_dim + 2)).max().unwrap_or(0);
        let per_row =
            per_partition * (blocks * kinfer_core::batch::BLOCK_LEN).div_ceil(PARTITION).next_power_of_two();
        let partial_floats = per_row.max((rows * per_row).min(PARTIALS));
        let block_capacity = blocks + rows;
        let numbers = FIELDS * rows + block_capacity;
        Ok(Step {
            max_rows: rows,
            numbers: gpu.alloc(4 * numbers, "the step")?,
            staging: gpu.pinned(4 * numbers)?,
            block_capacity,
            rows: 0,
            runs: Vec::new(),
            roles: Vec::new(),
            output_roles: Vec::new(),
            candidates: None,
            partitions: 1,
            ropes: Vec::new(),
            partials: gpu.alloc(4 * partial_floats, "attention")?,
            partial_floats,
            mixture: Mixture::new(gpu, part, rows)?,
            made: Made::new(gpu, part, rows)?,
            heads: latent_heads.map(|heads| Choice::new(gpu, rows * heads)).transpose()?,
            slopes: slopes.collect::<Result<_>>()?,
            ranks: None,
            host: None,
            running: false,
            incoming: None,
            mode: Cell::new(Mode::Launch),
            graphs: HashMap::new(),
            key: None,
            between: false,
            wrote: false,
            rope_table: gpu.function("rows", "rope_table")?,
            recorder: record.then(|| Recorder::new(gpu)).transpose()?,
            gpu: gpu.clone(),
        })
    }

    /// Takes over a batch. Returns whether its rotary tables have to be computed.
    pub(crate) fn begin(&mut self, ropes: &[RopeSpec], batch: &Batch, tensor_cores: bool) -> Result<()> {
        // A step that failed while it was recorded leaves a recording behind.
        if let (Mode::Record, Some(recorder)) = (self.mode.replace(Mode::Launch), &self.recorder) {
            drop(recorder.end());
        }
        self.gpu.current()?;
        self.rows = batch.rows();
        self.runs.clone_from(&batch.runs);
        self.roles.clear();
        for run in &batch.runs {
            let role = if tensor_cores { run.role } else { Role::Generated };
            self.roles.extend(std::iter::repeat_n(role, run.rows.len()));
        }
        self.output_roles.clear();
        self.output_roles.extend(batch.outputs.iter().map(|&r| self.roles[r as usize]));
        let longest = batch.runs.iter().map(|r| r.start + r.rows.len()).max().unwrap_or(1);
        self.partitions = longest.div_ceil(PARTITION).next_power_of_two();
        self.candidates = draw::candidates(&batch.draws);
        self.upload(batch)?;
        self.make_ropes(ropes)?;

        let single = batch.runs.iter().all(|r| r.rows.len() == 1 && r.role == Role::Generated);
        let all_read = batch.outputs.len() == self.rows;
        self.key = (self.recorder.is_some() && single && all_read).then_some(Key {
            rows: self.rows,
            partitions: self.partitions,
            candidates: self.candidates,
            piece: 0,
        });
        self.begin_piece()
    }

    /// Begins to record, to replay or just to launch.
    fn begin_piece(&mut self) -> Result<()> {
        (self.between, self.wrote) = (false, false);
        let (Some(key), Some(recorder)) = (self.key, &self.recorder) else { return Ok(()) };
        // The first step of its kind allocates and loads kernels; the second one is recorded, the later ones replay it.
        match self.graphs.get(&key) {
            None => {}
            Some(None) => {
                recorder.begin()?;
                self.mode.set(Mode::Record);
            }
            Some(Some(recorded)) => {
                self.mode.set(Mode::Replay);
                if !recorded.writes {
                    recorded.graph.launch()?;
                }
            }
        }
        Ok(())
    }

    /// Where what is launched goes: it runs, or is recorded.
    pub(crate) fn stream(&self) -> CUstream {
        match &self.recorder {
            Some(recorder) if self.mode.get() == Mode::Record => recorder.stream(),
            _ => self.gpu.stream,
        }
    }

    /// Copies rows from another device to `x`, which has their shape.
    pub(crate) fn write(&mut self, rows: &[f32], x: &Act) -> Result<()> {
        self.gpu.current()?;
        let bytes = size_of_val(rows);
        if self.incoming.as_ref().is_none_or(|p| p.size() < bytes) {
            self.incoming = Some(self.gpu.pinned(4 * self.max_rows * x.width())?);
            // Recorded copies are from the memory that was there before.
            self.graphs.clear();
        }
        if self.between {
            self.begin_piece()?;
        }
        let stream = self.stream();
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        // The last copy from here was waited for when its piece was read.
        for (to, value) in incoming.bytes().chunks_exact_mut(4).zip(rows) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        self.wrote = true;
        match self.mode.get() {
            Mode::Replay => match self.key.and_then(|key| self.graphs.get(&key)) {
                Some(Some(recorded)) if recorded.writes => recorded.graph.launch(),
                _ => Err(Error::Batch("rows from another device that were not recorded".into())),
            },
            // SAFETY: it is written again after the piece was read, which waits.
            Mode::Launch | Mode::Record => unsafe { x.write_from(stream, incoming, bytes) },
        }
    }

    fn upload(&mut self, batch: &Batch) -> Result<()> {
        if batch.blocks.len() > self.block_capacity {
            self.block_capacity = batch.blocks.len().next_power_of_two();
            let bytes = 4 * (FIELDS * self.max_rows + self.block_capacity);
            self.numbers = self.gpu.alloc(bytes, "the step")?;
            self.staging = self.gpu.pinned(bytes)?;
            self.graphs.clear();
        }
        let rows = self.max_rows;
        let bytes = 4 * (FIELDS * rows + batch.blocks.len());
        // The last step was waited for when it was read, or it is now: its copy must not find these numbers.
        if std::mem::replace(&mut self.running, true) {
            self.gpu.synchronize()?;
        }
        let staging = self.staging.bytes();
        let mut put = |field: usize, i: usize, value: u32| {
            let at = 4 * (field * rows + i);
            staging[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        let role = |role: &Role| u32::from(*role == Role::Generated);
        for (i, &token) in batch.tokens.iter().enumerate() {
            put(Field::Tokens as usize, i, token);
        }
        for run in &batch.runs {
            for (i, row) in run.rows.clone().enumerate() {
                put(Field::Positions as usize, row, (run.start + i) as u32);
                put(Field::Tables as usize, row, run.blocks.start as u32);
                put(Field::States as usize, row, run.state);
                put(Field::Ends as usize, row, (run.start + run.rows.len() - 1) as u32);
            }
        }
        self.roles.iter().enumerate().for_each(|(i, r)| put(Field::Roles as usize, i, role(r)));
        batch.outputs.iter().enumerate().for_each(|(i, &r)| put(Field::Outputs as usize, i, r));
        self.output_roles.iter().enumerate().for_each(|(i, r)| put(Field::OutputRoles as usize, i, role(r)));
        for (i, d) in batch.draws.iter().enumerate() {
            let random = d.unit.to_bits();
            put(Field::Temperature as usize, i, d.temperature.to_bits());
            put(Field::TopK as usize, i, d.top_k as u32);
            put(Field::TopP as usize, i, d.top_p.to_bits());
            put(Field::Below as usize, i, d.min_p.ln().to_bits());
            put(Field::Low as usize, i, random as u32);
            put(Field::High as usize, i, (random >> 32) as u32);
        }
        batch.blocks.iter().enumerate().for_each(|(i, &b)| put(FIELDS, i, b));
        // SAFETY: the staging is written again after the wait above.
        unsafe { self.numbers.write_from(self.gpu.stream, 0, &self.staging, bytes) }
    }

    fn make_ropes(&mut self, specs: &[RopeSpec]) -> Result<()> {
        if self.ropes.iter().map(|r| &r.spec).eq(specs) {
            return Ok(());
        }
        self.graphs.clear();
        self.ropes.clear();
        for spec in specs {
            let table = || self.gpu.alloc(4 * self.max_rows * spec.inv_freq.len(), "rotary tables");
            self.ropes.push(Rope {
                frequencies: self.gpu.upload(&spec.inv_freq, "rotary tables")?,
                cosines: table()?,
                sines: table()?,
                spec: spec.clone(),
            });
        }
        Ok(())
    }

    /// Frequencies, their number and magnitude, and where cosines and sines go, of each rotary table; and the kernel.
    pub(crate) fn rope_tables(&self) -> (&Function, impl Iterator<Item = (u64, i32, f32, u64, u64)>) {
        let tables = self.ropes.iter().map(|r| {
            let (half, magnitude) = (r.spec.inv_freq.len() as i32, r.spec.magnitude);
            (r.frequencies.pointer(), half, magnitude, r.cosines.pointer(), r.sines.pointer())
        });
        (&self.rope_table, tables)
    }

    /// Cosines, sines and their number per row.
    pub(crate) fn rope(&self, i: usize) -> Result<(u64, u64, i32)> {
        let rope = self.ropes.get(i).ok_or_else(|| Error::Batch(format!("there is no rotary table {i}")))?;
        Ok((rope.cosines.pointer(), rope.sines.pointer(), rope.spec.inv_freq.len() as i32))
    }

    /// Slopes of the linear biases of attention block `layer`.
    pub(crate) fn slopes(&self, layer: usize) -> Result<u64> {
        let of = self.slopes.get(layer).and_then(Option::as_ref).map(Buffer::pointer);
        of.ok_or_else(|| Error::Batch(format!("there are no slopes of attention block {layer}")))
    }

    /// For the products of the heads of latent attention.
    pub(crate) fn heads(&self) -> Result<&Choice> {
        self.heads
            .as_ref()
            .ok_or_else(|| Error::Batch("a model without latent attention has products of heads".into()))
    }

    /// An array on the device.
    pub(crate) fn field(&self, field: Field) -> u64 {
        self.numbers.pointer() + 4 * (field as usize * self.max_rows) as u64
    }

    /// The block tables on the device.
    pub(crate) fn blocks(&self) -> u64 {
        self.numbers.pointer() + 4 * (FIELDS * self.max_rows) as u64
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// How many of the likeliest tokens are drawn from; `None`: logits are read.
    pub(crate) fn candidates(&self) -> Option<usize> {
        self.candidates
    }

    /// Number of output rows.
    pub(crate) fn outputs(&self) -> usize {
        self.output_roles.len()
    }

    /// Runs with the role that their rows count as.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (Role, Range<usize>)> {
        self.runs.iter().map(|r| (self.roles[r.rows.start], r.rows.clone()))
    }

    /// Roles of `rows` rows, here and on the device: all rows of the step, or its output rows.
    pub(crate) fn roles_of(&self, rows: usize) -> (&[Role], u64) {
        match rows == self.roles.len() {
            true => (&self.roles, self.field(Field::Roles)),
            false => (&self.output_roles, self.field(Field::OutputRoles)),
        }
    }

    /// Ends the piece, and launches what was recorded for the first time.
    pub(crate) fn end_piece(&mut self) -> Result<()> {
        self.gpu.current()?;
        let mode = self.mode.replace(Mode::Launch);
        self.between = true;
        if let (Some(key), Some(recorder)) = (self.key, &self.recorder) {
            self.key = Some(Key { piece: key.piece + 1, ..key });
            match mode {
                Mode::Launch => {
                    self.graphs.insert(key, None);
                }
                Mode::Record => {
                    let graph = recorder.end()?;
                    graph.launch()?;
                    self.graphs.insert(key, Some(Recorded { graph, writes: self.wrote }));
                }
                Mode::Replay => {}
            }
        }
        Ok(())
    }

    /// Ends the piece and copies `x` here.
    pub(crate) fn read(&mut self, x: &Act) -> Result<&[f32]> {
        self.end_piece()?;
        let n = x.rows() * x.width();
        let host = match self.host.take().filter(|host| host.size() >= 4 * n) {
            Some(host) => host,
            None => self.gpu.pinned(4 * n)?,
        };
        let host = self.host.insert(host);
        x.read(host)?;
        self.running = false;
        Ok(host.values(n))
    }

    /// Waits for the piece that was ended.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.gpu.synchronize()?;
        self.running = false;
        Ok(())
    }

    /// Room for drawing from the likeliest `k` tokens of `rows` rows of `vocab`.
    pub(crate) fn ranks(&mut self, rows: usize, vocab: usize, k: usize) -> Result<&Ranks> {
        let ranks = match self.ranks.take().filter(|ranks| ranks.most >= k) {
            Some(ranks) => ranks,
            None => {
                // Recorded steps write to what was there before.
                self.graphs.clear();
                Ranks::new(&self.gpu, rows, vocab, k)?
            }
        };
        Ok(self.ranks.insert(ranks))
    }
}
