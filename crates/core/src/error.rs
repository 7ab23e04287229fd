//! Errors of a step and of loading a device.

use crate::KvType;

/// What a backend, a model build or a step can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor of the model file is missing.
    #[error("tensor `{name}` is missing from the model file; the {arch} architecture needs it")]
    MissingTensor {
        /// The tensor's name in the file.
        name: String,
        /// The architecture that asked for it.
        arch: String,
    },
    /// A tensor does not have the shape that the model's metadata promises.
    #[error("tensor `{name}` has shape {got} where the model's metadata asks for {expected}")]
    Shape {
        /// The tensor's name in the file.
        name: String,
        /// Shape asked for, `[rows, columns]`.
        expected: String,
        /// Shape found.
        got: String,
    },
    /// A metadata value is missing, has the wrong type, or has a value that kinfer does not know.
    #[error("metadata `{key}`: {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it, what was expected and got.
        problem: String,
    },
    /// An architecture, tensor type or option that is known to exist but is not supported.
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What can be had instead.
        supported: String,
    },
    /// A device has no KV cache of the type that was asked for.
    #[error("{device} has no cache of {kind} keys or values; it has {supported}")]
    CacheType {
        /// The device.
        device: String,
        /// The type.
        kind: KvType,
        /// The types that it has.
        supported: String,
    },
    /// Weights, KV cache or scratch do not fit.
    #[error("{what} needs {needed} bytes of memory, but {available} are available; {hint}")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
        /// What the user can do.
        hint: String,
    },
    /// The requested device cannot be used on this machine.
    #[error("device `{device}` is not available: {reason}")]
    Device {
        /// The device's name as the user gave it.
        device: String,
        /// Why.
        reason: String,
    },
    /// A step broke a limit that its caller should have kept; nothing was computed.
    #[error("invalid batch: {0}")]
    Batch(String),
    /// The device failed during a step.
    #[error("{device} failed: {source}")]
    Backend {
        /// The device.
        device: String,
        /// The device library's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The result of a backend or model operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
