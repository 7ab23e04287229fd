//! The hub client against a hub on the loopback that fails in every way the real one does.

mod fake;
mod sources;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fake::{COMMIT, FakeHub, Fault, config, no_catalog, noise, resolve, sha256};
use kinfer_load::hub::{CancelFlag, Event, Hub, HubConfig, HubError, ModelRef, Origin, Silent};

const FILE: &str = "m-Q4_K_M.gguf";

/// A hub with one file, settings for it, and the folder behind them.
fn one_file(size: usize) -> (FakeHub, HubConfig, Vec<u8>, tempfile::TempDir) {
    let bytes = noise(size, 7);
    let hub = FakeHub::start(&[(FILE, &bytes), ("README.md", b"hello")]);
    let home = tempfile::tempdir().unwrap();
    let config = config(&hub.url, home.path());
    (hub, config, bytes, home)
}

fn repo_folder(config: &HubConfig) -> PathBuf {
    config.hub_cache.join("models--user--repo")
}

fn partial(config: &HubConfig, bytes: &[u8]) -> PathBuf {
    repo_folder(config).join("blobs").join(format!("{}.incomplete", sha256(bytes)))
}

fn leave_partial(config: &HubConfig, bytes: &[u8], content: &[u8]) {
    let path = partial(config, bytes);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The file came whole and nothing unfinished was left.
fn assert_whole(config: &HubConfig, bytes: &[u8]) {
    let path = repo_folder(config).join("snapshots").join(COMMIT).join(FILE);
    assert!(fs::read(path).unwrap() == bytes);
    assert!(!partial(config, bytes).exists());
}

#[test]
fn downloads_into_the_layout_of_the_python_tools() {
    let bytes = noise(300_000, 1);
    let hub = FakeHub::start(&[("sub/m-Q8_0.gguf", &bytes)]);
    let home = tempfile::tempdir().unwrap();
    let config = config(&hub.url, home.path());
    let got = resolve(&config, "user/repo").unwrap();
    assert_eq!(got.origin, Origin::Hub { repo: "user/repo".into(), commit: COMMIT.into() });

    let repo = repo_folder(&config);
    let link = repo.join("snapshots").join(COMMIT).join("sub/m-Q8_0.gguf");
    assert_eq!(got.files, [link.as_path()]);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../../blobs").join(sha256(&bytes)));
    assert!(fs::read(repo.join("blobs").join(sha256(&bytes))).unwrap() == bytes);
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(
        config.hub_cache.join(".locks/models--user--repo").join(format!("{}.lock", sha256(&bytes))).exists()
    );
}

#[test]
fn a_repository_of_safetensors_comes_with_what_belongs_to_it() {
    let weights = noise(3000, 3);
    let hub = FakeHub::start(&[
        ("config.json", b"{}"),
        ("README.md", b"hello"),
        ("model.safetensors", &weights),
        ("original/consolidated.safetensors", b"other"),
        ("tokenizer.json", b"{}"),
    ]);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(&hub.url, home.path());
    let names = |files: &[PathBuf]| -> Vec<String> {
        files.iter().map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let want = ["model.safetensors", "config.json", "tokenizer.json"];
    let got = resolve(&config, "user/repo").unwrap();
    assert_eq!(names(&got.files), want);
    assert!(fs::read(&got.files[0]).unwrap() == weights);
    config.offline = true;
    let again = resolve(&config, "user/repo").unwrap();
    assert_eq!((names(&again.files), again.origin), (want.map(String::from).to_vec(), Origin::Cache));
    let error = resolve(&config, "user/repo:Q4_K_M").unwrap_err().to_string();
    assert!(error.contains("user/repo"), "{error}");
}

#[test]
fn what_is_cached_needs_no_request() {
    let (hub, config, bytes, _home) = one_file(1000);
    resolve(&config, "user/repo").unwrap();
    let before = hub.count("");
    for model in ["user/repo", "user/repo:q4_k_m", "user/repo/m-Q4_K_M.gguf"] {
        assert_eq!(resolve(&config, model).unwrap().origin, Origin::Cache, "{model}");
    }
    assert_eq!(hub.count(""), before);
    assert_whole(&config, &bytes);
}

#[test]
fn goes_on_where_the_connection_was_cut() {
    let (hub, config, bytes, _home) = one_file(400_000);
    hub.fail("resolve", Fault::Cut(150_000)).fail("resolve", Fault::Cut(100_000));
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!(hub.seen("resolve", "range"), ["", "bytes=150000-", "bytes=250000-"]);
}

#[test]
fn gives_up_keeping_what_it_has_and_goes_on_in_the_next_call() {
    let (hub, mut config, bytes, _home) = one_file(400_000);
    config.patience.tries = 1;
    hub.fail("resolve", Fault::Cut(150_000));
    match resolve(&config, "user/repo") {
        Err(HubError::Interrupted { done: 150_000, total: 400_000, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::metadata(partial(&config, &bytes)).unwrap().len(), 150_000);
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!(hub.seen("resolve", "range"), ["", "bytes=150000-"]);
}

#[test]
fn a_partial_file_is_used_only_as_far_as_it_is_right() {
    let (_, _, bytes, _) = one_file(400_000);
    let damaged: Vec<u8> = bytes[..1000].iter().map(|b| !b).collect();
    let longer: Vec<u8> = [&bytes[..], b"more"].concat();
    // what is there, and the ranges asked for
    let cases: [(&[u8], &[&str]); 4] = [
        (&bytes[..123_456], &["bytes=123456-"]),
        (&bytes, &[]),
        (&damaged, &["bytes=1000-", ""]),
        (&longer, &[""]),
    ];
    for (content, ranges) in cases {
        let (hub, config, bytes, _home) = one_file(400_000);
        leave_partial(&config, &bytes, content);
        resolve(&config, "user/repo").unwrap();
        assert_whole(&config, &bytes);
        assert_eq!(hub.seen("resolve", "range"), ranges, "{} bytes there", content.len());
    }
}

#[test]
fn starts_over_where_the_server_cannot_resume() {
    for fault in [Fault::IgnoreRange, Fault::Status(416, vec![])] {
        let (hub, config, bytes, _home) = one_file(50_000);
        leave_partial(&config, &bytes, &bytes[..20_000]);
        hub.fail("resolve", fault);
        resolve(&config, "user/repo").unwrap();
        assert_whole(&config, &bytes);
    }
}

#[test]
fn refusals_say_what_to_do() {
    let gated = |e: &HubError| matches!(e, HubError::Gated { .. });
    let hidden = |e: &HubError| matches!(e, HubError::RepoNotFound { .. });
    let token = |e: &HubError| matches!(e, HubError::BadToken { .. });
    type Case = (&'static str, u16, &'static str, bool, fn(&HubError) -> bool, &'static str);
    let cases: [Case; 6] = [
        ("api", 401, "", false, hidden, "HF_TOKEN"),
        ("api", 401, "RepoNotFound", true, hidden, "your token gives no access"),
        ("api", 401, "", true, token, "refused the token"),
        ("resolve", 401, "GatedRepo", false, gated, "set HF_TOKEN to a token of that account"),
        ("resolve", 403, "GatedRepo", true, gated, "accept its terms at http"),
        ("resolve", 403, "", true, gated, "accept its terms at http"),
    ];
    for (path, status, code, has_token, kind, text) in cases {
        let (hub, mut config, bytes, _home) = one_file(1000);
        config.token = has_token.then(|| "hf_secret".into());
        hub.fail_status(path, status, code);
        let e = resolve(&config, "user/repo").unwrap_err();
        assert!(kind(&e), "{status} {code}: {e:?}");
        assert!(e.to_string().contains(text) && !e.to_string().contains("hf_secret"), "{e}");
        assert_eq!(hub.count(path), 1, "a refusal is not tried again");
        assert!(!partial(&config, &bytes).exists());
    }
}

#[test]
fn what_is_not_there_is_named() {
    let (hub, config, _, _home) = one_file(1000);
    let e = resolve(&config, "user/other").unwrap_err();
    assert!(matches!(&e, HubError::RepoNotFound { repo, .. } if repo == "user/other"), "{e:?}");
    let e = resolve(&config, "user/repo@v9").unwrap_err();
    assert!(matches!(&e, HubError::RevisionNotFound { revision, .. } if revision == "v9"), "{e:?}");
    let e = resolve(&config, "user/repo/none.gguf").unwrap_err();
    assert!(e.to_string().contains("none.gguf") && e.to_string().contains(FILE), "{e}");
    hub.fail_status("resolve", 404, "EntryNotFound");
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::FileNotFound { .. }), "{e:?}");
}

#[test]
fn waits_as_long_as_the_server_asks() {
    let (hub, config, bytes, _home) = one_file(1000);
    let wait = |seconds: &str| Fault::Status(429, vec![("Retry-After", seconds.into())]);
    hub.fail("api", wait("1"));
    let start = Instant::now();
    resolve(&config, "user/repo").unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_whole(&config, &bytes);

    let (hub, config, _, _home) = one_file(1000);
    hub.fail("resolve", wait("3600"));
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::RateLimited { wait, .. } if wait.as_secs() == 3600), "{e:?}");
}

#[test]
fn server_errors_are_tried_again_a_few_times() {
    let (hub, config, bytes, _home) = one_file(1000);
    let broken = || Fault::Status(500, vec![]);
    hub.fail("api", broken()).fail("resolve", broken()).fail("resolve", broken());
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!((hub.count("api"), hub.count("resolve")), (2, 3));

    let (hub, config, _, _home) = one_file(1000);
    for _ in 0..9 {
        hub.fail("api", broken());
    }
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::Status { status: 500, .. }), "{e:?}");
    assert_eq!(hub.count("api"), 3);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (hub, mut config, bytes, _home) = one_file(1000);
    let other = FakeHub::start(&[(FILE, &bytes)]);
    config.token = Some("hf_secret".into());
    let to = |location: String| Fault::Status(302, vec![("Location", location)]);
    hub.fail("api", to(format!("/api/models/user/repo/revision/{COMMIT}?blobs=true")));
    hub.fail("resolve", to(format!("{}/elsewhere/{FILE}?signature=x", other.url)));
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!(hub.seen("", "authorization"), ["Bearer hf_secret"; 3]);
    assert_eq!(other.seen("/elsewhere/", "authorization"), [""]);
}

