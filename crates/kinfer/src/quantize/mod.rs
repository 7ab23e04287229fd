//! Quantising: a model file, or a folder in transformers' format, to a GGUF file of other formats.
//!
//! A [`Recipe`] says which tensor gets which format. One tensor is in memory at a time, and its rows are encoded by all threads.
//! [`crate::LoadOptions::quant`] does the same with the weights of a model that is being loaded.
//!
//! Quantising twice loses twice, so matrices that are quantised already are refused, but for Q8_0, whose own error is
//! small beside that of what comes after it, and but where [`Options::requantize`] says otherwise.
//!
//! A [`Collector`] measures on a text how much each column of the matrices counts, for [`Options::importance`].

mod collect;
mod importance;
#[cfg(test)]
mod tests;

pub use collect::{Collected, Collector};
pub use importance::Importance;

use crate::{Error, Result};
use kinfer_core::backend::RowOrder;
use kinfer_core::{Format, MAX_VALUE, dequantize, encode};
use kinfer_cpu::machine;
use kinfer_load::gguf::{Gguf, GgufError, Problem, Tensor, Value as Stored, write::Writer};
use kinfer_models::arch::{self, QkRows};
use kinfer_models::scales;
use kinfer_models::source::{Source, Stored as View, Value};
pub use kinfer_models::{Recipe, Targets};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How to quantise.
#[derive(Default)]
pub struct Options {
    /// Threads that encode; `None`: as many as this process may run at once.
    pub threads: Option<usize>,
    /// What each column of the matrices counts, from [`Importance::open`].
    pub importance: Option<Importance>,
    /// Also quantise what is quantised already.
    pub requantize: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes of tensors read.
    pub read: u64,
    /// Bytes of the file.
    pub written: u64,
    /// Tensors of each format.
    pub formats: BTreeMap<&'static str, usize>,
    /// Matrices that have another format than the recipe's: see [`Targets::replaced`].
    pub replaced: BTreeMap<(&'static str, &'static str), usize>,
}

/// Writes `source`, its tensors in the formats of `recipe`, to the file `path`, which is replaced when all of it is there.
/// `progress` is told the bytes of tensors read so far, and in all.
///
/// # Errors
/// [`Error::Model`] for a recipe that the tensors' shapes forbid, and for values that a format cannot hold; [`Error::Usage`] for
/// a model that is quantised already, [`Error::Io`].
pub fn write(
    source: &Gguf,
    recipe: &Recipe,
    options: &Options,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let targets = recipe.targets(source)?;
    if let Some(pattern) = targets.unmatched.first() {
        return Err(Error::Usage(format!(
            "no tensor fits `{pattern}`; `kinfer show MODEL --tensors` lists them"
        )));
    }
    let outputs = outputs(source, &targets, options.requantize)?;
    if let Some(importance) = &options.importance {
        importance.check(&outputs)?;
    }
    let writer = header(source, recipe, &outputs)?;
    let threads = options.threads.unwrap_or_else(machine::threads).max(1);
    let total: u64 = outputs.iter().map(Output::stored_bytes).sum();
    let (mut done, mut failed) = (0, None);
    let written = write_file(path, |file| {
        let written = writer.write_with(file, |i, out| {
            let output = &outputs[i];
            let weights = options.importance.as_ref().and_then(|all| all.of(&output.name));
            let result = output.write(weights, threads, out, &mut |bytes| {
                done += bytes;
                progress(done, total);
            });
            result.map_err(|e| match e {
                Error::Io { source, .. } => source,
                other => {
                    failed = Some(other);
                    io::Error::other("not encoded")
                }
            })
        });
        match failed.take() {
            Some(error) => Err(error),
            None => Ok(written.map_err(|problem| GgufError { path: path.into(), problem })?),
        }
    })?;
    let mut formats = BTreeMap::new();
    outputs.iter().for_each(|o| *formats.entry(o.format.name()).or_default() += 1);
    Ok(Report { read: total, written, formats, replaced: targets.replaced })
}

