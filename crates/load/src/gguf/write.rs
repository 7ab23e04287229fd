//! Writing GGUF files (version 3): for quantising, for models made up to be measured, and for tests.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use kinfer_kernels::quant::TensorType;

use super::error::Problem;
use super::meta::sorted_unique;
use super::read::{MAX_DIMS, alignment, check_name_len, tensor_bytes};
use super::value::Value;

/// The header of a file to write: metadata and tensor records, in the order given.
///
/// ```
/// use kinfer_kernels::quant::Format;
/// use kinfer_load::gguf::{Gguf, write::Writer};
///
/// let mut writer = Writer::default();
/// writer.set("general.architecture", "llama");
/// writer.tensor("output_norm.weight", &[2], Format::F32.tensor_type()).unwrap();
/// let mut file = Vec::new();
/// writer.write(&mut file, [[0; 8]]).unwrap();
/// assert_eq!(Gguf::from_bytes(file).unwrap().tensors().len(), 1);
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Declared>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    shape: Vec<u64>,
    ty: TensorType,
    bytes: u64,
}

impl Writer {
    /// Sets a metadata key, replacing an earlier value. `general.alignment` (a `u32`) also takes effect; else it is 32.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Declares a tensor, its shape in ggml's order (row length first).
    ///
    /// # Errors
    /// [`Problem::Dims`], [`Problem::EmptyShape`], [`Problem::PartialBlock`], [`Problem::ShapeOverflow`].
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        ty: TensorType,
    ) -> Result<&mut Self, Problem> {
        let name = name.into();
        if shape.len() > MAX_DIMS as usize {
            return Err(Problem::Dims { tensor: name, got: shape.len() as u32, limit: MAX_DIMS });
        }
        let bytes = tensor_bytes(&name, shape, Some(ty))?;
        self.tensors.push(Declared { name, shape: shape.into(), ty, bytes });
        Ok(self)
    }

    /// Writes the file: the header, then each tensor's data as `data` yields it, in the order of declaration. Only one
    /// tensor's data need exist at a time. Give it a buffered or in-memory `out`.
    ///
    /// # Errors
    /// As [`Writer::write_with`], and [`Problem::DataCount`].
    pub fn write<D: AsRef<[u8]>>(
        &self,
        out: &mut impl Write,
        data: impl IntoIterator<Item = D>,
    ) -> Result<(), Problem> {
        let (mut data, mut got, mut missing) = (data.into_iter(), 0, false);
        let written = self.write_with(out, |_, out| match data.next() {
            Some(bytes) => {
                got += 1;
                out.write_all(bytes.as_ref())
            }
            None => {
                missing = true;
                Ok(())
            }
        });
        if !missing {
            written?;
            got += data.count();
        }
        match self.tensors.len() {
            expected if expected != got => Err(Problem::DataCount { expected, got }),
            _ => Ok(()),
        }
    }

    /// Writes the file: the header, then each tensor's data as `data` writes it, which is called with the tensor's index
    /// in the order of declaration. So a file larger than memory is made of pieces of any size.
    ///
    /// # Errors
    /// [`Problem::DuplicateTensor`], [`Problem::EmptyName`], [`Problem::TooMany`] (a name's length),
    /// [`Problem::Alignment`], [`Problem::DataSize`] (`data` wrote too little or too much), [`Problem::Io`] (also those
    /// of `data`).
    pub fn write_with(
        &self,
        out: &mut impl Write,
        mut data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Problem> {
        let failed = |source| Problem::Io { doing: "write", source };
        let alignment = u64::from(alignment(&self.metadata)?);
        let header = self.header(alignment)?;
        let padding = |bytes: u64| io::repeat(0).take(bytes.next_multiple_of(alignment) - bytes);
        out.write_all(&header).map_err(failed)?;
        io::copy(&mut padding(header.len() as u64), out).map_err(failed)?;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let mut counted = Counted { out, bytes: 0 };
            data(i, &mut counted).map_err(failed)?;
            let (expected, got) = (tensor.bytes, counted.bytes);
            if got != expected {
                return Err(Problem::DataSize { tensor: tensor.name.clone(), expected, got });
            }
            io::copy(&mut padding(got), out).map_err(failed)?;
        }
        Ok(())
    }

    fn header(&self, alignment: u64) -> Result<Vec<u8>, Problem> {
        sorted_unique(&self.tensors, |t| &t.name)
            .map_err(|t| Problem::DuplicateTensor { tensor: t.name.clone() })?;
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            check_name_len(key.len() as u64, "bytes of a metadata key", || "a metadata entry".into())?;
            put_str(&mut out, key);
            out.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            check_name_len(tensor.name.len() as u64, "bytes of a tensor name", || "a tensor".into())?;
            put_str(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| Problem::ShapeOverflow {
                    tensor: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                })?;
        }
        Ok(out)
    }
}

/// Passes on what is written, and counts its bytes.
struct Counted<'a, W> {
    out: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_str(out, v),
        Value::Array(v) => {
            out.extend((v.element_type() as u32).to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v.bytes());
        }
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}
