//! The header of one file: bounds-checked reading, and the checks that need only that file.
//!
//! Layout, little-endian: magic `GGUF`, u32 version, u64 tensor count, u64 key count; then per key its name (u64 length,
//! bytes), u32 type, value; then per tensor its name, u32 dimension count, u64 dimensions, u32 type, u64 data offset; then
//! padding to the alignment and the data section, from which offsets count.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use kinfer_kernels::quant::{Format, TensorType};

use super::error::{Problem, not_gguf};
use super::map::Source;
use super::value::{Array, Value, ValueType};
use crate::safetensors::Made;

/// Keys in a file. Models have 20 to 60.
pub(super) const MAX_KEYS: u64 = 1 << 16;
/// Tensors in a model. The largest have some thousands; one tensor per expert would make about 50,000.
pub(super) const MAX_TENSORS: u64 = 1 << 18;
/// Bytes of a key or tensor name (the specification's limit for keys).
const MAX_NAME: u64 = (1 << 16) - 1;
/// Bytes before the data section. A vocabulary of 262144 texts with scores and merges takes about 15 MB.
const MAX_HEADER: u64 = 64 << 20;
/// Arrays of arrays of …
const MAX_NESTING: u32 = 4;
pub(super) const MAX_DIMS: u32 = 4;
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// What the header of one file says, checked.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<Record>,
}

/// One tensor.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) name: String,
    dims: [u64; MAX_DIMS as usize],
    n_dims: usize,
    pub(super) type_id: u32,
    /// Which file of a split model.
    pub(super) part: usize,
    /// Its bytes in that file; empty when the type id is unknown.
    pub(super) range: Range<usize>,
    /// How its rows are made as they are read, in the type that it has here; its bytes are then what they are made of.
    pub(super) made: Option<Box<Made>>,
}

impl Record {
    /// A tensor in transformers' order of dimensions, outermost first.
    pub(crate) fn new(
        name: String,
        shape: &[usize],
        ty: TensorType,
        part: usize,
        range: Range<usize>,
    ) -> Result<Record, Problem> {
        if shape.len() > MAX_DIMS as usize {
            return Err(Problem::Dims { tensor: name, got: shape.len() as u32, limit: MAX_DIMS });
        }
        let mut dims = [1; MAX_DIMS as usize];
        dims.iter_mut().zip(shape.iter().rev()).for_each(|(dim, &n)| *dim = n as u64);
        let (expected, got) = (tensor_bytes(&name, &dims[..shape.len()], Some(ty))?, range.len() as u64);
        if expected != got {
            return Err(Problem::DataSize { tensor: name, expected, got });
        }
        Ok(Record { name, dims, n_dims: shape.len(), type_id: ty.id(), part, range, made: None })
    }

    /// A tensor whose rows are made as they are read.
    pub(crate) fn made(name: String, made: Made) -> Result<Record, Problem> {
        made.pieces().into_iter().try_for_each(|piece| piece.check(&name))?;
        let shape = made.shape();
        if shape.len() > MAX_DIMS as usize {
            return Err(Problem::Dims { tensor: name, got: shape.len() as u32, limit: MAX_DIMS });
        }
        let mut dims = [1; MAX_DIMS as usize];
        dims.iter_mut().zip(shape.iter().rev()).for_each(|(dim, &n)| *dim = n as u64);
        let ty = made.format().tensor_type();
        tensor_bytes(&name, &dims[..shape.len()], Some(ty))?;
        let (part, range) = made.pieces().first().map(|p| (p.part, p.range.clone())).unwrap_or_default();
        let (n_dims, type_id) = (shape.len(), ty.id());
        Ok(Record { name, dims, n_dims, type_id, part, range, made: Some(Box::new(made)) })
    }

    pub(super) fn shape(&self) -> &[u64] {
        &self.dims[..self.n_dims]
    }

    /// The format to compute with, if there is one.
    pub(crate) fn format(&self) -> Option<Format> {
        Format::from_ggml_id(self.type_id)
    }

    /// Bytes in its format.
    pub(crate) fn bytes(&self) -> usize {
        match (&self.made, self.format()) {
            (Some(made), Some(format)) => {
                made.shape().iter().product::<usize>() / format.block_len() * format.block_bytes()
            }
            _ => self.range.len(),
        }
    }

    /// Whether it is stored in a format that nothing is computed with.
    pub(crate) fn is_coded(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.coded().is_some())
    }
}

/// Reads forward through a file's header.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// What is being read, for messages: "metadata entry", 5.
    section: (&'static str, u64),
}

impl<'a> Cursor<'a> {
    pub(super) fn at(bytes: &'a [u8], pos: usize) -> Self {
        Self { bytes, pos, section: ("", 0) }
    }

