//! Listing, removing, verifying and renewing what is in the caches.

use std::fs;

use kinfer_load::hub::{CancelFlag, Hub, HubError, ModelRef, Origin, Silent};

use super::fake::{COMMIT, FakeHub, config, no_catalog, noise};

const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

struct Setup {
    fake: FakeHub,
    hub: Hub,
    _home: tempfile::TempDir,
}

fn setup(files: &[(&str, &[u8])]) -> Setup {
    let fake = FakeHub::start(files);
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::new(config(&fake.url, home.path()), no_catalog());
    Setup { fake, hub, _home: home }
}

impl Setup {
    fn get(&self, model: &str) -> Vec<std::path::PathBuf> {
        self.hub.resolve(&ModelRef::parse(model).unwrap(), &mut Silent, &CancelFlag::new()).unwrap().files
    }

    fn names(&self) -> Vec<(String, u64)> {
        let mut names: Vec<_> = self.hub.list().into_iter().map(|m| (m.name, m.size)).collect();
        names.sort();
        names
    }

    fn remove(&self, model: &str) -> Result<u64, HubError> {
        self.hub.remove(&ModelRef::parse(model).unwrap())
    }
}

#[test]
fn lists_under_names_that_resolve() {
    let s =
        setup(&[("a-Q4_K_M.gguf", b"aaaa"), ("b-F16.gguf", b"bb"), ("c-F16.gguf", b"c"), ("d.gguf", b"d")]);
    for file in ["a-Q4_K_M.gguf", "b-F16.gguf", "c-F16.gguf", "d.gguf"] {
        s.get(&format!("user/repo/{file}"));
    }
    let asked = s.fake.count("");
    let listed = s.names();
    let want = [
        ("user/repo/b-F16.gguf", 2),
        ("user/repo/c-F16.gguf", 1),
        ("user/repo/d.gguf", 1),
        ("user/repo:Q4_K_M", 4),
    ];
    assert_eq!(listed, want.map(|(n, s)| (n.to_owned(), s)));
    for (name, size) in listed {
        let files = s.get(&name);
        assert_eq!(fs::metadata(&files[0]).unwrap().len(), size, "{name}");
    }
    assert_eq!(s.fake.count(""), asked, "all of it from the cache");
}

#[test]
fn removes_what_is_named_and_counts_the_bytes() {
    let s = setup(&[("m-Q4_K_M.gguf", b"four"), ("m-Q8_0.gguf", b"eight")]);
    s.get("user/repo:Q4_K_M");
    let files = s.get("user/repo:Q8_0");
    let root = files[0].ancestors().nth(3).unwrap().to_owned();
    assert_eq!(s.remove("user/repo:q8_0").unwrap(), 5);
    assert_eq!(s.names(), [("user/repo:Q4_K_M".to_owned(), 4)]);
    assert!(matches!(s.remove("user/repo:Q8_0"), Err(HubError::NotCached { .. })));
    // What Python left beside it stays, and with it the folder.
    let config_json = root.join("snapshots").join(COMMIT).join("config.json");
    fs::write(&config_json, "{}").unwrap();
    fs::write(root.join("blobs/ff.incomplete"), "xy").unwrap();
    assert_eq!(s.remove("user/repo").unwrap(), 4 + 2);
    assert!(config_json.exists() && s.names().is_empty());
    fs::remove_file(&config_json).unwrap();

    s.get("user/repo:Q8_0");
    s.remove("user/repo").unwrap();
    assert!(!root.exists());
    let local = s.hub.remove(&ModelRef::Local("x.gguf".into()));
    assert!(matches!(local, Err(HubError::NotInCache { .. })));
}

#[test]
fn pull_follows_the_branch_and_a_shared_blob_outlives_one_revision() {
    let s = setup(&[("m-Q4_K_M.gguf", b"same"), ("n-Q8_0.gguf", b"old")]);
    s.get("user/repo:Q4_K_M");
    s.get("user/repo:Q8_0");
    s.fake.commit(SECOND, &[("m-Q4_K_M.gguf", b"same"), ("n-Q8_0.gguf", b"newer")]);
    assert_eq!(fs::read(&s.get("user/repo:Q8_0")[0]).unwrap(), b"old", "resolve keeps to the cache");
    let pull =
        |model: &str| s.hub.pull(&ModelRef::parse(model).unwrap(), &mut Silent, &CancelFlag::new()).unwrap();
    let new = pull("user/repo:Q8_0");
    assert_eq!(fs::read(&new.files[0]).unwrap(), b"newer");
    assert_eq!(new.origin, Origin::Hub { repo: "user/repo".into(), commit: SECOND.into() });
    let downloads = s.fake.count("resolve");
    assert_eq!(pull("user/repo:Q4_K_M").origin, Origin::Cache, "the same content is not fetched again");
    assert_eq!(s.fake.count("resolve"), downloads);

    let old = format!("user/repo:Q4_K_M@{COMMIT}");
    assert!(s.names().iter().any(|(n, _)| *n == old), "{:?}", s.names());
    assert_eq!(s.remove(&old).unwrap(), 0, "its blob is still in use");
    assert!(!s.names().iter().any(|(n, _)| *n == old));
    assert_eq!(fs::read(&s.get("user/repo:Q4_K_M")[0]).unwrap(), b"same");
}

#[test]
fn verify_finds_a_damaged_file() {
    let bytes = noise(10_000, 3);
    let s = setup(&[("m-Q4_K_M.gguf", &bytes)]);
    let model = ModelRef::parse("user/repo").unwrap();
    let verify = || s.hub.verify(&model, &mut Silent, &CancelFlag::new());
    assert!(matches!(verify(), Err(HubError::NotCached { .. })));
    let files = s.get("user/repo");
    let good = verify().unwrap();
    assert!(good.len() == 1 && good[0].known && good[0].path == files[0]);
    let mut bad = bytes.clone();
    bad[1] ^= 1;
    fs::write(&files[0], bad).unwrap();
    assert!(matches!(verify(), Err(HubError::Hash { discarded: false, .. })));
}

#[test]
fn local_paths_are_looked_at() {
    let s = setup(&[]);
    let resolve = |path: &str| s.hub.resolve(&ModelRef::Local(path.into()), &mut Silent, &CancelFlag::new());
    assert!(matches!(resolve("./none.gguf"), Err(HubError::LocalNotFound { .. })));
    assert!(resolve("src").unwrap_err().to_string().contains("folder"));
    assert_eq!(resolve("./Cargo.toml").unwrap().origin, Origin::Local);
}
