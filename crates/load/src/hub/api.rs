//! The one question put to the hub's API: what is in this repository at this revision?

use std::io::Read;

use serde::Deserialize;

use super::HubError;
use super::config::HubConfig;
use super::http::{Answer, Failure, Http, Retry, escape};
use super::progress::Progress;
use super::reference::{HubRef, is_safe_path};

/// More than any repository's listing; a server that sends more is not a hub.
const MAX_ANSWER: u64 = 64 << 20;

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct RepoInfo {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    pub path: String,
    pub size: u64,
    /// Known for files in large-file storage, where every real model is.
    pub sha256: Option<String>,
    /// Its name in the cache: what the hub sends as ETag, that is the SHA-256, or the Git blob id
    /// for a small file.
    pub blob: String,
}

#[derive(Deserialize)]
struct Wire {
    sha: String,
    #[serde(default)]
    siblings: Vec<WireFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFile {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<WireLfs>,
}

#[derive(Deserialize)]
struct WireLfs {
    sha256: String,
    size: u64,
}

/// Asks what the repository holds.
pub(crate) fn repo_info(
    http: &Http<'_>,
    config: &HubConfig,
    want: &HubRef,
    progress: &mut dyn Progress,
) -> Result<RepoInfo, HubError> {
    let url = format!(
        "{}/api/models/{}/revision/{}?blobs=true",
        config.endpoint,
        want.repo,
        escape(want.revision(), false)
    );
    let mut retry = Retry::new(http);
    let bytes = loop {
        match http.get(&url, None).and_then(read_all) {
            Ok(bytes) => break bytes,
            Err(failure) => retry.wait(failure, progress).map_err(|f| explain(f, config, want))?,
        }
    };
    let wire: Wire = serde_json::from_slice(&bytes)
        .map_err(|e| HubError::Protocol { url: url.clone(), reason: e.to_string() })?;
    check(wire).map_err(|reason| HubError::Protocol { url, reason })
}

/// The address of a file's content.
pub(crate) fn file_url(config: &HubConfig, repo: &str, commit: &str, path: &str) -> String {
    format!("{}/{repo}/resolve/{}/{}", config.endpoint, escape(commit, false), escape(path, true))
}

/// Says what a failure means for the repository that was asked for.
pub(crate) fn explain(failure: Failure, config: &HubConfig, want: &HubRef) -> HubError {
    let Failure::Status(status) = failure else { return failure.into() };
    let (repo, has_token) = (want.repo.clone(), config.token.is_some());
    let endpoint = config.endpoint.clone();
    match (status.status, status.code.as_str()) {
        (_, "GatedRepo") => HubError::Gated { repo, endpoint, has_token },
        (_, "RepoNotFound") => HubError::RepoNotFound { repo, endpoint, has_token },
        (_, "RevisionNotFound") => HubError::RevisionNotFound { repo, revision: want.revision().to_owned() },
        (_, "EntryNotFound") => HubError::FileNotFound {
            repo,
            file: want.file.clone().unwrap_or(status.url),
            choices: Vec::new(),
        },
        // Without a token the hub answers 401 also where there is no such repository.
        (401, _) if has_token => HubError::BadToken { repo, token_file: config.token_file.clone() },
        (401 | 404, _) => HubError::RepoNotFound { repo, endpoint, has_token },
        (403, _) => HubError::Gated { repo, endpoint, has_token },
        _ => Failure::Status(status).into(),
    }
}

fn read_all(answer: Answer) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let url = answer.url;
    let read = answer.body.into_reader().take(MAX_ANSWER).read_to_end(&mut bytes);
    read.map_err(|e| Failure::Broken(e.to_string()))?;
    if bytes.len() as u64 == MAX_ANSWER {
        let reason = format!("it is longer than {MAX_ANSWER} bytes");
        return Err(Failure::Fatal(HubError::Protocol { url, reason }));
    }
    Ok(bytes)
}

/// Names from the network become file names here, so each is checked.
fn check(wire: Wire) -> Result<RepoInfo, String> {
    if !is_token(&wire.sha) {
        return Err(format!("'{}' is not a commit", wire.sha));
    }
    let mut files = Vec::with_capacity(wire.siblings.len());
    for file in wire.siblings {
        if !is_safe_path(&file.rfilename) {
            return Err(format!("'{}' is not a path inside a repository", file.rfilename));
        }
        let (size, sha256) = match file.lfs {
            Some(lfs) => (Some(lfs.size), Some(lfs.sha256.to_ascii_lowercase())),
            None => (file.size, None),
        };
        if sha256.as_ref().is_some_and(|sha| sha.len() != 64 || !is_token(sha)) {
            return Err(format!("the SHA-256 of '{}' is none", file.rfilename));
        }
        // A file without size or id can be listed but not fetched; no GGUF file lacks them.
        let (Some(size), Some(blob)) = (size, sha256.clone().or(file.blob_id)) else { continue };
        if !is_token(&blob) {
            return Err(format!("the id of '{}' is '{blob}'", file.rfilename));
        }
        files.push(RemoteFile { path: file.rfilename, size, sha256, blob });
    }
    Ok(RepoInfo { commit: wire.sha, files })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> Result<RepoInfo, String> {
        check(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn reads_large_and_small_files() {
        let sha = "AB".repeat(32);
        let got = info(&format!(
            r#"{{"sha":"0a","gated":false,"siblings":[
            {{"rfilename":"m.gguf","size":9,"blobId":"11","lfs":{{"sha256":"{sha}","size":9,"pointerSize":1}}}},
            {{"rfilename":"README.md","size":5,"blobId":"22"}},{{"rfilename":"x"}}]}}"#
        ))
        .unwrap();
        assert_eq!(got.files.len(), 2);
        assert_eq!(got.files[0].blob, sha.to_lowercase());
        assert_eq!((got.files[1].blob.as_str(), got.files[1].size), ("22", 5));
    }

    #[test]
    fn refuses_names_that_leave_the_cache() {
        for file in ["../x.gguf", "/x.gguf", "a//b", "C:x", "a\\\\b", "."] {
            let json =
                format!(r#"{{"sha":"0a","siblings":[{{"rfilename":"{file}","size":1,"blobId":"1"}}]}}"#);
            assert!(info(&json).is_err(), "{file}");
        }
        assert!(info(r#"{"sha":"../x"}"#).is_err());
        assert!(info(r#"{"sha":"0a","siblings":[{"rfilename":"x","size":1,"blobId":"../1"}]}"#).is_err());
    }
}
