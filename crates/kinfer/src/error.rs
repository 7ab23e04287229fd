//! One error for the whole library.

use kinfer_load::gguf::{GgufError, Problem};
use kinfer_load::hub::{CatalogError, HubError};
use kinfer_load::template::TemplateError;
use kinfer_load::tokenizer::TokenizerError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// A model file cannot be read.
    #[error(transparent)]
    Gguf(Box<GgufError>),
    /// The tokenizer cannot be built, or a text not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is no chat template, or it fails.
    #[error(transparent)]
    Template(Arc<TemplateError>),
    /// A model cannot be found or fetched.
    #[error(transparent)]
    Hub(Box<HubError>),
    /// A catalogue of models cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
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
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A conversation cannot be written as JSON, or read from it.
    #[error("not a saved conversation: {0}")]
    Transcript(#[from] serde_json::Error),
    /// A text to be embedded exceeds the model's context.
    #[error(
        "text {number} has {tokens} tokens; the model's context is {limit}: split it, or ask for its beginning only (truncate)"
    )]
    TextTooLong {
        /// Which of the texts, counted from 1.
        number: usize,
        /// Its tokens.
        tokens: usize,
        /// Most tokens of a text.
        limit: usize,
    },
    /// A thread of the library could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
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
            Error::Usage(_) | Error::TextTooLong { .. } | Error::Transcript(_) | Error::Catalog(_) => {
                ErrorKind::Usage
            }
            Error::Generate(G::Logits { .. } | G::Step(_) | G::Stopped | G::Cancelled) => ErrorKind::Runtime,
            Error::Generate(_) => ErrorKind::Usage,
            Error::Model(
                C::MissingTensor { .. } | C::Shape { .. } | C::Metadata { .. } | C::Unsupported { .. },
            ) => ErrorKind::BadModel,
            Error::Model(C::CacheType { .. }) => ErrorKind::Usage,
            Error::Model(C::OutOfMemory { .. }) | Error::Memory { .. } => ErrorKind::Memory,
            Error::Model(C::Device { .. }) | Error::Device { .. } => ErrorKind::Device,
            Error::Model(C::Batch(_) | C::Backend { .. }) => ErrorKind::Runtime,
            Error::Gguf(e) => match &e.problem {
                Problem::Io { source, .. } => of_io(source),
                _ => ErrorKind::BadModel,
            },
            Error::Tokenizer(_) => ErrorKind::BadModel,
            Error::Template(e) => match **e {
                TemplateError::Missing { .. }
                | TemplateError::UnknownName { .. }
                | TemplateError::Refused { .. }
                | TemplateError::Inspected { .. }
                | TemplateError::ReservedName { .. } => ErrorKind::Usage,
                _ => ErrorKind::BadModel,
            },
            Error::Hub(_) => ErrorKind::NotFound,
            Error::Io { source, .. } => of_io(source),
            Error::Thread(_) => ErrorKind::Runtime,
        }
    }
}

// The largest errors are boxed, so that a `Result` costs little where nothing fails.
impl From<GgufError> for Error {
    fn from(e: GgufError) -> Self {
        Error::Gguf(Box::new(e))
    }
}

impl From<HubError> for Error {
    fn from(e: HubError) -> Self {
        Error::Hub(Box::new(e))
    }
}

impl From<TemplateError> for Error {
    fn from(e: TemplateError) -> Self {
        Error::Template(Arc::new(e))
    }
}

fn of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Runtime,
    }
}