/// Writes the file `path`, which is replaced when all of it is there. Returns its bytes.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<u64> {
    let in_file = |source: io::Error| Error::Io { path: path.into(), source };
    let partial = {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        path.with_file_name(name)
    };
    let guard = Partial(&partial);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial).map_err(in_file)?);
    write(&mut out)?;
    out.flush().map_err(in_file)?;
    drop(out);
    let bytes = std::fs::metadata(&partial).map_err(in_file)?.len();
    std::fs::rename(&partial, path).map_err(in_file)?;
    std::mem::forget(guard);
    Ok(bytes)
}

/// Removes an unfinished file.
struct Partial<'a>(&'a Path);

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        // It may not be there, and there is nothing better to do.
        let _ = std::fs::remove_file(self.0);
    }
}

/// A tensor to be written.
struct Output<'a> {
    name: String,
    /// Innermost dimension first.
    shape: Vec<u64>,
    format: Format,
    /// One, or one for each expert.
    pieces: Vec<Tensor<'a>>,
    /// What the stored rows have to become.
    order: RowOrder,
    /// What the matrices of pieces that get another format are multiplied with, see [`scales::of`].
    scales: BTreeMap<String, Vec<f32>>,
}

/// What the file is to hold: the experts' matrices joined, everything else as it is called in the source.
fn outputs<'a>(source: &'a Gguf, targets: &Targets, requantize: bool) -> Result<Vec<Output<'a>>> {
    let orders = orders(source)?;
    let settled = scales::settled(source, &targets.formats)?;
    let mut outputs: Vec<Output<'a>> = Vec::new();
    let mut places = BTreeMap::new();
    for tensor in source.tensors().filter(|t| !settled.contains(t.name())) {
        let name = tensor.name();
        let stored = tensor.format()?;
        let format = targets.formats.get(name).copied().unwrap_or(stored);
        if stored != format && !requantize {
            refuse_twice(name, stored, format)?;
        }
        let order = orders.get(name).copied().unwrap_or(RowOrder::AsStored);
        let own = if stored == format { Vec::new() } else { scales::of(source, name)?.values };
        let scales = BTreeMap::from([(name.to_string(), own)]);
        let Some((joined, _)) = expert(name) else {
            let (shape, pieces) = (tensor.shape().to_vec(), vec![tensor]);
            outputs.push(Output { name: name.into(), shape, format, pieces, order, scales });
            continue;
        };
        let at = *places.entry(joined.clone()).or_insert_with(|| {
            let shape = tensor.shape().to_vec();
            outputs.push(Output {
                name: joined,
                shape,
                format,
                pieces: vec![],
                order,
                scales: BTreeMap::new(),
            });
            outputs.len() - 1
        });
        outputs[at].pieces.push(tensor);
        outputs[at].scales.extend(scales);
        outputs[at].pieces.sort_by_key(|t| expert(t.name()).map(|(_, e)| e));
        let same =
            outputs[at].pieces.iter().all(|t| t.shape() == tensor.shape()) && outputs[at].format == format;
        if !same {
            let (expected, got) =
                (format!("{:?} like the others", outputs[at].shape), format!("{:?}", tensor.shape()));
            return Err(kinfer_core::Error::Shape { name: name.into(), expected, got }.into());
        }
    }
    for output in outputs.iter_mut().filter(|o| expert(o.pieces[0].name()).is_some()) {
        output.shape.push(output.pieces.len() as u64);
    }
    Ok(outputs)
}

/// `blk.0.ffn_up.3.weight` as the name of the joined tensor and a number.
fn expert(name: &str) -> Option<(String, usize)> {
    let (head, e) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let e = e.parse().ok()?;
    head.contains(".ffn_").then(|| (format!("{head}_exps.weight"), e))
}

/// Quantising what is quantised loses twice.
fn refuse_twice(name: &str, stored: Format, format: Format) -> Result<()> {
    match (stored.quant(), format.quant()) {
        (Some(_), Some(_)) if stored != Format::Q8_0 => Err(Error::Usage(format!(
            "tensor `{name}` is stored as {stored} already, and quantising it again to {format} would lose twice; take the \
             model in F16, BF16 or Q8_0, or say --requantize"
        ))),
        _ => Ok(()),
    }
}

