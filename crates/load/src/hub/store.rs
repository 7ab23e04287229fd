//! What is in the caches, and what of a listing a reference means.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::api::{RemoteFile, RepoInfo};
use super::cache::{CachedFile, RepoCache, entries};
use super::quant::{Choice, DEFAULT_QUANT, NoPick, choices, pick, split_part};
use super::{CancelFlag, CatalogEntry, Hub, HubError, HubRef, ModelRef, PinnedFile, Progress, Source};
use super::{download, hub_ref, local_files, pip};

/// A model in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// A name that means it: a catalogue name or a hub reference.
    pub name: String,
    /// Its quantization, when the file name states one.
    pub quant: Option<String>,
    /// The commit, for a model from the hub.
    pub revision: Option<String>,
    /// Bytes on disk.
    pub size: u64,
    /// Its files in order.
    pub files: Vec<PathBuf>,
    /// Whether all parts of a split model are there.
    pub complete: bool,
}

/// A file read again by [`Hub::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// Whether a hash to compare with was known. Always so for catalogue files and for the hub's
    /// large files; never for a local path.
    pub known: bool,
}

impl Hub {
    /// All models in the hub cache and in kinfer's own.
    pub fn list(&self) -> Vec<CachedModel> {
        let mut models = Vec::new();
        for entry in &self.catalog.models {
            let Some(file) = &entry.file else { continue };
            let path = pip::kept_at(&self.config, file);
            if let Ok(meta) = fs::metadata(&path) {
                let (name, size) = (entry.name.clone(), meta.len());
                let quant = choices([(file.name.as_str(), size)]).pop().and_then(|c| c.quant);
                models.push(CachedModel {
                    name,
                    quant,
                    revision: None,
                    size,
                    files: vec![path],
                    complete: true,
                });
            }
        }
        for (repo, cache) in RepoCache::all(&self.config.hub_cache) {
            for commit in cache.commits() {
                let files = cache.files(&commit);
                let offered = offered(&files);
                for choice in &offered {
                    models.push(listed(&repo, &cache, &commit, choice, &offered));
                }
            }
        }
        models
    }

    /// Deletes a model from the caches; a repository without quantization or file means all its
    /// GGUF files, and without a revision those of all revisions. Other files of the repository
    /// that Python tools put there stay. Gives the bytes freed.
    ///
    /// # Errors
    /// [`HubError::NotCached`] when there is nothing of it, [`HubError::NotInCache`] for a local
    /// path, [`HubError::Io`].
    pub fn remove(&self, model: &ModelRef) -> Result<u64, HubError> {
        let freed = match model {
            ModelRef::Local(path) => return Err(HubError::NotInCache { path: path.clone() }),
            ModelRef::Hub(want) => self.remove_hub(want)?,
            ModelRef::Alias(name) => {
                let entry = self.entry(name)?;
                let mut freed = match &entry.file {
                    Some(file) => remove_kept(&pip::kept_at(&self.config, file))?,
                    None => None,
                };
                for source in &entry.sources {
                    if let Source::Hub(reference) = source
                        && let Some(bytes) = self.remove_hub(&hub_ref(reference)?)?
                    {
                        freed = Some(freed.unwrap_or(0) + bytes);
                    }
                }
                freed
            }
        };
        freed.ok_or_else(|| HubError::NotCached { name: model.to_string() })
    }

    /// The bytes freed, which may be 0 where another revision shares the content; `None` when
    /// there was nothing to remove.
    fn remove_hub(&self, want: &HubRef) -> Result<Option<u64>, HubError> {
        let cache = RepoCache::new(&self.config.hub_cache, &want.repo);
        let commits = match &want.revision {
            Some(revision) => cache.commit(revision).into_iter().collect(),
            None => cache.commits(),
        };
        let all = want.file.is_none() && want.quant.is_none();
        let mut doomed = Vec::new();
        for commit in commits {
            let files = cache.files(&commit);
            let fits = |choice: &Choice| match (&want.file, &want.quant) {
                (Some(file), _) => choice.files.contains(file),
                (None, Some(quant)) => choice.quant.as_deref().is_some_and(|q| q.eq_ignore_ascii_case(quant)),
                (None, None) => true,
            };
            let names: HashSet<_> = offered(&files).into_iter().filter(fits).flat_map(|c| c.files).collect();
            doomed.extend(files.into_iter().filter(|f| all || names.contains(&f.name)));
        }
        let mut freed = None;
        if all {
            for partial in entries(&cache.root.join("blobs")) {
                if partial.extension().is_some_and(|e| e == "incomplete") {
                    freed = Some(freed.unwrap_or(0) + fs::metadata(&partial).map_or(0, |m| m.len()));
                    fs::remove_file(&partial).map_err(HubError::io("remove", &partial))?;
                }
            }
        }
        if doomed.is_empty() {
            return Ok(freed);
        }
        Ok(Some(freed.unwrap_or(0) + cache.remove(&doomed)?))
    }

