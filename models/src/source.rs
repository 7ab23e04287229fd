//! A model file as this crate reads it: typed metadata and stored tensors.

use kinfer_core::{Error, Format, Result};
use kinfer_load::gguf::{Gguf, Tensor};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// A metadata value; integers of every width are one variant.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A truth value.
    Bool(bool),
    /// An integer of any width.
    Int(i128),
    /// A float of any width.
    Float(f64),
    /// A string.
    Str(&'a str),
    /// An array of integers.
    Ints(Vec<i128>),
    /// An array of truth values.
    Bools(Vec<bool>),
    /// Any other array, by a description of it; no architecture reads one.
    Other(String),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => v.fmt(f),
            Value::Int(v) => v.fmt(f),
            Value::Float(v) => v.fmt(f),
            Value::Str(v) => write!(f, "`{v}`"),
            Value::Ints(v) => write!(f, "an array of {} integers", v.len()),
            Value::Bools(v) => write!(f, "an array of {} booleans", v.len()),
            Value::Other(v) => v.fmt(f),
        }
    }
}

/// A stored tensor.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    /// Outermost dimension first: `[rows, cols]` for a matrix, `[len]` for a vector.
    pub shape: Vec<usize>,
    /// How `data` stores the elements.
    pub format: Format,
    /// The elements.
    pub data: Tensor<'a>,
}

/// A model file: what the architectures and the builder read.
pub trait Source {
    /// The metadata value of `key`.
    fn value(&self, key: &str) -> Option<Value<'_>>;
    /// All metadata keys.
    fn keys(&self) -> Vec<&str>;
    /// All tensor names.
    fn tensors(&self) -> Vec<&str>;
    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor in a format that kinfer cannot compute with.
    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>>;
    /// Whether the rows of query and key heads are stored for the half-split rotary convention also where GGUF files of the
    /// architecture store pairs and transformers does not.
    fn rotary_halves(&self) -> bool {
        false
    }
    /// The format in which matrix `name` is to be computed with, where that may be another than the stored one.
    fn target(&self, _name: &str) -> Option<Format> {
        None
    }
    /// Rows of matrix `name` in its [`Source::target`]; rows are counted through all matrices of a tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for values that the format cannot hold.
    fn recoded(&self, name: &str, _rows: Range<usize>) -> Result<Vec<u8>> {
        Err(Error::Unsupported {
            what: format!("another format for tensor `{name}`"),
            supported: "its own".into(),
        })
    }
    /// Says that the bytes of `name` are not needed again, so that their pages can be dropped.
    fn release(&self, name: &str);
}

/// Strict reader of an architecture's metadata: every getter names key and value when it fails, and
/// [`Config::finish`] fails on keys that nobody has read.
pub struct Config<'a> {
    source: &'a dyn Source,
    arch: &'a str,
    read: RefCell<HashSet<String>>,
}

impl<'a> Config<'a> {
    /// A reader of the keys `{arch}.…`.
    pub fn new(source: &'a dyn Source, arch: &'a str) -> Self {
        Config { source, arch, read: RefCell::default() }
    }

