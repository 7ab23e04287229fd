//! A hub on this machine's loopback that fails on command.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinfer_load::hub::{
    CancelFlag, Catalog, Hub, HubConfig, HubError, ModelRef, Patience, ResolvedModel, Silent,
};
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one request.
#[derive(Clone)]
pub enum Fault {
    /// A status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection closes after so many bytes of the body.
    Cut(usize),
    /// Silence after so many bytes of the body.
    Stall(usize),
    /// The whole file although a part was asked for.
    IgnoreRange,
    /// Another body, its length declared.
    Body(Vec<u8>),
    /// Another body, its end shown by closing the connection.
    Unsized(Vec<u8>),
}

pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    commit: String,
    files: Vec<(String, Vec<u8>)>,
    /// Paths containing the text fail this way, once each, in order.
    faults: Vec<(String, Fault)>,
    log: Vec<Request>,
    slow: bool,
}

/// Serves the repository `user/repo` until dropped with the test process.
#[derive(Clone)]
pub struct FakeHub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { commit: COMMIT.into(), files, ..State::default() }));
        let hub = Self { url, state };
        let served = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = served.clone();
                // A client that goes away is part of the tests.
                std::thread::spawn(move || drop(hub.answer(stream)));
            }
        });
        hub
    }

    /// The next request whose path contains `path` and that no earlier fault takes fails this way.
    pub fn fail(&self, path: &str, fault: Fault) -> &Self {
        self.state.lock().unwrap().faults.push((path.into(), fault));
        self
    }

    pub fn fail_status(&self, path: &str, status: u16, code: &str) -> &Self {
        self.fail(path, Fault::Status(status, vec![("X-Error-Code", code.into())]))
    }

    /// Bodies trickle from now on.
    pub fn slow(&self) {
        self.state.lock().unwrap().slow = true;
    }

    /// The repository moves on to another commit with other files.
    pub fn commit(&self, commit: &str, files: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap();
        state.commit = commit.into();
        state.files = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
    }

    /// Of every request so far whose path contains `part`, one header (empty where absent).
    pub fn seen(&self, part: &str, header: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let hits = state.log.iter().filter(|r| r.path.contains(part));
        hits.map(|r| r.headers.get(header).cloned().unwrap_or_default()).collect()
    }

    pub fn count(&self, part: &str) -> usize {
        self.seen(part, "").len()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or("").to_owned();
        let mut headers = HashMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let range = headers.get("range").cloned();
        let (fault, slow, found) = {
            let mut state = self.state.lock().unwrap();
            state.log.push(Request { path: path.clone(), headers });
            let fault = state.faults.iter().position(|(part, _)| path.contains(part.as_str()));
            let fault = fault.map(|i| state.faults.remove(i).1);
            (fault, state.slow, state.find(&path))
        };
        let Some(body) = found else {
            return send(stream, 404, &[("X-Error-Code", code_for(&path).into())], b"", false);
        };
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match (fault, from) {
            (Some(Fault::Status(status, headers)), _) => send(stream, status, &headers, b"{}", slow),
            (Some(Fault::Body(body)), _) => send(stream, 200, &[], &body, slow),
            (Some(Fault::Unsized(body)), _) => {
                write!(&stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                (&stream).write_all(&body)
            }
            (Some(Fault::Cut(n)), from) => send_part(&stream, &body, from.unwrap_or(0), n),
            (Some(Fault::Stall(n)), from) => {
                send_part(&stream, &body, from.unwrap_or(0), n)?;
                std::thread::sleep(Duration::from_secs(30));
                Ok(())
            }
            (None, Some(from)) if from >= body.len() => send(stream, 416, &[], b"", false),
            (None, Some(from)) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                send(stream, 206, &[("Content-Range", range)], &body[from..], slow)
            }
            (Some(Fault::IgnoreRange) | None, _) => send(stream, 200, &[], &body, slow),
        }
    }
}

impl State {
    fn find(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.split('?').next()?;
        let known = ["main", "dev", &self.commit];
        if let Some(revision) = path.strip_prefix("/api/models/user/repo/revision/") {
            return known.contains(&revision).then(|| self.listing().into_bytes());
        }
        let name = match path.strip_prefix("/user/repo/resolve/") {
            Some(rest) => rest.strip_prefix(&self.commit)?.strip_prefix('/')?,
            None => path.strip_prefix("/elsewhere/")?,
        };
        self.files.iter().find(|(n, _)| n == name).map(|(_, b)| b.clone())
    }

    fn listing(&self) -> String {
        let files = self.files.iter().map(|(name, bytes)| {
            let (sha, size) = (sha256(bytes), bytes.len());
            serde_json::json!({"rfilename": name, "size": size, "blobId": "ab12",
                "lfs": {"sha256": sha, "size": size, "pointerSize": 134}})
        });
        serde_json::json!({"sha": self.commit, "siblings": files.collect::<Vec<_>>()}).to_string()
    }
}

fn code_for(path: &str) -> &'static str {
    match (path.contains("/api/models/user/repo/"), path.contains("/resolve/")) {
        (true, _) => "RevisionNotFound",
        (_, true) => "EntryNotFound",
        _ => "RepoNotFound",
    }
}

fn send(
    mut stream: TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    slow: bool,
) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len())?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    for chunk in body.chunks(16 << 10) {
        stream.write_all(chunk)?;
        if slow {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// A proper header, then only `n` bytes from `from` on.
fn send_part(mut stream: &TcpStream, body: &[u8], from: usize, n: usize) -> std::io::Result<()> {
    let (status, rest) = (if from > 0 { 206 } else { 200 }, &body[from..]);
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", rest.len())?;
    if from > 0 {
        write!(stream, "Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len())?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&rest[..n.min(rest.len())])
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// `n` bytes that differ from place to place.
pub fn noise(n: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    (0..n).map(|_| (x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223), (x >> 24) as u8).1).collect()
}

/// Settings that point to the fake hub and a folder of the test, and lose patience soon.
pub fn config(url: &str, home: &Path) -> HubConfig {
    let vars = [("HF_ENDPOINT", url), ("XDG_CACHE_HOME", home.to_str().unwrap())];
    let get = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into());
    let mut config = HubConfig::from_lookup(get, None);
    config.patience = Patience {
        connect: Duration::from_secs(2),
        stall: Duration::from_secs(1),
        tries: 3,
        backoff: Duration::from_millis(10),
        longest_wait: Duration::from_secs(5),
    };
    config.pip = Vec::new();
    config
}

pub fn no_catalog() -> Catalog {
    Catalog { default: String::new(), models: Vec::new() }
}

pub fn resolve(config: &HubConfig, model: &str) -> Result<ResolvedModel, HubError> {
    let hub = Hub::new(config.clone(), no_catalog());
    hub.resolve(&ModelRef::parse(model).unwrap(), &mut Silent, &CancelFlag::new())
}