#[test]
fn endless_redirects_end() {
    let (hub, config, _, _home) = one_file(1000);
    let to_itself = || Fault::Status(302, vec![("Location", "/api/models/user/repo/revision/main".into())]);
    for _ in 0..20 {
        hub.fail("api", to_itself());
    }
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(e.to_string().contains("redirects"), "{e}");
}

#[test]
fn wrong_content_never_gets_a_name() {
    let (hub, config, bytes, _home) = one_file(10_000);
    let mut wrong = bytes.clone();
    wrong[5000] ^= 1;
    hub.fail("resolve", Fault::Body(wrong));
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(&e, HubError::Hash { expected, .. } if *expected == sha256(&bytes)), "{e:?}");
    let blobs = repo_folder(&config).join("blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
}

#[test]
fn wrong_lengths_are_found() {
    let longer = |bytes: &[u8]| [bytes, b"!"].concat();
    type Make = fn(Vec<u8>) -> Fault;
    for (make, got) in
        [(Fault::Body as Make, 10_001), (Fault::Unsized as Make, 10_001), (Fault::Body as Make, 9_999)]
    {
        let (hub, config, bytes, _home) = one_file(10_000);
        let body = if got > 10_000 { longer(&bytes) } else { bytes[..got].to_vec() };
        hub.fail("resolve", make(body));
        let e = resolve(&config, "user/repo").unwrap_err();
        let want = matches!(e, HubError::Size { expected: 10_000, got: g, .. } if g == got as u64);
        assert!(want, "{got}: {e:?}");
    }
    // Too short without a declared length looks like a cut, and is mended like one.
    let (hub, config, bytes, _home) = one_file(10_000);
    hub.fail("resolve", Fault::Unsized(bytes[..4_000].to_vec()));
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!(hub.seen("resolve", "range"), ["", "bytes=4000-"]);
}

