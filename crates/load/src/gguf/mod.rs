//! GGUF, the model file format of ggml: a zero-copy reader over a memory map, and a small writer.
//!
//! Reading trusts nothing in the file. Opening checks every count, length, offset, shape and name; what it accepts can
//! be used without further checks, and reads at most 64 MiB before the tensor data, whatever the file says. Tensor types
//! that kinfer does not compute with are read and named; only asking for their [`format`](Tensor::format) is an error.
//!
//! ```no_run
//! # fn main() -> Result<(), kinfer_load::gguf::GgufError> {
//! let gguf = kinfer_load::gguf::Gguf::open("model.gguf")?;
//! let architecture: &str = gguf.metadata().get("general.architecture")?;
//! let layers: usize = gguf.metadata().get(&format!("{architecture}.block_count"))?;
//! let tokens: Vec<&str> = gguf.metadata().get("tokenizer.ggml.tokens")?;
//! for tensor in gguf.tensors() {
//!     println!("{} {:?} {} {} bytes", tensor.name(), tensor.shape(), tensor.type_name(), tensor.data().len());
//! }
//! # Ok(()) }
//! ```

#![deny(unsafe_code)]

mod error;
#[allow(unsafe_code)]
pub(crate) mod map;
mod meta;
mod read;
mod split;
mod value;
pub mod write;

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinfer_kernels::quant::{Format, TensorType};

pub use error::{GgufError, Problem};
pub use meta::Metadata;
pub use value::{Array, FromValue, Value, ValueType};

use crate::safetensors::Piece;
use map::Source;
pub(crate) use read::Record;

use read::{Header, MAX_TENSORS};

/// An open model: one file, all parts of a split one, or a folder in transformers' format, which is read as if it were a
/// GGUF file ([`crate::safetensors`]).
#[derive(Debug)]
pub struct Gguf {
    /// `None` for a folder in transformers' format.
    version: Option<u32>,
    parts: Vec<(PathBuf, Arc<Source>)>,
    /// How many of `parts` are files; values computed from a configuration may follow.
    files: usize,
    metadata: Metadata,
    records: Vec<Record>,
    /// Indices into `records`, ordered by name.
    by_name: Vec<u32>,
}

