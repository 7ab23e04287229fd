//! Metadata values.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::map::Source;
use super::read::Cursor;

/// The type of a metadata value; the number is its id in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    pub(super) fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value; for strings and arrays, of the shortest one.
    pub(super) fn min_bytes(self) -> u64 {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::String => 8,
            ValueType::Array => 12,
        }
    }

    pub(super) fn is_fixed(self) -> bool {
        !matches!(self, ValueType::String | ValueType::Array)
    }

    fn name(self) -> &'static str {
        ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"]
            [self as usize]
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A metadata value. `From` makes one of a Rust number, bool, text, or slice of those.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata values, left in the file (or in its encoded form) until it is read: a vocabulary of 262144
/// texts costs nothing to open. `Value`'s and [`Metadata`](super::Metadata)'s getters turn it into a `Vec`.
#[derive(Clone, Debug)]
pub struct Array {
    pub(super) ty: ValueType,
    pub(super) len: usize,
    pub(super) source: Arc<Source>,
    pub(super) range: Range<usize>,
}

impl Array {
    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order, decoded one by one. An error (a text that is not UTF-8, a boolean that is not 0 or 1) says
    /// which element; it ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value, String>> + '_ {
        let mut cursor = self.cursor();
        let mut failed = false;
        (0..self.len).map_while(move |i| {
            if failed {
                return None;
            }
            let value = cursor.value(self.ty, &self.source, "");
            let value = value.map_err(|_| format!("an array whose element {i} is no valid {}", self.ty));
            failed = value.is_err();
            Some(value)
        })
    }

    /// The elements of an array of texts, borrowed and unchecked.
    fn texts(&self) -> Result<Vec<&[u8]>, String> {
        let mut cursor = self.cursor();
        let mut out = Vec::with_capacity(self.len);
        for i in 0..self.len {
            out.push(cursor.text().map_err(|e| format!("an array whose element {i} changed: {e}"))?);
        }
        Ok(out)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.source.bytes().get(self.range.clone()).unwrap_or_default()
    }

    fn cursor(&self) -> Cursor<'_> {
        Cursor::at(self.source.bytes(), self.range.start)
    }
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// A value of a type with a fixed size; `None` where the bytes are of another size, or a boolean is neither 0 nor 1.
    pub(super) fn fixed(ty: ValueType, bytes: &[u8]) -> Option<Value> {
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool if bytes == [0] => Value::Bool(false),
            ValueType::Bool if bytes == [1] => Value::Bool(true),
            ValueType::Bool | ValueType::String | ValueType::Array => return None,
        })
    }

    fn int(&self) -> Option<i128> {
        Some(match self {
            Value::U8(v) => i128::from(*v),
            Value::I8(v) => i128::from(*v),
            Value::U16(v) => i128::from(*v),
            Value::I16(v) => i128::from(*v),
            Value::U32(v) => i128::from(*v),
            Value::I32(v) => i128::from(*v),
            Value::U64(v) => i128::from(*v),
            Value::I64(v) => i128::from(*v),
            _ => return None,
        })
    }

    fn float(&self) -> Option<f64> {
        match self {
            Value::F32(v) => Some(f64::from(*v)),
            Value::F64(v) => Some(*v),
            _ => self.int().filter(|v| v.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS).map(|v| v as f64),
        }
    }

    /// For messages: the type, and the value or its length.
    fn describe(&self) -> String {
        match self {
            Value::String(text) if text.chars().count() > 60 => {
                format!("string {:?}...", text.chars().take(60).collect::<String>())
            }
            Value::String(text) => format!("string {text:?}"),
            Value::Array(_) => self.to_string(),
            _ => format!("{} {self}", self.value_type()),
        }
    }
}

/// Numbers and texts as they are, an array as its length and type: `[262144 x string]`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::String(v) => v.fmt(f),
            Value::Array(v) => write!(f, "[{} x {}]", v.len, v.ty),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

/// A Rust type that a metadata value can be read as. Numbers convert when the value is exactly representable (a `u32` in
/// the file is read as `usize`, an `f64` of 0.5 as `f32`), never by rounding or wrapping.
pub trait FromValue<'a>: Sized {
    /// What messages call it.
    const EXPECTED: &'static str;
    /// The converted value, or what is there instead.
    fn from_value(value: &'a Value) -> Result<Self, String>;
}

impl<'a> FromValue<'a> for &'a Value {
    const EXPECTED: &'static str = "a value";
    fn from_value(value: &'a Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "string";
    fn from_value(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(value.describe()),
        }
    }
}