#[test]
fn a_full_disk_is_known_before_the_download() {
    let (hub, mut config, bytes, _home) = one_file(10_000);
    config.free_space = |_| Ok(7_999);
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::DiskFull { needed: 10_000, available: 7_999, .. }), "{e:?}");
    assert_eq!(hub.count("resolve"), 0);
    // What is there already needs no room.
    leave_partial(&config, &bytes, &bytes[..3_000]);
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
}

#[test]
fn offline_asks_nobody() {
    let (hub, mut config, _, _home) = one_file(1000);
    config.offline = true;
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::Offline { .. }), "{e:?}");
    assert_eq!(hub.count(""), 0);
    config.offline = false;
    resolve(&config, "user/repo").unwrap();
    let asked = hub.count("");
    config.offline = true;
    assert_eq!(resolve(&config, "user/repo").unwrap().origin, Origin::Cache);
    let e = resolve(&config, "user/repo:Q8_0").unwrap_err();
    assert!(matches!(e, HubError::Offline { .. }), "{e:?}");
    assert_eq!(hub.count(""), asked);
}

#[test]
fn an_unreachable_hub_fails_at_once_unless_the_cache_will_do() {
    let (hub, config, _, home) = one_file(1000);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = fake::config(&format!("http://{port}"), home.path());
    let start = Instant::now();
    let e = resolve(&gone, "user/repo").unwrap_err();
    assert!(matches!(&e, HubError::Unreachable { host, .. } if *host == port.to_string()), "{e:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "a refused connection is not tried again");

    hub.commit(COMMIT, &[("m-Q8_0.gguf", b"model")]);
    resolve(&config, "user/repo").unwrap();
    assert_eq!(resolve(&gone, "user/repo").unwrap().origin, Origin::Cache);
    assert!(matches!(resolve(&gone, "user/repo:F16"), Err(HubError::Unreachable { .. })));
}

#[test]
fn a_silent_server_is_given_up_and_asked_again() {
    let (hub, config, bytes, _home) = one_file(100_000);
    hub.fail("resolve", Fault::Stall(60_000));
    resolve(&config, "user/repo").unwrap();
    assert_whole(&config, &bytes);
    assert_eq!(hub.seen("resolve", "range"), ["", "bytes=60000-"]);
}

#[test]
fn cancelling_ends_even_a_silent_download() {
    let (hub, mut config, bytes, _home) = one_file(100_000);
    config.patience.stall = Duration::from_secs(25);
    hub.fail("resolve", Fault::Stall(60_000));
    let cancel = CancelFlag::new();
    let seen = cancel.clone();
    let mut notes = Vec::new();
    let mut progress = |event: Event<'_>| {
        if let Event::Note(text) = event {
            notes.push(text.to_owned());
        }
        if matches!(event, Event::Advance { done: 60_000, .. }) {
            // Later, so that the download is waiting for bytes by then.
            let cancel = seen.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                cancel.cancel();
            });
        }
    };
    let start = Instant::now();
    let model = ModelRef::parse("user/repo").unwrap();
    let got = Hub::new(config.clone(), no_catalog()).resolve(&model, &mut progress, &cancel);
    assert!(matches!(got, Err(HubError::Cancelled)), "{got:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(notes.iter().any(|note| note.contains("goes on from there")), "{notes:?}");
    assert_eq!(fs::metadata(partial(&config, &bytes)).unwrap().len(), 60_000);
}

