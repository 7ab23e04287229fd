//! One error for the whole library.

/// What loading, building an engine or generating can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option or a parameter is not legal.
    #[error("{0}")]
    Usage(String),
    /// A request is not legal, or a running one failed.
    #[error(transparent)]
    Generate(#[from] kinfer_gen::Error),
    /// The model could not be built, or its device failed.
    #[error(transparent)]
    Model(#[from] kinfer_core::Error),
    /// The requested device cannot be used.
    #[error("device `{device}` is not available: {reason}")]
    Device {
        /// The device as the user named it.
        device: String,
        /// Why not, and what can be had instead.
        reason: String,
    },
    /// Weights, cache and buffers do not fit in memory.
    #[error(
        "{what} needs {needed} bytes of memory, but {available} are available; use a shorter context, fewer parallel \
         sequences or a smaller model"
    )]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A saved conversation cannot be read.
    #[error("not a saved conversation: {0}")]
    Transcript(#[from] serde_json::Error),
    /// A thread of the library could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// The result of a library call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarsely: for exit codes and status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that is not legal.
    Usage,
    /// It does not fit in memory.
    Memory,
    /// The requested device is not available.
    Device,
    /// A model or file was not found, or could not be fetched.
    NotFound,
    /// The model file is damaged or of an unsupported kind.
    BadModel,
    /// Something failed while running.
    Runtime,
}

impl Error {
    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        use kinfer_core::Error as C;
        use kinfer_gen::Error as G;
        match self {
            Error::Usage(_) | Error::Transcript(_) => ErrorKind::Usage,
            Error::Generate(G::Logits { .. } | G::Step(_) | G::Stopped) => ErrorKind::Runtime,
            Error::Generate(_) => ErrorKind::Usage,
            Error::Model(
                C::MissingTensor { .. } | C::Shape { .. } | C::Metadata { .. } | C::Unsupported { .. },
            ) => ErrorKind::BadModel,
            Error::Model(C::OutOfMemory { .. }) | Error::Memory { .. } => ErrorKind::Memory,
            Error::Model(C::Device { .. }) | Error::Device { .. } => ErrorKind::Device,
            Error::Model(C::Batch(_) | C::Backend { .. }) => ErrorKind::Runtime,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Error::Io { .. } | Error::Thread(_) => ErrorKind::Runtime,
        }
    }
}