    /// Reads a cached model's files again and compares their SHA-256 with what is known of them.
    ///
    /// # Errors
    /// [`HubError::Hash`] for a damaged file, [`HubError::NotCached`], [`HubError::Cancelled`],
    /// [`HubError::Io`].
    pub fn verify(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<Vec<Verified>, HubError> {
        let none = || HubError::NotCached { name: model.to_string() };
        let mut pinned = None;
        let files = match model {
            ModelRef::Local(path) => local_files(path)?,
            ModelRef::Hub(want) => {
                any_cached(&RepoCache::new(&self.config.hub_cache, &want.repo), want)?.ok_or_else(none)?
            }
            ModelRef::Alias(name) => {
                let entry = self.entry(name)?;
                pinned = entry.file.as_ref().map(|f| f.sha256.clone());
                match &entry.file {
                    Some(file) => vec![self.pinned_in_cache(entry, file).ok_or_else(none)?],
                    None => self.entry_in_cache(entry)?.ok_or_else(none)?,
                }
            }
        };
        let mut verified = Vec::with_capacity(files.len());
        for path in files {
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let expected = pinned.clone().or_else(|| blob_hash(&path));
            let sha256 = download::hash_file(&path, &name, progress, cancel)?;
            if let Some(expected) = expected.as_ref().filter(|e| **e != sha256) {
                let file = path.display().to_string();
                return Err(HubError::Hash {
                    file,
                    expected: expected.clone(),
                    got: sha256,
                    discarded: false,
                });
            }
            verified.push(Verified { path, sha256, known: expected.is_some() });
        }
        Ok(verified)
    }

    /// A pinned file in kinfer's cache, or among the hub's blobs from whatever snapshot.
    pub(super) fn pinned_in_cache(&self, entry: &CatalogEntry, file: &PinnedFile) -> Option<PathBuf> {
        let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == file.size);
        let kept = pip::kept_at(&self.config, file);
        if is_it(&kept) {
            return Some(kept);
        }
        entry.sources.iter().find_map(|source| {
            let Source::Hub(reference) = source else { return None };
            let cache = RepoCache::new(&self.config.hub_cache, &hub_ref(reference).ok()?.repo);
            let blob = fs::canonicalize(cache.blob(&file.sha256)).ok().filter(is_it)?;
            let mut links = cache.commits().into_iter().flat_map(|commit| cache.files(&commit));
            // The link has a name that a person can read.
            let link = links.find(|f| fs::canonicalize(&f.path).is_ok_and(|path| path == blob));
            Some(link.map_or(blob, |f| f.path))
        })
    }

    fn entry_in_cache(&self, entry: &CatalogEntry) -> Result<Option<Vec<PathBuf>>, HubError> {
        for source in &entry.sources {
            if let Source::Hub(reference) = source {
                let want = hub_ref(reference)?;
                let cache = RepoCache::new(&self.config.hub_cache, &want.repo);
                if let Some(files) = any_cached(&cache, &want)? {
                    return Ok(Some(files));
                }
            }
        }
        Ok(None)
    }
}

/// The cached files that a reference means whatever else the hub may have: the named file, or the
/// named quantization, or [`DEFAULT_QUANT`].
pub(super) fn surely_cached(cache: &RepoCache, want: &HubRef) -> Option<Vec<PathBuf>> {
    let files = cache.files(&cache.commit(want.revision())?);
    let offered = offered(&files);
    let quant = want.quant.as_deref().unwrap_or(DEFAULT_QUANT);
    let mut hits = offered.iter().filter(|c| match &want.file {
        Some(file) => c.files.contains(file),
        None => c.quant.as_deref().is_some_and(|q| q.eq_ignore_ascii_case(quant)),
    });
    let hit = hits.next().filter(|c| c.is_complete())?;
    hits.next().is_none().then(|| paths(hit, &files))
}