impl<'a> FromValue<'a> for Vec<&'a str> {
    const EXPECTED: &'static str = "array of string";
    fn from_value(value: &'a Value) -> Result<Self, String> {
        let text = |(i, bytes)| {
            std::str::from_utf8(bytes).map_err(|_| format!("an array whose element {i} is not valid UTF-8"))
        };
        Vec::<&[u8]>::from_value(value)?.into_iter().enumerate().map(text).collect()
    }
}

/// An array of texts as bytes: vocabularies may hold pieces that are not UTF-8 by themselves.
impl<'a> FromValue<'a> for Vec<&'a [u8]> {
    const EXPECTED: &'static str = "array of string";
    fn from_value(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::Array(array) if array.ty == ValueType::String => array.texts(),
            // An empty array may carry any element type.
            Value::Array(array) if array.len == 0 => Ok(Vec::new()),
            _ => Err(value.describe()),
        }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "array";
    fn from_value(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::Array(array) => Ok(array),
            _ => Err(value.describe()),
        }
    }
}

macro_rules! readable {
    ($($ty:ty, $name:literal, $convert:expr;)*) => { $(
        impl<'a> FromValue<'a> for $ty {
            const EXPECTED: &'static str = $name;
            fn from_value(value: &'a Value) -> Result<Self, String> {
                let convert: fn(&Value) -> Option<$ty> = $convert;
                convert(value).ok_or_else(|| value.describe())
            }
        }
        impl<'a> FromValue<'a> for Vec<$ty> {
            const EXPECTED: &'static str = concat!("array of ", $name);
            fn from_value(value: &'a Value) -> Result<Self, String> {
                let Value::Array(array) = value else { return Err(value.describe()) };
                let convert: fn(&Value) -> Option<$ty> = $convert;
                let mut out = Vec::with_capacity(array.len);
                if array.ty.is_fixed() {
                    // The common case, without a Result per element: half a million of these are read at load.
                    let elements = array.bytes().chunks_exact(array.ty.min_bytes() as usize);
                    out.extend(elements.map_while(|bytes| convert(&Value::fixed(array.ty, bytes)?)));
                }
                if out.len() == array.len {
                    return Ok(out);
                }
                let i = out.len();
                match array.iter().nth(i) {
                    Some(element) => Err(format!("an array whose element {i} is {}", element?.describe())),
                    None => Err(value.describe()),
                }
            }
        }
    )* };
}

readable! {
    u8, "u8", |v| v.int()?.try_into().ok();
    i8, "i8", |v| v.int()?.try_into().ok();
    u16, "u16", |v| v.int()?.try_into().ok();
    i16, "i16", |v| v.int()?.try_into().ok();
    u32, "u32", |v| v.int()?.try_into().ok();
    i32, "i32", |v| v.int()?.try_into().ok();
    u64, "u64", |v| v.int()?.try_into().ok();
    i64, "i64", |v| v.int()?.try_into().ok();
    usize, "a size", |v| v.int()?.try_into().ok();
    f32, "f32", |v| v.float().filter(|&v| f64::from(v as f32) == v || v.is_nan()).map(|v| v as f32);
    f64, "f64", |v| v.float();
    bool, "bool", |v| if let Value::Bool(v) = v { Some(*v) } else { None };
}

fn encoded(ty: ValueType, len: usize, bytes: Vec<u8>) -> Value {
    let range = 0..bytes.len();
    Value::Array(Array { ty, len, source: Arc::new(Source::Owned(bytes)), range })
}

macro_rules! writable {
    ($($ty:ty => $variant:ident, $encode:expr;)*) => { $(
        impl From<$ty> for Value {
            fn from(value: $ty) -> Value {
                Value::$variant(value)
            }
        }
        impl From<&[$ty]> for Value {
            fn from(values: &[$ty]) -> Value {
                encoded(ValueType::$variant, values.len(), values.iter().copied().flat_map($encode).collect())
            }
        }
    )* };
}

writable! {
    u8 => U8, u8::to_le_bytes;
    i8 => I8, i8::to_le_bytes;
    u16 => U16, u16::to_le_bytes;
    i16 => I16, i16::to_le_bytes;
    u32 => U32, u32::to_le_bytes;
    i32 => I32, i32::to_le_bytes;
    u64 => U64, u64::to_le_bytes;
    i64 => I64, i64::to_le_bytes;
    f32 => F32, f32::to_le_bytes;
    f64 => F64, f64::to_le_bytes;
    bool => Bool, |b| [u8::from(b)];
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<&[&str]> for Value {
    fn from(texts: &[&str]) -> Value {
        let mut bytes = Vec::new();
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        encoded(ValueType::String, texts.len(), bytes)
    }
}