impl Gguf {
    /// Opens a model file. Given any part of a split model, opens all its parts, which lie beside it; given a folder or a
    /// `.safetensors` file, opens what transformers saved there.
    ///
    /// # Errors
    /// Every way in which a file can be unreadable, cut or malformed: [`Problem`].
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref();
        if crate::safetensors::is_it(path) {
            return crate::safetensors::open(path);
        }
        let (source, header) = open_part(path, 0)?;
        let fail = |problem| GgufError { path: path.into(), problem };
        let metadata = Metadata::new(path.into(), header.metadata).map_err(fail)?;
        match metadata.opt::<u16>("split.count")? {
            None | Some(1) => {
                Gguf::build(vec![(path.into(), source)], Some(header.version), metadata, header.tensors)
            }
            Some(count) => {
                let paths = split::parts(path, count).ok_or_else(|| fail(Problem::SplitName { count }))?;
                drop((source, metadata, header.tensors));
                Gguf::open_split(&paths, count)
            }
        }
    }

    /// Reads a model that lies in memory.
    ///
    /// # Errors
    /// As [`open`](Gguf::open); also when it is one part of a split model.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        let path = PathBuf::from("(in memory)");
        let fail = |problem| GgufError { path: path.clone(), problem };
        let source = Arc::new(Source::Owned(bytes));
        let header = read::header(&source, 0).map_err(fail)?;
        let metadata = Metadata::new(path.clone(), header.metadata).map_err(fail)?;
        match metadata.opt::<u16>("split.count")? {
            None | Some(1) => {
                Gguf::build(vec![(path, source)], Some(header.version), metadata, header.tensors)
            }
            Some(count) => Err(fail(Problem::SplitName { count })),
        }
    }

    fn open_split(paths: &[PathBuf], count: u16) -> Result<Gguf, GgufError> {
        let mut parts = Vec::new();
        let mut records = Vec::new();
        let mut first = None;
        for (no, path) in (0..count).zip(paths) {
            let fail = |problem| GgufError { path: path.clone(), problem };
            if !path.exists() {
                return Err(fail(Problem::MissingPart { no: no + 1, count }));
            }
            let (source, header) = open_part(path, usize::from(no))?;
            let metadata = Metadata::new(path.clone(), header.metadata).map_err(fail)?;
            expect(&metadata, "split.no", metadata.get::<u16>("split.no")?.into(), no.into())?;
            expect(&metadata, "split.count", metadata.get::<u16>("split.count")?.into(), count.into())?;
            parts.push((path.clone(), source));
            records.extend(header.tensors);
            if records.len() as u64 > MAX_TENSORS {
                let (what, got) = ("tensors in all parts", records.len() as u64);
                return Err(fail(Problem::TooMany { what, got, limit: MAX_TENSORS }));
            }
            first.get_or_insert((header.version, metadata));
        }
        let Some((version, metadata)) = first else {
            let path = paths.first().cloned().unwrap_or_default();
            return Err(GgufError { path, problem: Problem::SplitName { count } });
        };
        if let Some(total) = metadata.opt::<u64>("split.tensors.count")? {
            expect(&metadata, "split.tensors.count", total, records.len() as u64)?;
        }
        Gguf::build(parts, Some(version), metadata, records)
    }

    /// A folder in transformers' format; `computed` are values that are in none of its `files`.
    pub(crate) fn of_folder(
        files: Vec<(PathBuf, Arc<Source>)>,
        computed: (PathBuf, Vec<u8>),
        metadata: Metadata,
        records: Vec<Record>,
    ) -> Result<Gguf, GgufError> {
        let count = files.len();
        let mut parts = files;
        parts.push((computed.0, Arc::new(Source::Owned(computed.1))));
        Ok(Gguf { files: count, ..Gguf::build(parts, None, metadata, records)? })
    }

    fn build(
        parts: Vec<(PathBuf, Arc<Source>)>,
        version: Option<u32>,
        metadata: Metadata,
        records: Vec<Record>,
    ) -> Result<Gguf, GgufError> {
        let by_name = meta::sorted_unique(&records, |r| &r.name)
            .map_err(|r| (r.part, Problem::DuplicateTensor { tensor: r.name.clone() }))
            .map_err(|(part, problem)| GgufError { path: parts[part].0.clone(), problem })?;
        Ok(Gguf { version, files: parts.len(), parts, metadata, records, by_name })
    }

    fn piece(&self, piece: &Piece) -> &[u8] {
        self.parts[piece.part].1.bytes().get(piece.range.clone()).unwrap_or_default()
    }

    /// The metadata; for a split model, of its first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.records.iter().map(|record| Tensor { gguf: self, record })
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let at = self.by_name.binary_search_by(|&i| self.records[i as usize].name.as_str().cmp(name)).ok()?;
        Some(Tensor { gguf: self, record: &self.records[self.by_name[at] as usize] })
    }

    /// The paths of the file or of all parts, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts[..self.files].iter().map(|(path, _)| path.as_path())
    }

    /// The size of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.parts[..self.files].iter().map(|(_, source)| source.bytes().len() as u64).sum()
    }

    /// The version of the GGUF format, 2 or 3; `None` for a folder in transformers' format.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Whether the rows of query and key heads are as transformers stores them: for the half-split rotary convention where GGUF
    /// files of Llama and its kin store pairs.
    pub fn rotary_halves(&self) -> bool {
        self.version.is_none()
    }
}

fn open_part(path: &Path, part: usize) -> Result<(Arc<Source>, Header), GgufError> {
    let read = || {
        let source = Arc::new(Source::map(path)?);
        let header = read::header(&source, part)?;
        Ok((source, header))
    };
    read().map_err(|problem| GgufError { path: path.into(), problem })
}

fn expect(metadata: &Metadata, key: &'static str, got: u64, expected: u64) -> Result<(), GgufError> {
    if got == expected { Ok(()) } else { Err(metadata.error(Problem::SplitMismatch { key, expected, got })) }
}

/// A tensor of an open model.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    gguf: &'a Gguf,
    record: &'a Record,
}

