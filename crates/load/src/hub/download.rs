//! Fetching one file: resumed, checked, and visible under its name only when whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HubError;
use super::cache::{Lock, create_parent};
use super::http::{Answer, Failure, Http, Retry, header};
use super::progress::{CancelFlag, Event, Progress};
use super::quant::human_size;

const BUFFER: usize = 256 << 10;

/// A file to fetch.
#[derive(Debug)]
pub(crate) struct Job {
    /// What to call it towards the user.
    pub name: String,
    pub url: String,
    /// Where it goes.
    pub target: PathBuf,
    /// Where it grows, on the same disk.
    pub partial: PathBuf,
    pub lock: PathBuf,
    pub size: u64,
    pub sha256: Option<String>,
}

impl Job {
    /// Bytes that are still to come.
    pub fn missing(&self) -> u64 {
        if self.target.exists() { 0 } else { self.size.saturating_sub(length(&self.partial)) }
    }
}

/// Fetches a file unless it is there already. Of several processes that want it one downloads and
/// the others wait.
///
/// `explain` puts a failed request into the caller's terms.
pub(crate) fn fetch(
    http: &Http<'_>,
    job: &Job,
    progress: &mut dyn Progress,
    explain: &dyn Fn(Failure) -> HubError,
) -> Result<(), HubError> {
    if job.target.exists() {
        return Ok(());
    }
    let _lock = Lock::acquire(&job.lock, http.cancel, progress)?;
    if job.target.exists() {
        return Ok(());
    }
    create_parent(&job.target)?;
    let mut partial = Partial::open(job, http.cancel, progress)?;
    let resumed = partial.done > 0;
    if let Err(e) = complete(http, job, &mut partial, progress, explain) {
        // A file of zero bytes would only puzzle whoever finds it.
        if partial.done == 0 {
            let _ = fs::remove_file(&job.partial);
        } else if matches!(e, HubError::Cancelled) {
            let (done, all) = (human_size(partial.done), human_size(job.size));
            progress.event(Event::Note(&format!(
                "{}: {done} of {all} are here and are kept: the same command goes on from there",
                job.name
            )));
        }
        return Err(e);
    }
    match partial.finish(job) {
        // The bytes from an earlier run may be the bad ones: once more, from the start.
        Err(HubError::Hash { .. }) if resumed => {
            progress.event(Event::Note("what an earlier download left was damaged; starting over"));
            partial = Partial::open(job, http.cancel, progress)?;
            complete(http, job, &mut partial, progress, explain)?;
            partial.finish(job)?;
        }
        other => other?,
    }
    progress.event(Event::Finish { file: &job.name });
    Ok(())
}

/// Requests until every byte is there or trying further is pointless.
fn complete(
    http: &Http<'_>,
    job: &Job,
    partial: &mut Partial,
    progress: &mut dyn Progress,
    explain: &dyn Fn(Failure) -> HubError,
) -> Result<(), HubError> {
    progress.event(Event::Start { file: &job.name, done: partial.done, total: job.size });
    let mut retry = Retry::new(http);
    while partial.done < job.size {
        let before = partial.done;
        let from = (before > 0).then_some(before);
        let failure = match http.get(&job.url, from) {
            Ok(answer) => receive(http, job, partial, answer, progress)?,
            Err(Failure::Status(s)) if s.status == 416 && before > 0 => {
                partial.restart(job)?;
                Some(Failure::Status(s))
            }
            Err(failure) => Some(failure),
        };
        let Some(failure) = failure else { continue };
        if partial.done > before {
            retry.progressed();
        }
        let failure = match failure {
            // The range was refused, the whole file may not be.
            Failure::Status(s) if s.status == 416 => Failure::Broken("the server refused to resume".into()),
            other => other,
        };
        if let Err(failure) = retry.wait(failure, progress) {
            let kept = partial.done;
            return Err(match explain(failure) {
                HubError::Unreachable { reason, .. } if kept > 0 => {
                    HubError::Interrupted { file: job.name.clone(), done: kept, total: job.size, reason }
                }
                HubError::Status { status, .. } if kept > 0 => {
                    let reason = format!("the server answered {status}");
                    HubError::Interrupted { file: job.name.clone(), done: kept, total: job.size, reason }
                }
                other => other,
            });
        }
    }
    Ok(())
}

