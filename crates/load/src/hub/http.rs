//! HTTP as a hub needs it: redirects that do not leak the token, waits that can be cancelled,
//! failures sorted by what helps against them.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy, Timeout};

use super::HubError;
use super::config::{HubConfig, Patience};
use super::progress::{CancelFlag, Event, POLL, Progress};

/// As many as browsers follow, near enough; the hub needs two.
const MAX_REDIRECTS: usize = 10;

/// A client for one operation.
pub(crate) struct Http<'a> {
    agent: Agent,
    endpoint: Uri,
    token: Option<&'a str>,
    pub patience: Patience,
    pub cancel: &'a CancelFlag,
}

/// An answer with a status of success.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    /// The address after redirects, without its query (which may hold a signature).
    pub url: String,
}

/// A request that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection; asking again at once would not help.
    Unreachable { host: String, reason: String },
    /// The connection broke; asking again may help.
    Broken(String),
    /// A status that is no success.
    Status(StatusFailure),
    /// Nothing that the network could cure.
    Fatal(HubError),
}

#[derive(Debug)]
pub(crate) struct StatusFailure {
    pub status: u16,
    pub url: String,
    /// The hub's `X-Error-Code`, such as `GatedRepo`.
    pub code: String,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl<'a> Http<'a> {
    /// Runs `work` with a client whose open connections are shut as soon as `cancel` is set.
    pub fn scope<T>(
        config: &'a HubConfig,
        cancel: &'a CancelFlag,
        work: impl FnOnce(&Http<'a>) -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        cancel.check()?;
        let bad = |reason: String| HubError::Protocol { url: config.endpoint.clone(), reason };
        let endpoint: Uri = config.endpoint.parse().map_err(|e| bad(format!("HF_ENDPOINT: {e}")))?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) || endpoint.host().is_none() {
            return Err(bad("HF_ENDPOINT must be an http:// or https:// address".into()));
        }
        let agent = agent(config, &endpoint);
        let http = Http {
            agent: agent.clone(),
            endpoint,
            token: config.token.as_deref(),
            patience: config.patience,
            cancel,
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if cancel.is_cancelled() {
                        return agent.shutdown();
                    }
                    std::thread::park_timeout(POLL);
                }
            });
            let result = {
                let _end = End { done: &done, watcher: watcher.thread() };
                work(&http)
            };
            if cancel.is_cancelled() && result.is_err() { Err(HubError::Cancelled) } else { result }
        })
    }

    /// One GET. `from` asks for the bytes from there on.
    pub fn get(&self, url: &str, from: Option<u64>) -> Result<Answer, Failure> {
        let mut uri: Uri = url.parse().map_err(|e| fatal(url, format!("not an address: {e}")))?;
        for _ in 0..=MAX_REDIRECTS {
            self.cancel.check().map_err(Failure::Fatal)?;
            let mut request = self.agent.get(uri.clone()).header("Accept-Encoding", "identity");
            if let Some(from) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let (Some(token), true) = (self.token, same_origin(&uri, &self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|e| self.sort(&uri, e))?;
            let status = answer.status().as_u16();
            match status {
                200..=299 => {
                    let (parts, body) = answer.into_parts();
                    return Ok(Answer { status, headers: parts.headers, body, url: without_query(&uri) });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = header(answer.headers(), "location")
                        .ok_or_else(|| fatal(url, "a redirect without an address".into()))?;
                    uri = follow(&uri, location).map_err(|reason| fatal(url, reason))?;
                }
                _ => return Err(Failure::Status(status_failure(&uri, status, answer))),
            }
        }
        Err(fatal(url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Sorts an error of the client.
    fn sort(&self, uri: &Uri, e: ureq::Error) -> Failure {
        if self.cancel.is_cancelled() {
            return Failure::Fatal(HubError::Cancelled);
        }
        let host = uri.authority().map_or_else(String::new, |a| a.to_string());
        let reason = e.to_string();
        match e {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                let seconds = self.patience.connect.as_secs_f32();
                Failure::Unreachable { host, reason: format!("no connection within {seconds} s") }
            }
            ureq::Error::HostNotFound => Failure::Unreachable { host, reason: "host name not found".into() },
            ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_) => Failure::Unreachable { host, reason },
            ureq::Error::Io(e) => {
                use std::io::ErrorKind as K;
                // Failed look-ups and handshakes come as kinds of their own; these are the ones
                // that a working connection ends with.
                match e.kind() {
                    K::ConnectionReset
                    | K::ConnectionAborted
                    | K::BrokenPipe
                    | K::UnexpectedEof
                    | K::TimedOut => Failure::Broken(e.to_string()),
                    _ => Failure::Unreachable { host, reason: e.to_string() },
                }
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => fatal(&uri.to_string(), reason),
            _ => Failure::Broken(reason),
        }
    }
}

/// Lets the watcher go, also when the caller's progress callback panics.
struct End<'a> {
    done: &'a AtomicBool,
    watcher: &'a Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}

/// Counts failures in a row and waits between them.
pub(crate) struct Retry<'a> {
    patience: Patience,
    cancel: &'a CancelFlag,
    failures: u32,
    /// Whether the server was ever reached: if so, that it no longer is may pass.
    reached: bool,
}

impl<'a> Retry<'a> {
    pub fn new(http: &Http<'a>) -> Self {
        Self { patience: http.patience, cancel: http.cancel, failures: 0, reached: false }
    }

    /// Bytes arrived: the count starts anew.
    pub fn progressed(&mut self) {
        self.failures = 0;
        self.reached = true;
    }

    /// Waits before the next try, or gives the failure back when there should be none.
    pub fn wait(&mut self, failure: Failure, progress: &mut dyn Progress) -> Result<(), Failure> {
        let pause = self.patience.backoff * 2u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        self.reached |= !matches!(failure, Failure::Unreachable { .. });
        let (pause, why) = match &failure {
            Failure::Broken(reason) => (pause, reason.clone()),
            Failure::Status(s) if s.status == 429 || (s.status == 503 && s.retry_after.is_some()) => {
                let wait = s.retry_after.unwrap_or(pause);
                if wait > self.patience.longest_wait {
                    let host = host_of(&s.url);
                    return Err(Failure::Fatal(HubError::RateLimited { host, wait }));
                }
                (wait, format!("the server answered {}", s.status))
            }
            Failure::Status(s) if matches!(s.status, 408 | 500 | 502 | 503 | 504) => {
                (pause, format!("the server answered {}", s.status))
            }
            Failure::Unreachable { reason, .. } if self.reached => (pause, reason.clone()),
            _ => return Err(failure),
        };
        if self.failures >= self.patience.tries {
            return Err(failure);
        }
        progress.event(Event::Note(&format!("{why}; trying again in {:.1} s", pause.as_secs_f32())));
        self.cancel.sleep(pause).map_err(Failure::Fatal)
    }
}

impl From<Failure> for HubError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable { host, reason } => Self::Unreachable { host, reason },
            Failure::Broken(reason) => Self::Unreachable { host: "the hub".into(), reason },
            Failure::Status(s) if s.status == 429 => {
                Self::RateLimited { host: host_of(&s.url), wait: s.retry_after.unwrap_or_default() }
            }
            Failure::Status(s) => Self::Status { url: s.url, status: s.status, message: s.message },
            Failure::Fatal(e) => e,
        }
    }
}

pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Escapes one path segment, or with `keep_slash` a whole path.
pub(crate) fn escape(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slash && b == b'/') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn agent(config: &HubConfig, endpoint: &Uri) -> Agent {
    let patience = config.patience;
    // A proxy has no way to this machine's own loopback.
    let loopback = endpoint.host().is_some_and(|h| h == "localhost" || h == "[::1]" || h.starts_with("127."));
    // Reading the certificates takes some milliseconds; a test's plain server needs none.
    let plain = loopback && endpoint.scheme_str() == Some("http");
    let roots = if plain { RootCerts::WebPki } else { root_certs() };
    let builder = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("kinfer/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.stall))
        .timeout_per_read(Some(patience.stall))
        .timeout_per_write(Some(patience.stall))
        .tls_config(TlsConfig::builder().root_certs(roots).build());
    builder.proxy(if loopback { None } else { Proxy::try_from_env() }).build().into()
}

/// The system's certificates, so that a company's own authority counts; Mozilla's where the system
/// has none.
fn root_certs() -> RootCerts {
    let native = rustls_native_certs::load_native_certs().certs;
    if native.is_empty() {
        return RootCerts::WebPki;
    }
    let certs: Vec<_> = native.iter().map(|c| Certificate::from_der(c.as_ref()).to_owned()).collect();
    RootCerts::Specific(Arc::new(certs))
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().or(if u.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    a.scheme_str() == b.scheme_str()
        && port(a) == port(b)
        && a.host().zip(b.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// The address that a `Location` means, seen from `from`.
fn follow(from: &Uri, location: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let to: Uri = absolute.parse().map_err(|e| format!("a redirect to no address: {e}"))?;
    match (scheme, to.scheme_str()) {
        (_, Some("https")) | ("http", Some("http")) => Ok(to),
        _ => Err("a redirect away from https".into()),
    }
}

fn status_failure(uri: &Uri, status: u16, answer: ureq::http::Response<Body>) -> StatusFailure {
    let headers = answer.headers().clone();
    let text = |name| header(&headers, name).unwrap_or_default().to_owned();
    let mut message = text("x-error-message");
    if message.is_empty() {
        // The hub puts a sentence into {"error": …}; whatever else a server sends is not for people.
        let mut body = String::new();
        let read = answer.into_body().into_reader().take(4096).read_to_string(&mut body);
        let json: Option<serde_json::Value> = read.ok().and_then(|_| serde_json::from_str(&body).ok());
        message = json.and_then(|v| v["error"].as_str().map(str::to_owned)).unwrap_or_default();
    }
    let retry_after = header(&headers, "retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs);
    StatusFailure { status, url: without_query(uri), code: text("x-error-code"), message, retry_after }
}

fn fatal(url: &str, reason: String) -> Failure {
    Failure::Fatal(HubError::Protocol { url: url.to_owned(), reason })
}

fn without_query(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or(&text).to_owned()
}

fn host_of(url: &str) -> String {
    url.parse::<Uri>()
        .ok()
        .and_then(|u| u.authority().map(|a| a.to_string()))
        .unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let uri = |s: &str| s.parse::<Uri>().unwrap();
        assert!(same_origin(&uri("https://a.b/x"), &uri("https://A.b:443/y")));
        for other in ["http://a.b/x", "https://a.b:444/x", "https://c.b/x"] {
            assert!(!same_origin(&uri("https://a.b/"), &uri(other)), "{other}");
        }
    }

    #[test]
    fn redirects_resolve() {
        let from: Uri = "https://a.b/c/d?e".parse().unwrap();
        let to = |l: &str| follow(&from, l).map(|u| u.to_string());
        assert_eq!(to("https://x.y/z?q=1").unwrap(), "https://x.y/z?q=1");
        assert_eq!(to("//x.y/z").unwrap(), "https://x.y/z");
        assert_eq!(to("/z").unwrap(), "https://a.b/z");
        assert_eq!(to("z").unwrap(), "https://a.b/c/z");
        assert!(to("http://a.b/z").unwrap_err().contains("https"));
        assert!(to("ftp://a.b/z").is_err());
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escape("a b/한.gguf", true), "a%20b/%ED%95%9C.gguf");
    }
}