/// The rows of queries and keys of a folder in transformers' format that GGUF files store in another order.
fn orders(source: &Gguf) -> Result<BTreeMap<String, RowOrder>> {
    let mut orders = BTreeMap::new();
    if !source.rotary_halves() {
        return Ok(orders);
    }
    let (own, blueprint) = (arch::read(source)?, arch::read(&AsGguf(source))?);
    // Some architectures have pairs in either.
    if let (QkRows::Halves, QkRows::Pairs { turned }) = (own.names.qk_rows, blueprint.names.qk_rows) {
        let attn = |(i, layer): (usize, &'_ kinfer_core::LayerSpec)| Some((i, layer.mixer.attn()?.head_dim));
        for (i, head_dim) in blueprint.spec.layers.iter().enumerate().filter_map(attn) {
            for part in &blueprint.names.qkv[..2] {
                for end in ["weight", "bias"] {
                    let order = RowOrder::AdjacentPairs { head_dim, turned };
                    orders.insert(format!("blk.{i}.{part}.{end}"), order);
                }
            }
        }
    }
    Ok(orders)
}

/// A folder, with the rows that it will have as a GGUF file.
struct AsGguf<'a>(&'a Gguf);

impl Source for AsGguf<'_> {
    fn value(&self, key: &str) -> Option<Value<'_>> {
        self.0.value(key)
    }
    fn keys(&self) -> Vec<&str> {
        self.0.keys()
    }
    fn tensors(&self) -> Vec<&str> {
        Source::tensors(self.0)
    }
    fn tensor(&self, name: &str) -> kinfer_core::Result<Option<View<'_>>> {
        Source::tensor(self.0, name)
    }
    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

fn header(source: &Gguf, recipe: &Recipe, outputs: &[Output<'_>]) -> Result<Writer> {
    let mut writer = Writer::default();
    for (key, value) in source.metadata().iter().filter(|(key, _)| !key.starts_with("split.")) {
        writer.set(key, value.clone());
    }
    writer.set("general.file_type", recipe.file_type());
    // The layouts of the K-quants have not changed since.
    writer.set("general.quantization_version", Stored::U32(2));
    let fail = |problem: Problem| GgufError { path: source.metadata().path().into(), problem };
    for output in outputs {
        writer.tensor(&output.name, &output.shape, output.format.tensor_type()).map_err(fail)?;
    }
    Ok(writer)
}

/// Rows that a thread asks for together: of columns of a stored matrix that become rows, neighbours share lines of the cache.
const TOGETHER: usize = 64;
/// Elements that are encoded between two writes: 64 MiB of f32, so that progress moves and memory stays small.
const CHUNK: usize = 16 << 20;

impl Output<'_> {
    fn stored_bytes(&self) -> u64 {
        self.pieces.iter().map(|t| t.bytes() as u64).sum()
    }

    fn write(
        &self,
        weights: Option<&importance::Columns>,
        threads: usize,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let io = |source| Error::Io { path: PathBuf::new(), source };
        for (expert, tensor) in self.pieces.iter().enumerate() {
            let stored = tensor.format()?;
            if stored == self.format && self.order == RowOrder::AsStored && !tensor.is_made() {
                out.write_all(tensor.data()).map_err(io)?;
                progress(tensor.bytes() as u64);
                tensor.release();
                continue;
            }
            let cols = tensor.shape().first().map_or(1, |&n| n as usize);
            // A bias has no columns of its own.
            let cols = if tensor.shape().len() < 2 && self.order != RowOrder::AsStored { 1 } else { cols };
            let rows = tensor.elements() as usize / cols;
            let matrix = Rows {
                name: &self.name,
                tensor: *tensor,
                stored,
                cols,
                format: self.format,
                order: self.order,
                scales: self.scales.get(tensor.name()).map_or(&[], Vec::as_slice),
            };
            let step = (CHUNK / cols).max(1);
            for first in (0..rows).step_by(step) {
                let some = first..rows.min(first + step);
                let of_row = |row: usize| {
                    // Of a joined tensor, each expert has its own; rows are counted through all of them.
                    let matrix = if self.pieces.len() > 1 {
                        expert
                    } else {
                        row / tensor.shape().get(1).map_or(rows, |&n| n as usize)
                    };
                    weights.and_then(|w| w.row(matrix))
                };
                if stored == self.format && self.order == RowOrder::AsStored {
                    out.write_all(&tensor.rows(some.clone())).map_err(io)?;
                } else {
                    out.write_all(&matrix.encode(some.clone(), &of_row, threads)?).map_err(io)?;
                }
                progress((some.len() * matrix.row_bytes()) as u64);
            }
            tensor.release();
        }
        Ok(())
    }
}