/// Takes in one answer's body; a failure that comes back may be tried again.
fn receive(
    http: &Http<'_>,
    job: &Job,
    partial: &mut Partial,
    answer: Answer,
    progress: &mut dyn Progress,
) -> Result<Option<Failure>, HubError> {
    let start = match answer.status {
        206 => {
            let range = header(&answer.headers, "content-range").and_then(content_range);
            match range {
                Some((start, total)) if start == partial.done => {
                    if let Some(total) = total.filter(|total| *total != job.size) {
                        return Err(wrong_size(job, total));
                    }
                    start
                }
                _ => {
                    let reason = "a part of the file that was not asked for".into();
                    return Err(HubError::Protocol { url: answer.url, reason });
                }
            }
        }
        // The whole file, whether asked for or because the server cannot resume.
        _ => {
            partial.restart(job)?;
            0
        }
    };
    let length: Option<u64> = header(&answer.headers, "content-length").and_then(|v| v.parse().ok());
    if let Some(length) = length.filter(|length| start + length != job.size) {
        return Err(wrong_size(job, start + length));
    }
    let mut body = answer.body.into_reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        http.cancel.check()?;
        let n = match body.read(&mut buffer) {
            Ok(0) if partial.done < job.size => {
                return Ok(Some(Failure::Broken("the connection ended early".into())));
            }
            Ok(0) => return Ok(None),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) if http.cancel.is_cancelled() => return Err(HubError::Cancelled),
            Err(e) => return Ok(Some(Failure::Broken(e.to_string()))),
        };
        if partial.done + n as u64 > job.size {
            return Err(wrong_size(job, partial.done + n as u64));
        }
        partial.append(&buffer[..n])?;
        progress.event(Event::Advance { file: &job.name, done: partial.done, total: job.size });
    }
}

/// `bytes 5-9/10` gives `(5, Some(10))`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start, total))
}

fn wrong_size(job: &Job, got: u64) -> HubError {
    HubError::Size { file: job.name.clone(), expected: job.size, got }
}

/// A growing file and the hash of what is in it.
struct Partial {
    file: File,
    path: PathBuf,
    hash: Sha256,
    done: u64,
}

impl Partial {
    /// Opens what an earlier run (or Python) left, and hashes it.
    fn open(job: &Job, cancel: &CancelFlag, progress: &mut dyn Progress) -> Result<Self, HubError> {
        let path = job.partial.clone();
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(HubError::io("open", &path))?;
        let mut partial = Self { file, path, hash: Sha256::new(), done: 0 };
        match length(&job.partial) {
            0 => {}
            n if n > job.size => partial.restart(job)?,
            n => {
                progress.event(Event::Note(&format!("checking the {} that are here already", human_size(n))))
            }
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            cancel.check()?;
            let n = partial.file.read(&mut buffer).map_err(HubError::io("read", &partial.path))?;
            if n == 0 {
                return Ok(partial);
            }
            partial.hash.update(&buffer[..n]);
            partial.done += n as u64;
        }
    }

    fn restart(&mut self, job: &Job) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(HubError::io("empty", &job.partial))?;
        self.hash = Sha256::new();
        self.done = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| write_error(e, &self.path, bytes.len() as u64))?;
        self.hash.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Checks the hash and gives the file its name; deletes it when the hash is wrong.
    fn finish(&mut self, job: &Job) -> Result<(), HubError> {
        let got = hex(&std::mem::take(&mut self.hash).finalize());
        if let Some(expected) = job.sha256.as_ref().filter(|expected| **expected != got) {
            fs::remove_file(&self.path).map_err(HubError::io("remove", &self.path))?;
            return Err(HubError::Hash {
                file: job.name.clone(),
                expected: expected.clone(),
                got,
                discarded: true,
            });
        }
        publish(&self.file, &self.path, &job.target)
    }
}

/// Makes a finished file durable, then visible under its name in one step.
pub(crate) fn publish(file: &File, from: &Path, to: &Path) -> Result<(), HubError> {
    file.sync_all().map_err(|e| write_error(e, from, 0))?;
    fs::rename(from, to).map_err(HubError::io("rename", from))
}

/// A failed write; a full disk gets its own error.
pub(crate) fn write_error(e: io::Error, path: &Path, needed: u64) -> HubError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            HubError::DiskFull { path: path.to_owned(), needed, available: 0 }
        }
        _ => HubError::io("write", path)(e),
    }
}

/// The SHA-256 of a file, for `verify`.
pub(crate) fn hash_file(
    path: &Path,
    name: &str,
    progress: &mut dyn Progress,
    cancel: &CancelFlag,
) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::io("open", path))?;
    let total = length(path);
    progress.event(Event::Start { file: name, done: 0, total });
    let (mut hash, mut done, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        cancel.check()?;
        let n = file.read(&mut buffer).map_err(HubError::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress.event(Event::Advance { file: name, done, total });
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "5-9/10", "bytes x-9/10", "bytes 5/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
