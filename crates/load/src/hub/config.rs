//! Where the caches are, which hub is asked, and how patiently.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reference::expand_home;

/// Settings of a [`super::Hub`]; [`HubConfig::from_env`] reads the variables that the Hugging Face
/// tools use.
#[derive(Clone)]
pub struct HubConfig {
    /// The hub's address, without a slash at the end. `HF_ENDPOINT`, else <https://huggingface.co>.
    pub endpoint: String,
    /// The cache shared with Python's `huggingface_hub`. `HF_HUB_CACHE`, else
    /// `HUGGINGFACE_HUB_CACHE`, else `HF_HOME/hub`; `HF_HOME` defaults to
    /// `XDG_CACHE_HOME/huggingface`, and that to `~/.cache/huggingface`.
    pub hub_cache: PathBuf,
    /// kinfer's own cache, for models that do not come from the hub. `KINFER_CACHE`, else
    /// `XDG_CACHE_HOME/kinfer`, else `~/.cache/kinfer`. Files are at `models/<sha256>/<name>`.
    pub kinfer_cache: PathBuf,
    /// Sent to the hub only, never to a host it redirects to. `HF_TOKEN`, else the file
    /// `token_file`.
    pub token: Option<String>,
    /// Where the Hugging Face tools store a token: `HF_TOKEN_PATH`, else `HF_HOME/token`.
    pub token_file: PathBuf,
    /// No network at all: neither hub nor pip. `HF_HUB_OFFLINE` (1, on, yes, true).
    pub offline: bool,
    /// Commands to try as pip, each a program and its first arguments.
    pub pip: Vec<Vec<String>>,
    /// Times and counts.
    pub patience: Patience,
    /// Free bytes on the disk that holds a folder; a test puts its own here.
    pub free_space: fn(&Path) -> io::Result<u64>,
}

/// How long to wait and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a name look-up and for a connection. Short, since behind many company firewalls the hub
    /// never answers and another source must get its turn.
    pub connect: Duration,
    /// For the first byte of an answer, and between two bytes of it.
    pub stall: Duration,
    /// Failures in a row, without a byte gained, before giving up.
    pub tries: u32,
    /// Before the second try; doubles with each further one.
    pub backoff: Duration,
    /// The longest wait that a server may ask for; a longer one is an error that says so.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            tries: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
        }
    }
}

impl HubConfig {
    /// Reads the environment.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var_os(name), std::env::home_dir())
    }

    /// Reads an environment given as a function; an empty value counts as none.
    pub fn from_lookup(get: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let var = |name: &str| get(name).filter(|v| !v.is_empty());
        let text = |name: &str| var(name).and_then(|v| v.into_string().ok());
        let path = |name: &str| {
            var(name).map(|v| match v.to_str() {
                Some(text) => expand_home(text),
                None => PathBuf::from(v),
            })
        };
        let cache_home = path("XDG_CACHE_HOME")
            .unwrap_or_else(|| home.unwrap_or_else(|| PathBuf::from(".")).join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| cache_home.join("huggingface"));
        let hub_cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hf_home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = text("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(&token_file).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let yes = ["1", "on", "yes", "true"];
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            hub_cache,
            kinfer_cache: path("KINFER_CACHE").unwrap_or_else(|| cache_home.join("kinfer")),
            token,
            token_file,
            offline: text("HF_HUB_OFFLINE").is_some_and(|v| yes.iter().any(|y| v.eq_ignore_ascii_case(y))),
            pip: pip_commands(),
            patience: Patience::default(),
            free_space: |path| fs4::available_space(path),
        }
    }
}

/// The ways to call pip, the most explicit first. Plain `pip` comes last: it may belong to another
/// Python than `python3`, but its configuration is the user's all the same.
fn pip_commands() -> Vec<Vec<String>> {
    let commands: [&[&str]; 5] =
        [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-m", "pip"], &["pip3"], &["pip"]];
    commands.iter().map(|c| c.iter().map(|s| (*s).to_owned()).collect()).collect()
}

impl std::fmt::Debug for HubConfig {
    /// Everything but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            endpoint,
            hub_cache,
            kinfer_cache,
            token,
            token_file,
            offline,
            pip,
            patience,
            free_space: _,
        } = self;
        f.debug_struct("HubConfig")
            .field("endpoint", endpoint)
            .field("hub_cache", hub_cache)
            .field("kinfer_cache", kinfer_cache)
            .field("has_token", &token.is_some())
            .field("token_file", token_file)
            .field("offline", offline)
            .field("pip", pip)
            .field("patience", patience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> HubConfig {
        let vars: Vec<_> = vars.iter().map(|(k, v)| (k.to_string(), OsString::from(v))).collect();
        let get = move |name: &str| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        HubConfig::from_lookup(get, Some("/home/u".into()))
    }

    #[test]
    fn places_follow_the_variables() {
        let plain = config(&[]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.hub_cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(plain.kinfer_cache, Path::new("/home/u/.cache/kinfer"));
        assert!(!plain.offline && plain.token.is_none());

        let xdg = config(&[("XDG_CACHE_HOME", "/x")]);
        assert_eq!(xdg.hub_cache, Path::new("/x/huggingface/hub"));
        assert_eq!(xdg.kinfer_cache, Path::new("/x/kinfer"));

        let mut vars = vec![("HF_HOME", "/hf"), ("KINFER_CACHE", "/k"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(config(&vars).hub_cache, Path::new("/hf/hub"));
        assert_eq!(config(&vars).token_file, Path::new("/hf/token"));
        assert_eq!(config(&vars).kinfer_cache, Path::new("/k"));
        vars.push(("HUGGINGFACE_HUB_CACHE", "/old"));
        assert_eq!(config(&vars).hub_cache, Path::new("/old"));
        vars.push(("HF_HUB_CACHE", "/new"));
        assert_eq!(config(&vars).hub_cache, Path::new("/new"));
        assert_eq!(config(&[("HF_HUB_CACHE", "")]).hub_cache, plain.hub_cache);
    }

    #[test]
    fn token_offline_and_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), " hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(config(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert_eq!(config(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).token.as_deref(), Some("hf_env"));
        let debug = format!("{:?}", config(&[("HF_TOKEN", "hf_secret")]));
        assert!(!debug.contains("hf_secret"), "{debug}");
        for (value, want) in [("1", true), ("TRUE", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(config(&[("HF_HUB_OFFLINE", value)]).offline, want, "{value:?}");
        }
        assert_eq!(config(&[("HF_ENDPOINT", "http://m:1/x/")]).endpoint, "http://m:1/x");
    }
}
