//! Ctrl+C while a model is fetched.
#![cfg(unix)]

mod common;

use common::{Run, World};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

const SIZE: usize = 4_000_000;
const SENT: usize = 1_500_000;

/// A hub with one file, of which it sends a part and then falls silent. Gives its address.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The client goes away: that is the test.
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
    url
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
    if request.contains("/api/models/") {
        let commit = "0".repeat(40);
        let listing =
            serde_json::json!({"sha": commit, "siblings": [{"rfilename": "model-Q8_0.gguf", "size": SIZE,
            "blobId": "ab", "lfs": {"sha256": "1".repeat(64), "size": SIZE, "pointerSize": 134}}]})
            .to_string();
        return write!(stream, "{head} {}\r\n\r\n{listing}", listing.len());
    }
    write!(stream, "{head} {SIZE}\r\n\r\n")?;
    stream.write_all(&vec![7; SENT])?;
    // Until the client hangs up.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Bytes of the file that is being fetched.
fn fetched(cache: &Path) -> u64 {
    let blobs = cache.join("huggingface/hub/models--user--repo/blobs");
    let Ok(files) = std::fs::read_dir(blobs) else { return 0 };
    let unfinished = files.flatten().find(|f| f.path().extension().is_some_and(|e| e == "incomplete"));
    unfinished.and_then(|f| f.metadata().ok()).map_or(0, |m| m.len())
}

#[test]
fn a_download_stops_at_once_and_keeps_what_it_has() {
    let url = hub();
    for args in [&["pull", "user/repo"][..], &["run", "user/repo", "hi"], &["tokenize", "user/repo", "hi"]] {
        let world = World::new();
        let cache = world.home.path().join("cache");
        let mut command = world.kinfer();
        command.args(args).env("HF_ENDPOINT", &url).env("XDG_CACHE_HOME", &cache);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = std::time::Instant::now();
        while fetched(&cache) < SENT as u64 {
            assert!(start.elapsed().as_secs() < 60, "{args:?}: {} bytes came", fetched(&cache));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""), "{args:?}: {run:?}");
        assert!(run.stderr.contains("the same command goes on from there"), "{args:?}: {run:?}");
        assert!(!run.stderr.contains("error"), "{args:?}: {run:?}");
        assert_eq!(fetched(&cache), SENT as u64, "{args:?}");
    }
}
