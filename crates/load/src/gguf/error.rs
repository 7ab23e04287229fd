//! What can be wrong with a GGUF file.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use thiserror::Error;

/// A problem, and the file that has it.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    /// The file; for a split model, the part.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a GGUF file, or with one being written. Offsets are bytes from the start of the file.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Problem {
    /// The operating system refused.
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: std::io::Error },
    /// A directory, pipe or device.
    #[error("not a regular file; give the path of a .gguf file")]
    NotAFile,
    /// The magic is missing.
    #[error("not a GGUF file: it starts with \"{got}\" instead of \"GGUF\"{hint}")]
    NotGguf { got: String, hint: &'static str },
    /// Byte-swapped version field.
    #[error(
        "a big-endian GGUF file (version {version}); kinfer reads little-endian ones: convert it with gguf_convert_endian.py"
    )]
    BigEndian { version: u32 },
    /// Neither version 2 nor 3.
    #[error("GGUF version {got} is not supported (2 and 3 are); convert the model again with a current tool")]
    Version { got: u32 },
    /// The file ends inside its header.
    #[error(
        "truncated: {at} at offset {offset} needs {needed} bytes, {available} are left; download it again"
    )]
    Truncated { at: String, offset: u64, needed: u64, available: u64 },
    /// A count that cannot be true, or that is beyond what kinfer accepts.
    #[error("{what}: {got} exceeds the limit of {limit}")]
    TooMany { what: &'static str, got: u64, limit: u64 },
    /// A text that is not UTF-8.
    #[error("{at} at offset {offset}: not valid UTF-8")]
    NotUtf8 { at: String, offset: u64 },
    /// A metadata key or tensor name of length 0.
    #[error("{at} has an empty name")]
    EmptyName { at: String },
    /// An unassigned metadata type id.
    #[error("metadata key \"{key}\": unknown value type {got} (0 to 12 are defined)")]
    ValueType { key: String, got: u32 },
    /// A boolean byte other than 0 and 1.
    #[error("metadata key \"{key}\": a boolean is stored as {got} (0 or 1 expected)")]
    Bool { key: String, got: u8 },
    /// Arrays of arrays, too deep.
    #[error("metadata key \"{key}\": arrays nested deeper than {limit}")]
    Nesting { key: String, limit: u32 },
    /// A key occurs twice.
    #[error("metadata key \"{key}\" occurs twice")]
    DuplicateKey { key: String },
    /// A tensor name occurs twice.
    #[error("tensor \"{tensor}\" occurs twice")]
    DuplicateTensor { tensor: String },
    /// `general.alignment` is no power of two.
    #[error("general.alignment is {got}; a power of two is expected")]
    Alignment { got: u32 },
    /// More than four dimensions.
    #[error("tensor \"{tensor}\" has {got} dimensions; at most {limit} are defined")]
    Dims { tensor: String, got: u32, limit: u32 },
    /// A dimension of 0.
    #[error("tensor \"{tensor}\": shape {shape:?} has no elements")]
    EmptyShape { tensor: String, shape: Vec<u64> },
    /// More bytes than an address can count.
    #[error("tensor \"{tensor}\": the size of shape {shape:?} overflows")]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    /// Rows that do not divide into blocks.
    #[error("tensor \"{tensor}\": rows of {row} elements are no whole number of {ty} blocks of {block}")]
    PartialBlock { tensor: String, ty: &'static str, row: u64, block: u64 },
    /// An offset that the alignment forbids.
    #[error("tensor \"{tensor}\": data offset {offset} is no multiple of the alignment {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    /// Data beyond the end of the file.
    #[error("tensor \"{tensor}\": its data ends at {end}, the file at {len}: truncated; download it again")]
    OutOfBounds { tensor: String, end: u128, len: u64 },
    /// Two tensors share bytes.
    #[error("tensors \"{first}\" and \"{second}\" overlap at offset {offset}")]
    Overlap { first: String, second: String, offset: u64 },
    /// A key that the model needs is absent.
    #[error("metadata key \"{key}\" is missing (expected: {expected})")]
    MissingKey { key: String, expected: &'static str },
    /// A key has another type, or a value that does not fit.
    #[error("metadata key \"{key}\": expected {expected}, got {got}")]
    WrongType { key: String, expected: &'static str, got: String },
    /// A part of a split model without its part number in its name.
    #[error(
        "one of {count} parts of a split model, but its name does not end in -00001-of-{count:05}.gguf: restore the original name"
    )]
    SplitName { count: u16 },
    /// A part of a split model is not beside the others.
    #[error("part {no} of {count} of this split model is missing: download all its parts into one directory")]
    MissingPart { no: u16, count: u16 },
    /// A part contradicts its name or the other parts.
    #[error("split model: {key} is {got}, expected {expected}: parts are exchanged or of different models")]
    SplitMismatch { key: &'static str, expected: u64, got: u64 },
    /// A tensor type that kinfer does not compute with.
    #[error("tensor \"{tensor}\": {ty} is not supported yet; supported: {supported}")]
    Unsupported { tensor: String, ty: String, supported: String },
    /// Not what the safetensors format asks for.
    #[error("not a safetensors file that can be read: {reason}; download it again")]
    Safetensors { reason: String },
    /// A file of a folder in transformers' format that is not the JSON it should be.
    #[error("not the JSON that is expected here: {reason}")]
    Json { reason: String },
    /// A file that a folder in transformers' format has to have.
    #[error("has no {file}; {hint}")]
    MissingFile { file: &'static str, hint: &'static str },
    /// A setting that kinfer cannot follow.
    #[error("setting \"{key}\" {problem}")]
    Setting { key: String, problem: String },
    /// A model class that kinfer does not read from safetensors.
    #[error("models of class \"{class}\" are not read from safetensors; supported: {supported}{hint}")]
    Class { class: String, supported: String, hint: &'static str },
    /// A tensor that models of this class do not have.
    #[error("tensor \"{tensor}\" is none that a {class} has, so the model would compute something else")]
    ForeignTensor { tensor: String, class: &'static str },
    /// A tensor in a type that kinfer does not read from safetensors.
    #[error("tensor \"{tensor}\" is stored as {ty}; F32, F16 and BF16 are read from safetensors")]
    Dtype { tensor: String, ty: String },
    /// A tensor that does not belong to the others of its module, or is not what others are made of.
    #[error("tensor \"{tensor}\" {problem}")]
    Coded { tensor: String, problem: String },
    /// A part of tokenizer.json that kinfer cannot follow exactly.
    #[error("{part} is {got}, which kinfer cannot follow{hint}")]
    Tokenizer { part: &'static str, got: String, hint: &'static str },
    /// While writing: data of another size than the shape's.
    #[error("tensor \"{tensor}\": {got} bytes of data for a shape of {expected}")]
    DataSize { tensor: String, expected: u64, got: u64 },
    /// While writing: data for fewer or more tensors than declared.
    #[error("data for {got} tensors, {expected} are declared")]
    DataCount { expected: usize, got: usize },
}

/// For a first look at what a file is when it is not GGUF.
pub(super) fn not_gguf(start: &[u8]) -> Problem {
    let hint = match start {
        [b'v', b'e', b'r', b's', ..] => ": perhaps a Git LFS pointer, not the file itself",
        [b'<', ..] => ": perhaps a web page, not the file itself",
        [b'P', b'K', ..] => ": a zip archive, perhaps a PyTorch checkpoint",
        [b'g', b'g', b'm', b'l' | b'f', ..] | [b'l', b'm', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] => {
            ": an old GGML file, from before GGUF"
        }
        _ => "",
    };
    Problem::NotGguf { got: start.escape_ascii().to_string(), hint }
}