    fn place(&self) -> String {
        match self.section {
            ("", _) => "value".into(),
            ("header", _) => "header".into(),
            (what, index) => format!("{what} {index}"),
        }
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Problem> {
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        if len > rest.len() as u64 {
            return Err(Problem::Truncated {
                at: self.place(),
                offset: self.pos as u64,
                needed: len,
                available: rest.len() as u64,
            });
        }
        if self.pos as u64 + len > MAX_HEADER {
            let got = self.pos as u64 + len;
            return Err(Problem::TooMany {
                what: "bytes of metadata and tensor records",
                got,
                limit: MAX_HEADER,
            });
        }
        self.pos += len as usize;
        Ok(&rest[..len as usize])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of records of at least `min_bytes` each, checked against a limit and against what is left of the file.
    fn count(&mut self, what: &'static str, limit: u64, min_bytes: u64) -> Result<u64, Problem> {
        let got = self.u64()?;
        if got > limit {
            return Err(Problem::TooMany { what, got, limit });
        }
        self.room_for(got, min_bytes)?;
        Ok(got)
    }

    fn room_for(&self, count: u64, min_bytes: u64) -> Result<(), Problem> {
        let needed = count.saturating_mul(min_bytes);
        let available = (self.bytes.len() - self.pos) as u64;
        if needed > available {
            return Err(Problem::Truncated { at: self.place(), offset: self.pos as u64, needed, available });
        }
        self.below_limit(needed)
    }

    /// Whether the next `len` bytes, which the file has, end before the longest header's end.
    fn below_limit(&self, len: u64) -> Result<(), Problem> {
        let got = self.pos as u64 + len;
        if got > MAX_HEADER {
            return Err(Problem::TooMany {
                what: "bytes of metadata and tensor records",
                got,
                limit: MAX_HEADER,
            });
        }
        Ok(())
    }

    /// A text's bytes, not checked to be UTF-8.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Problem> {
        let len = self.u64()?;
        self.take(len)
    }

    fn str(&mut self) -> Result<&'a str, Problem> {
        let offset = self.pos as u64 + 8;
        let bytes = self.text()?;
        std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8 { at: self.place(), offset })
    }

    fn name(&mut self, what: &'static str) -> Result<String, Problem> {
        let start = self.pos;
        let len = self.u64()?;
        check_name_len(len, what, || self.place())?;
        self.pos = start;
        Ok(self.str()?.to_owned())
    }

    /// A value of the given type. Arrays stay encoded: they are walked once, so that their extent is known and lies in
    /// the file; their texts and booleans are checked when they are read.
    pub(super) fn value(&mut self, ty: ValueType, source: &Arc<Source>, key: &str) -> Result<Value, Problem> {
        match ty {
            ValueType::String => Ok(Value::String(self.str()?.to_owned())),
            ValueType::Array => {
                let (ty, len) = self.array_head(key)?;
                let start = self.pos;
                self.skip(ty, len, key, 1)?;
                let len = usize::try_from(len).map_err(|_| Problem::TooMany {
                    what: "array elements",
                    got: len,
                    limit: u64::MAX >> 32,
                })?;
                Ok(Value::Array(Array { ty, len, source: source.clone(), range: start..self.pos }))
            }
            _ => {
                let bytes = self.take(ty.min_bytes())?;
                // Only a boolean can be malformed.
                Value::fixed(ty, bytes).ok_or_else(|| Problem::Bool { key: key.into(), got: bytes[0] })
            }
        }
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, Problem> {
        let got = self.u32()?;
        ValueType::from_id(got).ok_or_else(|| Problem::ValueType { key: key.into(), got })
    }

    fn array_head(&mut self, key: &str) -> Result<(ValueType, u64), Problem> {
        let ty = self.value_type(key)?;
        let len = self.u64()?;
        self.room_for(len, ty.min_bytes())?;
        Ok((ty, len))
    }

    fn skip(&mut self, ty: ValueType, len: u64, key: &str, depth: u32) -> Result<(), Problem> {
        if ty.is_fixed() {
            // No overflow: array_head has found room for that many.
            self.take(len * ty.min_bytes())?;
            return Ok(());
        }
        if depth > MAX_NESTING {
            return Err(Problem::Nesting { key: key.into(), limit: MAX_NESTING });
        }
        for _ in 0..len {
            if ty == ValueType::String {
                self.text()?;
            } else {
                let (ty, len) = self.array_head(key)?;
                self.skip(ty, len, key, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Reads and checks the header of one file.
pub(super) fn header(source: &Arc<Source>, part: usize) -> Result<Header, Problem> {
    let bytes = source.bytes();
    let mut cursor = Cursor { bytes, pos: 0, section: ("header", 0) };
    let magic = &bytes[..bytes.len().min(4)];
    if !b"GGUF".starts_with(magic) {
        return Err(not_gguf(magic));
    }
    cursor.take(4)?;
    let version = cursor.u32()?;
    if version & 0xffff == 0 && version != 0 {
        return Err(Problem::BigEndian { version: version.swap_bytes() });
    }
    if !(2..=3).contains(&version) {
        return Err(Problem::Version { got: version });
    }
    // The shortest tensor record: a one-byte name, no dimensions. The shortest entry: a one-byte name, a one-byte value.
    let n_tensors = cursor.count("tensors", MAX_TENSORS, 8 + 1 + 4 + 4 + 8)?;
    let n_keys = cursor.count("metadata keys", MAX_KEYS, 8 + 1 + 4 + 1)?;

    let mut metadata = Vec::new();
    for i in 0..n_keys {
        cursor.section = ("metadata entry", i);
        let key = cursor.name("bytes of a metadata key")?;
        let ty = cursor.value_type(&key)?;
        let value = cursor.value(ty, source, &key)?;
        metadata.push((key, value));
    }
    let alignment = u64::from(alignment(&metadata)?);

    let mut raw = Vec::new();
    for i in 0..n_tensors {
        cursor.section = ("tensor record", i);
        raw.push(record(&mut cursor, part)?);
    }
    let data_start = (cursor.pos as u64).next_multiple_of(alignment);
    let tensors = place(raw, data_start, alignment, bytes.len() as u64)?;
    Ok(Header { version, metadata, tensors })
}

pub(super) fn check_name_len(got: u64, what: &'static str, at: impl Fn() -> String) -> Result<(), Problem> {
    match got {
        0 => Err(Problem::EmptyName { at: at() }),
        1..=MAX_NAME => Ok(()),
        _ => Err(Problem::TooMany { what, got, limit: MAX_NAME }),
    }
}

pub(super) fn alignment(metadata: &[(String, Value)]) -> Result<u32, Problem> {
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(got))) if got.is_power_of_two() => Ok(*got),
        Some((_, Value::U32(got))) => Err(Problem::Alignment { got: *got }),
        Some((key, value)) => Err(Problem::WrongType {
            key: key.clone(),
            expected: "u32",
            got: format!("{} {value}", value.value_type()),
        }),
    }
}

/// One tensor record and its offset in the data section.
fn record(cursor: &mut Cursor<'_>, part: usize) -> Result<(Record, u64), Problem> {
    let name = cursor.name("bytes of a tensor name")?;
    let n_dims = cursor.u32()?;
    if n_dims > MAX_DIMS {
        return Err(Problem::Dims { tensor: name, got: n_dims, limit: MAX_DIMS });
    }
    let n_dims = n_dims as usize;
    let mut dims = [1; MAX_DIMS as usize];
    for dim in &mut dims[..n_dims] {
        *dim = cursor.u64()?;
    }
    let type_id = cursor.u32()?;
    let offset = cursor.u64()?;
    Ok((Record { name, dims, n_dims, type_id, part, range: 0..0, made: None }, offset))
}

/// Bytes of a tensor. `shape[0]` is the row length; rows are whole blocks. Of an unknown type only the shape is checked.
pub(super) fn tensor_bytes(tensor: &str, shape: &[u64], ty: Option<TensorType>) -> Result<u64, Problem> {
    if shape.contains(&0) {
        return Err(Problem::EmptyShape { tensor: tensor.into(), shape: shape.into() });
    }
    let overflow = || Problem::ShapeOverflow { tensor: tensor.into(), shape: shape.into() };
    // i64 is what the reference implementation counts elements in.
    let elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    let elements = elements.filter(|&n| n <= i64::MAX as u64).ok_or_else(overflow)?;
    let Some(ty) = ty else { return Ok(0) };
    let (row, block) = (shape.first().copied().unwrap_or(1), ty.block_len() as u64);
    if row % block != 0 {
        return Err(Problem::PartialBlock { tensor: tensor.into(), ty: ty.name(), row, block });
    }
    (elements / block).checked_mul(ty.block_bytes() as u64).ok_or_else(overflow)
}

/// Gives each tensor its byte range: aligned, inside the file, and its own.
fn place(
    raw: Vec<(Record, u64)>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<Record>, Problem> {
    let mut records = Vec::with_capacity(raw.len());
    for (mut record, offset) in raw {
        if offset % alignment != 0 {
            return Err(Problem::Misaligned { tensor: record.name, offset, alignment });
        }
        let bytes = tensor_bytes(&record.name, record.shape(), TensorType::from_id(record.type_id))?;
        let start = u128::from(data_start) + u128::from(offset);
        let end = start + u128::from(bytes);
        let out_of_bounds = || Problem::OutOfBounds { tensor: record.name.clone(), end, len: file_len };
        if end > u128::from(file_len) {
            return Err(out_of_bounds());
        }
        let address = |at: u128| usize::try_from(at).map_err(|_| out_of_bounds());
        record.range = address(start)?..address(end)?;
        records.push(record);
    }
    let mut order: Vec<&Record> = records.iter().filter(|r| !r.range.is_empty()).collect();
    order.sort_unstable_by_key(|r| r.range.start);
    if let Some(pair) = order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(Problem::Overlap {
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
            offset: pair[1].range.start as u64,
        });
    }
    Ok(records)
}