/// The cached files that a reference means when the cache is all there is to choose from.
pub(super) fn any_cached(cache: &RepoCache, want: &HubRef) -> Result<Option<Vec<PathBuf>>, HubError> {
    let Some(commit) = cache.commit(want.revision()) else { return Ok(None) };
    let files = cache.files(&commit);
    let offered: Vec<_> = offered(&files).into_iter().filter(Choice::is_complete).collect();
    if let Some(file) = &want.file {
        return Ok(offered.iter().find(|c| c.files.contains(file)).map(|c| paths(c, &files)));
    }
    match pick(&offered, want.quant.as_deref()) {
        Ok(choice) => Ok(Some(paths(choice, &files))),
        Err(NoPick::Ambiguous) => Err(ambiguous(want, offered)),
        Err(NoPick::Empty | NoPick::NoMatch) => Ok(None),
    }
}

/// The files of a repository that a reference means, in part order.
pub(super) fn select(info: &RepoInfo, want: &HubRef) -> Result<Vec<RemoteFile>, HubError> {
    let repo = || want.repo.clone();
    let offered = choices(info.files.iter().map(|f| (f.path.as_str(), f.size)));
    let choice = match &want.file {
        // A file named outright may be one that the rules leave out, such as a projector.
        Some(file) if split_part(file).is_none() => {
            let found = info.files.iter().find(|f| f.path == *file).cloned();
            let missing =
                || HubError::FileNotFound { repo: repo(), file: file.clone(), choices: offered.clone() };
            return Ok(vec![found.ok_or_else(missing)?]);
        }
        Some(file) => match offered.iter().find(|c| c.files.contains(file)) {
            Some(choice) => choice,
            None => {
                return Err(HubError::FileNotFound { repo: repo(), file: file.clone(), choices: offered });
            }
        },
        None => match pick(&offered, want.quant.as_deref()) {
            Ok(choice) => choice,
            Err(NoPick::Empty) => return Err(HubError::NoGguf { repo: repo() }),
            Err(NoPick::Ambiguous) => return Err(ambiguous(want, offered)),
            Err(NoPick::NoMatch) => {
                let quant = want.quant.clone().unwrap_or_default();
                return Err(HubError::QuantNotFound { repo: repo(), quant, choices: offered });
            }
        },
    };
    if !choice.is_complete() {
        let what = format!("{want}, in the repository");
        return Err(HubError::MissingParts { what, found: choice.files.len(), expected: choice.parts });
    }
    Ok(choice.files.iter().filter_map(|name| info.files.iter().find(|f| f.path == *name).cloned()).collect())
}

fn ambiguous(want: &HubRef, choices: Vec<Choice>) -> HubError {
    HubError::Ambiguous { repo: want.repo.clone(), wanted: want.to_string(), choices }
}

fn offered(files: &[CachedFile]) -> Vec<Choice> {
    choices(files.iter().map(|f| (f.name.as_str(), f.size)))
}

fn paths(choice: &Choice, files: &[CachedFile]) -> Vec<PathBuf> {
    choice
        .files
        .iter()
        .filter_map(|name| Some(files.iter().find(|f| f.name == *name)?.path.clone()))
        .collect()
}

fn listed(repo: &str, cache: &RepoCache, commit: &str, choice: &Choice, all: &[Choice]) -> CachedModel {
    let alone = all.iter().filter(|c| c.quant == choice.quant).count() == 1;
    let mut name = match (&choice.quant, choice.files.first()) {
        (Some(quant), _) if alone => format!("{repo}:{quant}"),
        (_, Some(file)) => format!("{repo}/{file}"),
        (_, None) => repo.to_owned(),
    };
    let refs = cache.refs(commit);
    if !refs.iter().any(|r| r == "main") {
        name += &format!("@{}", refs.first().map_or(commit, String::as_str));
    }
    CachedModel {
        name,
        quant: choice.quant.clone(),
        revision: Some(commit.to_owned()),
        size: choice.size,
        files: paths(choice, &cache.files(commit)),
        complete: choice.is_complete(),
    }
}

/// The SHA-256 in the name of the blob that a snapshot's link leads to.
fn blob_hash(path: &Path) -> Option<String> {
    let target = fs::canonicalize(path).ok()?;
    let in_blobs = target.parent()?.file_name()? == "blobs";
    let name = target.file_name()?.to_str()?;
    (in_blobs && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

fn remove_kept(path: &Path) -> Result<Option<u64>, HubError> {
    let Ok(meta) = fs::metadata(path) else { return Ok(None) };
    fs::remove_file(path).map_err(HubError::io("remove", path))?;
    if let Some(folder) = path.parent() {
        // Its folder has nothing else in it.
        let _ = fs::remove_dir(folder);
    }
    Ok(Some(meta.len()))
}