#[test]
fn progress_tells_file_bytes_and_end() {
    let (hub, config, bytes, _home) = one_file(500_000);
    leave_partial(&config, &bytes, &bytes[..100_000]);
    hub.fail("resolve", Fault::Cut(100_000));
    let mut events = Vec::new();
    let mut progress = |event: Event<'_>| {
        events.push(match event {
            Event::Note(_) => "note".to_owned(),
            Event::Start { file, done, total } => format!("start {file} {done}/{total}"),
            Event::Advance { done, .. } => format!("{done}"),
            Event::Finish { file } => format!("finish {file}"),
        });
    };
    let model = ModelRef::parse("user/repo").unwrap();
    Hub::new(config, no_catalog()).resolve(&model, &mut progress, &CancelFlag::new()).unwrap();
    let has = |text: &str| events.iter().any(|e| e == text);
    assert!(has(&format!("start {FILE} 100000/500000")) && has("note") && has("200000"), "{events:?}");
    assert_eq!(&events[events.len() - 2..], ["500000".to_owned(), format!("finish {FILE}")]);
}

#[test]
fn a_listing_cannot_lead_out_of_the_cache() {
    let (hub, config, _, home) = one_file(1000);
    hub.commit(COMMIT, &[("../../../../evil.gguf", b"x")]);
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::Protocol { .. }), "{e:?}");
    assert!(!home.path().join("evil.gguf").exists());
    hub.commit("../evil", &[(FILE, b"x")]);
    assert!(matches!(resolve(&config, "user/repo"), Err(HubError::Protocol { .. })));
}