    /// The architecture's name in the file.
    pub fn arch(&self) -> &'a str {
        self.arch
    }

    /// The file.
    pub fn source(&self) -> &'a dyn Source {
        self.source
    }

    /// An error about `{arch}.{key}`.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Metadata { key: format!("{}.{key}", self.arch), problem: problem.into() }
    }

    fn get<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let full = format!("{}.{key}", self.arch);
        let value = self.source.value(&full);
        self.read.borrow_mut().insert(full);
        let Some(value) = value else { return Ok(None) };
        match convert(&value) {
            Some(v) => Ok(Some(v)),
            None => Err(self.error(key, format!("expected {expected}, got {value}"))),
        }
    }

    /// `{arch}.{key}` as a count; zero is a legal one.
    pub fn opt_count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a count", |v| match v {
            Value::Int(i) => u32::try_from(*i).ok().map(|i| i as usize),
            _ => None,
        })
    }

    /// `{arch}.{key}` as a positive count.
    pub fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        match self.opt_count(key)? {
            Some(0) => Err(self.error(key, "expected a positive count, got 0")),
            n => Ok(n),
        }
    }

    /// `{arch}.{key}` as a positive count; it has to be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.opt_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// `{arch}.{key}` as one positive count for all layers, or an array with one for each.
    pub fn opt_sizes(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        self.counts(key, layers, 1, "a positive count")
    }

    /// `{arch}.{key}` as one count for all layers, or an array with one for each; zero is a legal one.
    pub fn opt_counts(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        self.counts(key, layers, 0, "a count")
    }

    fn counts(&self, key: &str, layers: usize, least: u32, what: &str) -> Result<Option<Vec<usize>>> {
        self.get(key, &format!("{what}, or {layers} of them"), |v| {
            let count = |i: &i128| u32::try_from(*i).ok().filter(|&i| i >= least).map(|i| i as usize);
            match v {
                Value::Int(i) => Some(vec![count(i)?; layers]),
                Value::Ints(all) if all.len() == layers => all.iter().map(count).collect(),
                _ => None,
            }
        })
    }

    /// [`Config::opt_sizes`] that have to be there.
    pub fn sizes(&self, key: &str, layers: usize) -> Result<Vec<usize>> {
        self.opt_sizes(key, layers)?.ok_or_else(|| self.missing(key))
    }

    /// `{arch}.{key}` as a positive, finite number.
    pub fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a positive number", |v| {
            match v {
                Value::Float(f) => Some(*f),
                Value::Int(i) => Some(*i as f64),
                _ => None,
            }
            .filter(|f| f.is_finite() && *f > 0.0)
        })
    }

    /// `{arch}.{key}` as a positive, finite number; it has to be there.
    pub fn positive(&self, key: &str) -> Result<f64> {
        self.opt_positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// `{arch}.{key}` as a string.
    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a string", |v| match v {
            Value::Str(s) => Some(*s),
            _ => None,
        })
    }

    /// `{arch}.{key}` as it is.
    pub fn opt_value(&self, key: &str) -> Option<Value<'a>> {
        self.read.borrow_mut().insert(format!("{}.{key}", self.arch));
        self.source.value(&format!("{}.{key}", self.arch))
    }

    /// `{arch}.{key}` as a truth value; it has to be there.
    pub fn flag(&self, key: &str) -> Result<bool> {
        let flag = self.get(key, "true or false", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })?;
        flag.ok_or_else(|| self.missing(key))
    }

    /// Says that keys beginning with one of `prefixes` belong to other parts of the file.
    pub fn ignore(&self, prefixes: &[&str]) {
        for full in self.source.keys() {
            let key = full.strip_prefix(self.arch).and_then(|k| k.strip_prefix('.'));
            if key.is_some_and(|key| prefixes.iter().any(|p| key.starts_with(p))) {
                self.read.borrow_mut().insert(full.into());
            }
        }
    }

    /// Fails when `{arch}.{key}` is there and not zero: `what` is then needed and cannot be had.
    pub fn refuse(&self, key: &str, what: &str) -> Result<()> {
        match self.opt_value(key) {
            None | Some(Value::Int(0)) => Ok(()),
            Some(Value::Float(0.0)) => Ok(()),
            Some(v) => Err(self.error(key, format!("{what} is not supported (value {v})"))),
        }
    }

    fn missing(&self, key: &str) -> Error {
        self.error(key, "is missing from the model file")
    }

    /// Fails when the file has a key of this architecture that nobody read, unless it begins with one of
    /// `ignored`: such a key may change what the model computes.
    pub fn finish(&self, ignored: &[&str]) -> Result<()> {
        let read = self.read.borrow();
        for full in self.source.keys() {
            let Some(key) = full.strip_prefix(self.arch).and_then(|k| k.strip_prefix('.')) else { continue };
            if !read.contains(full) && !ignored.iter().any(|i| key.starts_with(i)) {
                let value = self.source.value(full);
                let value = value.map_or_else(String::new, |v| format!(" (value {v})"));
                return Err(self.error(
                    key,
                    format!("kinfer does not know this setting of `{}` models, which may change their output{value}", self.arch),
                ));
            }
        }
        Ok(())
    }
}

impl Source for Gguf {
    fn value(&self, key: &str) -> Option<Value<'_>> {
        use kinfer_load::gguf::{Array, FromValue, Value as Stored, ValueType};
        let value: &Stored = self.metadata().opt(key).ok().flatten()?;
        let array = |a: &Array| match a.element_type() {
            ValueType::Bool => Vec::from_value(value).map(Value::Bools).ok(),
            _ => Vec::<i64>::from_value(value)
                .map(|v| Value::Ints(v.into_iter().map(i128::from).collect()))
                .ok(),
        };
        Some(match value {
            Stored::Bool(b) => Value::Bool(*b),
            Stored::String(s) => Value::Str(s),
            Stored::F32(f) => Value::Float(f64::from(*f)),
            Stored::F64(f) => Value::Float(*f),
            Stored::U64(u) => Value::Int(i128::from(*u)),
            Stored::Array(a) => array(a).unwrap_or_else(|| Value::Other(value.to_string())),
            int => match i64::from_value(int) {
                Ok(i) => Value::Int(i128::from(i)),
                Err(other) => Value::Other(other),
            },
        })
    }

    fn keys(&self) -> Vec<&str> {
        self.metadata().iter().map(|(key, _)| key).collect()
    }

    fn tensors(&self) -> Vec<&str> {
        Gguf::tensors(self).map(|t| t.name()).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>> {
        let Some(tensor) = Gguf::tensor(self, name) else { return Ok(None) };
        let format = tensor.tensor_type().and_then(|t| t.format()).ok_or_else(|| Error::Unsupported {
            what: format!("the format {} of tensor `{name}`", tensor.type_name()),
            supported: Format::all().map(Format::name).collect::<Vec<_>>().join(", "),
        })?;
        // The file's order is innermost first.
        let shape = tensor.shape().iter().rev().map(|&n| n as usize).collect();
        Ok(Some(Stored { shape, format, data: tensor }))
    }

    fn rotary_halves(&self) -> bool {
        Gguf::rotary_halves(self)
    }

    fn release(&self, name: &str) {
        if let Some(tensor) = Gguf::tensor(self, name) {
            tensor.release();
        }
    }
}