/// Stored rows to be encoded.
struct Rows<'a> {
    name: &'a str,
    tensor: Tensor<'a>,
    stored: Format,
    cols: usize,
    format: Format,
    order: RowOrder,
    scales: &'a [f32],
}

impl Rows<'_> {
    fn row_bytes(&self) -> usize {
        self.cols / self.stored.block_len() * self.stored.block_bytes()
    }

    /// What row `r` of the result is multiplied with.
    fn scale(&self, r: usize) -> Option<f32> {
        let of_matrix = self.tensor.shape().get(1).map_or(1, |&rows| rows.max(1) as usize);
        self.scales.get(r / of_matrix).or(self.scales.first()).copied()
    }

    /// Stored rows of these rows of the result.
    fn rows(&self, rows: Range<usize>) -> Cow<'_, [u8]> {
        match (self.order, self.tensor.is_made()) {
            (RowOrder::AsStored, true) => self.tensor.rows(rows),
            // Of `cols` elements: a bias may be read as rows of one.
            (RowOrder::AsStored, false) => {
                self.tensor.data()[rows.start * self.row_bytes()..rows.end * self.row_bytes()].into()
            }
            (order, made) => {
                let mut all = Vec::with_capacity(rows.len() * self.row_bytes());
                for row in rows.map(|r| source_row(order, r)) {
                    match made {
                        true => all.extend_from_slice(&self.tensor.rows(row..row + 1)),
                        false => {
                            let at = row * self.row_bytes();
                            all.extend_from_slice(&self.tensor.data()[at..at + self.row_bytes()]);
                        }
                    }
                }
                all.into()
            }
        }
    }

    /// These rows of the result, by `threads` threads.
    fn encode<'w>(
        &self,
        rows: Range<usize>,
        weights: &(dyn Fn(usize) -> Option<&'w [f32]> + Sync),
        threads: usize,
    ) -> Result<Vec<u8>> {
        let row_bytes = self.cols / self.format.block_len() * self.format.block_bytes();
        let mut out = vec![0; rows.len() * row_bytes];
        let each = rows.len().div_ceil(threads).max(1);
        let work = |first: usize, out: &mut [u8]| -> Result<()> {
            let mut values = vec![0.0; self.cols];
            for (first, out) in (first..).step_by(TOGETHER).zip(out.chunks_mut(TOGETHER * row_bytes)) {
                let count = out.len() / row_bytes;
                let stored = self.rows(first..first + count);
                let stored = stored.chunks_exact(self.row_bytes());
                for ((r, out), stored) in (first..).zip(out.chunks_exact_mut(row_bytes)).zip(stored) {
                    dequantize(self.stored, stored, &mut values);
                    if let Some(scale) = self.scale(r) {
                        values.iter_mut().for_each(|v| *v *= scale);
                    }
                    self.check(&values)?;
                    encode(self.format, &values, weights(r), out);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            let parts = out.chunks_mut(each * row_bytes).enumerate();
            let handles: Vec<_> = parts
                .map(|(i, part)| {
                    let first = rows.start + i * each;
                    std::thread::Builder::new()
                        .spawn_scoped(scope, move || work(first, part))
                        .map_err(Error::Thread)
                })
                .collect();
            for handle in handles {
                // A thread that panicked is a bug, which this passes on as an error.
                let joined = handle?
                    .join()
                    .map_err(|_| Error::Thread(io::Error::other("an encoding thread ended")))?;
                joined?;
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn check(&self, values: &[f32]) -> Result<()> {
        let most = if matches!(self.format, Format::F32 | Format::BF16) { f32::MAX } else { MAX_VALUE };
        match values.iter().find(|v| v.is_nan() || v.abs() > most) {
            None => Ok(()),
            Some(v) => Err(kinfer_core::Error::Unsupported {
                what: format!("tensor `{}`, which has a value of {v}, in {}", self.name, self.format),
                supported: format!("finite values up to {most:e}"),
            }
            .into()),
        }
    }
}

/// The stored row that becomes row `r`: the inverse of [`RowOrder::stored_row`].
fn source_row(order: RowOrder, r: usize) -> usize {
    let half = |i: usize, turned: usize| i / 2 + i % 2 * (turned / 2);
    match order {
        RowOrder::AsStored => r,
        RowOrder::AdjacentPairs { head_dim, turned } => {
            let (head, i) = (r / head_dim, r % head_dim);
            head * head_dim + if i < turned { half(i, turned) } else { i }
        }
        RowOrder::Interleaved { parts, rows, times } => {
            let (turn, i) = (r / rows, r % rows);
            (turn % parts * times + turn / parts) * rows + i
        }
        RowOrder::TurnedLast { head_dim, turned } => {
            let (head, i, plain) = (r / head_dim, r % head_dim, head_dim - turned);
            head * head_dim + if i < plain { turned + i } else { half(i - plain, turned) }
        }
    }
}

/// A model whose matrices are quantised as they are loaded.
pub(crate) struct Recoded<'a> {
    source: &'a Gguf,
    targets: Targets,
    threads: usize,
}

impl<'a> Recoded<'a> {
    pub fn new(source: &'a Gguf, recipe: &Recipe, threads: Option<usize>) -> Result<Self> {
        let mut targets = recipe.targets(source)?;
        for tensor in source.tensors() {
            let Some(format) = targets.formats.get(tensor.name()).copied() else { continue };
            refuse_twice(tensor.name(), tensor.format()?, format)?;
            // Vectors become f32 in any case.
            if tensor.shape().len() < 2 {
                targets.formats.remove(tensor.name());
            }
        }
        Ok(Recoded { source, targets, threads: threads.unwrap_or_else(machine::threads).max(1) })
    }
}

impl Source for Recoded<'_> {
    fn value(&self, key: &str) -> Option<Value<'_>> {
        self.source.value(key)
    }
    fn keys(&self) -> Vec<&str> {
        self.source.keys()
    }
    fn tensors(&self) -> Vec<&str> {
        Source::tensors(self.source)
    }
    fn tensor(&self, name: &str) -> kinfer_core::Result<Option<View<'_>>> {
        Source::tensor(self.source, name)
    }
    fn rotary_halves(&self) -> bool {
        self.source.rotary_halves()
    }
    fn target(&self, name: &str) -> Option<Format> {
        self.targets.formats.get(name).copied()
    }
    fn recoded(&self, name: &str, rows: Range<usize>) -> kinfer_core::Result<Vec<u8>> {
        let (Some(stored), Some(format)) = (Source::tensor(self.source, name)?, self.target(name)) else {
            return Err(kinfer_core::Error::MissingTensor { name: name.into(), arch: String::new() });
        };
        let cols = stored.shape.last().copied().unwrap_or(1);
        let order = RowOrder::AsStored;
        let scales = &scales::of(self.source, name)?.values;
        let matrix = Rows { name, tensor: stored.data, stored: stored.format, cols, format, order, scales };
        matrix.encode(rows, &|_| None, self.threads).map_err(|e| match e {
            Error::Model(e) => e,
            other => kinfer_core::Error::Backend { device: "quantising".into(), source: Box::new(other) },
        })
    }
    fn release(&self, name: &str) {
        self.source.release(name);
    }
}