#[test]
fn the_choice_of_quantization() {
    let (hub, config, _, _home) = one_file(10);
    let files: [(&str, &[u8]); 4] = [
        ("m-Q8_0.gguf", b"eight"),
        ("m-F16.gguf", b"sixteen"),
        ("mmproj-F16.gguf", b"p"),
        ("m.imatrix.gguf", b"i"),
    ];
    hub.commit(COMMIT, &files);
    let name = |model: &str| {
        let got = resolve(&config, model).unwrap();
        got.files[0].file_name().unwrap().to_str().unwrap().to_owned()
    };
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(&e, HubError::Ambiguous { choices, .. } if choices.len() == 2), "{e:?}");
    assert!(e.to_string().contains("Q8_0") && e.to_string().contains("7 B  m-F16.gguf"), "{e}");
    assert_eq!(name("user/repo:q8_0"), "m-Q8_0.gguf");
    assert_eq!(name("hf.co/user/repo:f16"), "m-F16.gguf");
    assert_eq!(name("user/repo/mmproj-F16.gguf"), "mmproj-F16.gguf");
    let e = resolve(&config, "user/repo:Q2_K").unwrap_err();
    assert!(matches!(&e, HubError::QuantNotFound { quant, .. } if quant == "Q2_K"), "{e:?}");
    // A quantization in the cache does not decide what an open question means.
    assert!(matches!(resolve(&config, "user/repo"), Err(HubError::Ambiguous { .. })));

    hub.commit(COMMIT, &[("README.md", b"x"), ("mmproj-F16.gguf", b"p")]);
    assert!(matches!(resolve(&config, "user/repo@dev"), Err(HubError::NoGguf { .. })));
}

#[test]
fn all_parts_of_a_split_model_come() {
    let (hub, config, _, _home) = one_file(10);
    let parts = [
        "q/m-Q4_K_M-00001-of-00003.gguf",
        "q/m-Q4_K_M-00002-of-00003.gguf",
        "q/m-Q4_K_M-00003-of-00003.gguf",
    ];
    let files: Vec<(&str, &[u8])> = parts.iter().map(|p| (*p, p.as_bytes())).collect();
    hub.commit(COMMIT, &files[..2]);
    let e = resolve(&config, "user/repo").unwrap_err();
    assert!(matches!(e, HubError::MissingParts { found: 2, expected: 3, .. }), "{e:?}");
    hub.commit(COMMIT, &files);
    let got = resolve(&config, &format!("user/repo/{}", parts[1])).unwrap();
    let names: Vec<_> = got.files.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    assert_eq!(names, parts);
    // Also from a local path, whichever part it names.
    let local = ModelRef::Local(got.files[2].clone());
    let hub = Hub::new(config, no_catalog());
    let again = hub.resolve(&local, &mut Silent, &CancelFlag::new()).unwrap();
    assert_eq!((again.files, again.origin), (got.files.clone(), Origin::Local));
    fs::remove_file(&got.files[0]).unwrap();
    let e = hub.resolve(&local, &mut Silent, &CancelFlag::new()).unwrap_err();
    assert!(matches!(e, HubError::MissingParts { found: 2, expected: 3, .. }), "{e:?}");
}

/// The test runs itself as two further processes, which the variable tells what to do.
#[test]
fn two_processes_download_once() {
    const CHILD: &str = "KINFER_HUB_TEST_CHILD";
    let model = ModelRef::parse("user/repo").unwrap();
    if std::env::var_os(CHILD).is_some() {
        let hub = Hub::new(HubConfig::from_env(), no_catalog());
        hub.resolve(&model, &mut Silent, &CancelFlag::new()).unwrap();
        return;
    }
    let (hub, config, bytes, home) = one_file(600_000);
    hub.slow();
    let children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "two_processes_download_once"])
                .env(CHILD, "1")
                .env("HF_ENDPOINT", &hub.url)
                .env("HF_HUB_CACHE", &config.hub_cache)
                .env("HF_HOME", home.path())
                .env_remove("HF_HUB_OFFLINE")
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!((hub.count("api"), hub.count("resolve")), (2, 1));
    assert_whole(&config, &bytes);
}
