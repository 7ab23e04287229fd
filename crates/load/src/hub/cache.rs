//! The cache on disk, in the layout of Python's `huggingface_hub`:
//!
//! ```text
//! .locks/models--user--name/<blob>.lock
//! models--user--name/
//!     blobs/<blob>                      the content, named by its SHA-256 (or Git id)
//!     blobs/<blob>.incomplete           what has arrived of it
//!     refs/<revision>                   the commit that a branch or tag stood for
//!     snapshots/<commit>/<path>         symbolic link to the blob
//! ```

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::HubError;
use super::progress::{CancelFlag, Event, POLL, Progress};
use super::quant::choices;
use super::reference::is_gguf;

/// One repository's folder in the hub cache.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    pub root: PathBuf,
    locks: PathBuf,
}

/// A GGUF file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedFile {
    /// Path inside the repository.
    pub name: String,
    /// Where it lies, in `snapshots/`.
    pub path: PathBuf,
    pub size: u64,
}

impl RepoCache {
    pub fn new(hub_cache: &Path, repo: &str) -> Self {
        let folder = format!("models--{}", repo.replace('/', "--"));
        Self { root: hub_cache.join(&folder), locks: hub_cache.join(".locks").join(folder) }
    }

    /// All repositories in the cache, as `(user/name, cache)`.
    pub fn all(hub_cache: &Path) -> Vec<(String, Self)> {
        let mut all: Vec<_> = entries(hub_cache)
            .into_iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_prefix("models--")?;
                let (user, name) = name.split_once("--")?;
                let repo = format!("{user}/{name}");
                let cache = Self::new(hub_cache, &repo);
                Some((repo, cache))
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(name)
    }

    pub fn partial(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{name}.incomplete"))
    }

    pub fn lock_path(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a revision stood for when it was last fetched.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if self.snapshot(revision).is_dir() {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (!commit.is_empty() && commit.bytes().all(|b| b.is_ascii_hexdigit())).then(|| commit.to_owned())
    }

    /// The commits that have a snapshot.
    pub fn commits(&self) -> Vec<String> {
        entries(&self.root.join("snapshots"))
            .iter()
            .filter_map(|p| p.file_name()?.to_str().map(str::to_owned))
            .collect()
    }

    /// The names that point to a commit (`main`, a tag).
    pub fn refs(&self, commit: &str) -> Vec<String> {
        let root = self.root.join("refs");
        let files = walk(&root).into_iter();
        let hits = files.filter(|path| fs::read_to_string(path).is_ok_and(|c| c.trim() == commit));
        hits.filter_map(|path| relative(&root, &path)).collect()
    }

    /// The model files of a snapshot whose content is really there, by name: all GGUF files, or else safetensors and what
    /// belongs to them.
    pub fn files(&self, commit: &str) -> Vec<CachedFile> {
        let root = self.snapshot(commit);
        let mut files: Vec<_> = walk(&root)
            .into_iter()
            .filter_map(|path| {
                let name = relative(&root, &path)?;
                let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
                Some(CachedFile { name, path, size: meta.len() })
            })
            .collect();
        let models: HashSet<String> = match files.iter().any(|f| is_gguf(&f.name)) {
            true => files.iter().filter(|f| is_gguf(&f.name)).map(|f| f.name.clone()).collect(),
            false => choices(files.iter().map(|f| (f.name.as_str(), f.size)))
                .into_iter()
                .flat_map(|c| c.files)
                .collect(),
        };
        files.retain(|f| models.contains(&f.name));
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// Puts a blob under its name into a snapshot and gives that path.
    pub fn link(&self, commit: &str, name: &str, blob: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(name);
        // What a commit has under a name never changes. It may be the file itself, see `symlink`.
        if path.exists() {
            return Ok(path);
        }
        create_parent(&path)?;
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).map_err(HubError::io("replace", &path))?;
        }
        // From snapshots/<commit>/a/b.gguf up to the repository: one step per slash in the name, and two.
        let up = "../".repeat(name.matches('/').count() + 2);
        symlink(Path::new(&format!("{up}blobs/{blob}")), &self.blob(blob), &path)
            .map_err(HubError::io("link", &path))?;
        Ok(path)
    }

    /// Remembers what a branch or tag stands for.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        fs::write(&path, commit).map_err(HubError::io("write", &path))
    }

    /// Deletes files from every snapshot they are given for, then the blobs that nothing links to
    /// any more and their unfinished downloads, then what is left empty. Gives the bytes freed.
    pub fn remove(&self, files: &[CachedFile]) -> Result<u64, HubError> {
        let mut blobs = Vec::new();
        let mut freed = 0;
        for file in files {
            match fs::read_link(&file.path) {
                Ok(_) => blobs.extend(fs::canonicalize(&file.path)),
                Err(_) => freed += file.size, // a plain file, where links are not to be had
            }
            fs::remove_file(&file.path).map_err(HubError::io("remove", &file.path))?;
        }
        blobs.sort_unstable();
        blobs.dedup();
        let used: Vec<_> = walk(&self.root.join("snapshots"))
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        for blob in blobs.iter().filter(|blob| !used.contains(blob)) {
            freed += fs::metadata(blob).map_or(0, |m| m.len());
            fs::remove_file(blob).map_err(HubError::io("remove", blob))?;
        }
        remove_empty(&self.root.join("snapshots"));
        if walk(&self.root.join("snapshots")).is_empty() {
            freed += walk(&self.root.join("blobs"))
                .iter()
                .filter_map(|p| fs::metadata(p).ok())
                .map(|m| m.len())
                .sum::<u64>();
            fs::remove_dir_all(&self.root).map_err(HubError::io("remove", &self.root))?;
        }
        Ok(freed)
    }
}

/// Held while one process writes; let go when dropped, also by a process that dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock, saying so if it takes. Lock files stay behind: deleting one could let
    /// two processes in.
    pub fn acquire(path: &Path, cancel: &CancelFlag, progress: &mut dyn Progress) -> Result<Self, HubError> {
        create_parent(path)?;
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(HubError::io("open", path))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(e)) => return Err(HubError::io("lock", path)(e)),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut said, true) {
                        progress.event(Event::Note("another process is fetching this file; waiting for it"));
                    }
                    cancel.sleep(POLL)?;
                }
            }
        }
    }
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(HubError::io("create", parent))
}

/// The entries of a folder; none where there is no folder.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|dir| dir.filter_map(|e| Some(e.ok()?.path())).collect()).unwrap_or_default()
}

/// All files below a folder, links not followed.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(_) => files.push(path),
                Err(_) => {}
            }
        }
    }
    files
}

fn remove_empty(folder: &Path) {
    for path in entries(folder) {
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            remove_empty(&path);
            // Fails on a folder that still holds something, as it should.
            let _ = fs::remove_dir(&path);
        }
    }
}

/// `path` below `root`, with forward slashes.
fn relative(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<_>> = path.strip_prefix(root).ok()?.iter().map(|p| p.to_str()).collect();
    Some(parts?.join("/"))
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Where links need a privilege (Windows), the file itself goes into the snapshot, as Python does.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::rename(blob, path)
}