impl<'a> Tensor<'a> {
    /// Its name, for example `blk.0.attn_q.weight`.
    pub fn name(&self) -> &'a str {
        &self.record.name
    }

    /// Its dimensions in ggml's order, fastest first: `shape()[0]` is the row length, `shape()[1]` the number of rows.
    /// That is the reverse of PyTorch's order: a linear layer is `[in_features, out_features]`. At most four, none 0; a
    /// scalar has none.
    pub fn shape(&self) -> &'a [u64] {
        self.record.shape()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape().iter().product()
    }

    /// The stored type; `None` for a type id that is not in ggml's table.
    pub fn tensor_type(&self) -> Option<TensorType> {
        TensorType::from_id(self.record.type_id)
    }

    /// The stored type's name, or `type N` for an unknown id.
    pub fn type_name(&self) -> Cow<'static, str> {
        let coded = self.record.made.as_ref().and_then(|made| made.coded());
        match (coded, self.tensor_type()) {
            (Some(coded), _) => coded.name().into(),
            (None, Some(ty)) => ty.name().into(),
            (None, None) => format!("type {}", self.record.type_id).into(),
        }
    }

    /// The format to compute with: that of [`rows`](Tensor::rows).
    ///
    /// # Errors
    /// [`Problem::Unsupported`], which names the tensor, its type and the supported ones.
    pub fn format(&self) -> Result<Format, GgufError> {
        self.tensor_type().and_then(TensorType::format).ok_or_else(|| {
            let supported: Vec<&str> = Format::all().map(Format::name).collect();
            self.error(Problem::Unsupported {
                tensor: self.name().into(),
                ty: self.type_name().into(),
                supported: supported.join(" "),
            })
        })
    }

    /// The stored bytes, row after row; where [`is_made`](Tensor::is_made), some of what the rows are made of. Empty when
    /// [`tensor_type`](Tensor::tensor_type) is `None`, whose size nobody knows.
    pub fn data(&self) -> &'a [u8] {
        let (_, source) = &self.gguf.parts[self.record.part];
        source.bytes().get(self.record.range.clone()).unwrap_or_default()
    }

    /// Whether it is stored in a format that nothing is computed with (FP8, GPTQ and AWQ, in safetensors), and decoded as
    /// it is read.
    pub fn is_coded(&self) -> bool {
        self.record.is_coded()
    }

    /// Whether its rows are made as they are read: decoded, or taken from elsewhere in a tensor of safetensors.
    pub fn is_made(&self) -> bool {
        self.record.made.is_some()
    }

    /// The bytes of these rows in its [`format`](Tensor::format); rows are counted through all matrices of a tensor, and there is
    /// none beyond them. They are made where [`is_made`](Tensor::is_made).
    pub fn rows(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        if let Some(made) = &self.record.made {
            let gguf = self.gguf;
            return made.rows(rows, &|piece| gguf.piece(piece)).into();
        }
        let cols = self.shape().first().copied().unwrap_or(1).max(1);
        let bytes = self.bytes() / (self.elements() / cols).max(1) as usize;
        let end = rows.end.saturating_mul(bytes).min(self.data().len());
        self.data().get(rows.start.saturating_mul(bytes)..end).unwrap_or_default().into()
    }

    /// Bytes of all [`rows`](Tensor::rows).
    pub fn bytes(&self) -> usize {
        self.record.bytes()
    }

    /// Bytes that it takes in its file, with its scales.
    pub fn stored_bytes(&self) -> usize {
        match &self.record.made {
            Some(made) => made.stored_bytes(),
            None => self.record.range.len(),
        }
    }

    /// The file that holds it.
    pub fn file(&self) -> &'a Path {
        &self.gguf.parts[self.record.part].0
    }

    /// Lets the system drop this tensor's pages from memory, once its weights are packed. [`data`](Tensor::data) stays
    /// valid: reading it again reads the file again.
    pub fn release(&self) {
        let release = |part: usize, range: &Range<usize>| self.gguf.parts[part].1.release(range.clone());
        match &self.record.made {
            Some(made) => made.pieces().into_iter().for_each(|piece| release(piece.part, &piece.range)),
            None => release(self.record.part, &self.record.range),
        }
    }

    fn error(&self, problem: Problem) -> GgufError {
        GgufError { path: self.file().into(), problem }
    }
}
