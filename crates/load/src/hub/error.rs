//! Everything that can go wrong between a model's name and its file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::quant::{Choice, human_size};
use super::reference::RefError;

/// Why a model could not be had. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name could not be read.
    #[error(transparent)]
    Reference(#[from] RefError),
    /// The catalogue has no such name.
    #[error(
        "no model is called '{name}'. Known names: {known}. A repository is written user/repo, a file ./name.gguf"
    )]
    UnknownAlias {
        /// The name asked for.
        name: String,
        /// The catalogue's names.
        known: String,
    },
    /// A local path leads nowhere, or to something that is no file.
    #[error("no model at {path}: {reason}")]
    LocalNotFound {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// The hub does not know the repository, or does not show it to this user.
    #[error(
        "repository '{repo}' was not found at {endpoint}{}",
        if *has_token { ", or your token gives no access to it" }
        else { ". If it is private, set HF_TOKEN to a token that can read it" }
    )]
    RepoNotFound {
        /// `user/name`.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("repository '{repo}' has no revision '{revision}'")]
    RevisionNotFound {
        /// `user/name`.
        repo: String,
        /// The revision asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("repository '{repo}' has no file '{file}'{}", list(choices, "It offers"))]
    FileNotFound {
        /// `user/name`.
        repo: String,
        /// The file asked for.
        file: String,
        /// What it has.
        choices: Vec<Choice>,
    },
    /// The repository holds no model that kinfer reads.
    #[error(
        "repository '{repo}' has neither a .gguf model file nor safetensors with a config.json. Look for a repository \
         whose name ends in -GGUF"
    )]
    NoGguf {
        /// `user/name`.
        repo: String,
    },
    /// No file has the quantization asked for.
    #[error("repository '{repo}' has no {quant}{}", list(choices, "It offers"))]
    QuantNotFound {
        /// `user/name`.
        repo: String,
        /// The quantization asked for.
        quant: String,
        /// What it has.
        choices: Vec<Choice>,
    },
    /// More than one file fits.
    #[error(
        "'{wanted}' can mean several models{}\nName one by {repo}:QUANT, or a file by {repo}/FILE",
        list(choices, "It offers")
    )]
    Ambiguous {
        /// `user/name`.
        repo: String,
        /// What was asked for.
        wanted: String,
        /// What would do.
        choices: Vec<Choice>,
    },
    /// A split model lacks parts.
    #[error("{what}: {found} of {expected} parts are there")]
    MissingParts {
        /// The model.
        what: String,
        /// Parts found.
        found: usize,
        /// Parts that the file names promise.
        expected: usize,
    },
    /// The repository's owner wants a licence accepted first (HTTP 401 or 403).
    #[error(
        "'{repo}' is gated: accept its terms at {endpoint}/{repo}, then {}",
        if *has_token { "try again; the token in use must belong to the same account and may read gated repositories" }
        else { "set HF_TOKEN to a token of that account" }
    )]
    Gated {
        /// `user/name`.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The hub refused the token (HTTP 401).
    #[error(
        "the hub refused the token in use for '{repo}'. Set HF_TOKEN to a valid one, or remove {token_file}"
    )]
    BadToken {
        /// `user/name`.
        repo: String,
        /// Where a stored token would be.
        token_file: PathBuf,
    },
    /// The network is switched off and the model is not in the cache.
    #[error(
        "{what} is not in the cache, and offline mode (--offline, HF_HUB_OFFLINE) forbids downloading it"
    )]
    Offline {
        /// What was asked for.
        what: String,
    },
    /// No connection could be made.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// Where to.
        host: String,
        /// The system's reason.
        reason: String,
    },
    /// The server kept failing.
    #[error("{url} answered {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server asks to wait longer than is sensible (HTTP 429).
    #[error("{host} limits requests and asks to wait {} s. Try again then; a token in HF_TOKEN raises the limit", wait.as_secs())]
    RateLimited {
        /// The server.
        host: String,
        /// How long it asks to wait.
        wait: Duration,
    },
    /// The connection kept breaking. What was received is kept for the next try.
    #[error(
        "download of {file} broke off at {} of {}: {reason}. What is there was kept: the same command goes on from it",
        human_size(*done), human_size(*total)
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Bytes on disk.
        done: u64,
        /// Bytes in all.
        total: u64,
        /// The last failure.
        reason: String,
    },
    /// The content is not what was promised.
    #[error("{file} has the wrong SHA-256: expected {expected}, got {got}. {}", if *discarded { "It was thrown away" } else { "Remove it and fetch it again" })]
    Hash {
        /// The file.
        file: String,
        /// The promised hash.
        expected: String,
        /// The computed one.
        got: String,
        /// Whether the file was deleted.
        discarded: bool,
    },
    /// The hub has another file under the name that the catalogue vouches for.
    #[error("{repo} has another {file} now: the catalogue vouches for SHA-256 {expected}, the hub has {got}")]
    OtherFile {
        /// `user/name`.
        repo: String,
        /// The file.
        file: String,
        /// The catalogue's hash.
        expected: String,
        /// The hub's.
        got: String,
    },
    /// The length is not what was promised.
    #[error("{file} has the wrong length: expected {expected} bytes, got {got}")]
    Size {
        /// The file.
        file: String,
        /// The promised length.
        expected: u64,
        /// The length that came.
        got: u64,
    },
    /// The file does not fit on the disk.
    #[error("not enough space at {path}: {} needed, {} free. Free some, or set HF_HUB_CACHE (hub) or KINFER_CACHE to another disk", human_size(*needed), human_size(*available))]
    DiskFull {
        /// Where it should go.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// The caller's [`super::CancelFlag`] was set.
    #[error("cancelled")]
    Cancelled,
    /// The hub said something that makes no sense.
    #[error("{url} gave an answer that cannot be used: {reason}")]
    Protocol {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// pip could not deliver a package.
    #[error("pip: {0}")]
    Pip(String),
    /// Every source of a catalogue entry failed.
    #[error("'{name}' could not be fetched from any of its sources:{}", reasons.iter().map(|(s, e)| format!("\n  {s}: {e}")).collect::<String>())]
    AllSources {
        /// The catalogue name.
        name: String,
        /// Each source and why it failed, in the order tried.
        reasons: Vec<(String, HubError)>,
    },
    /// Nothing of this model is in a cache.
    #[error("'{name}' is not in the cache")]
    NotCached {
        /// The model.
        name: String,
    },
    /// Removing something that kinfer did not put there.
    #[error("{path} is your own file, not in a cache: delete it yourself")]
    NotInCache {
        /// The path.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl HubError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether the next source of a catalogue entry should be tried: only when nothing was
    /// received from this one and the user's disk and wishes are not the cause.
    pub(crate) fn lets_next_source_try(&self) -> bool {
        !matches!(
            self,
            Self::Cancelled
                | Self::Interrupted { .. }
                | Self::DiskFull { .. }
                | Self::Io { .. }
                | Self::Hash { discarded: true, .. }
        )
    }
}

fn list(choices: &[Choice], head: &str) -> String {
    if choices.is_empty() {
        return String::new();
    }
    let lines: String = choices.iter().map(|c| format!("\n  {c}")).collect();
    format!(". {head}:{lines}")
}
