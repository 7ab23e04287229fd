//! What a user may write where a model is expected.

use std::fmt;
use std::path::PathBuf;

/// A model as the user names it.
///
/// | written | meaning |
/// |---|---|
/// | `./model.gguf`, `/data/model.gguf`, `dir/model.gguf` | a file on this machine |
/// | `./folder`, `dir/folder` with a `config.json` in it | safetensors on this machine |
/// | `user/repo`, `user/repo:Q8_0`, `user/repo:Q8_0@v1.0` | a repository on the hub |
/// | `hf.co/user/repo`, `https://huggingface.co/user/repo` | the same |
/// | `user/repo/path/file.gguf[@revision]` | one file of a repository |
/// | `smollm2`, `gemma3:270m` | a name in the catalogue |
///
/// The one shape with two readings is `a/b/c.gguf`: it is the local file where that exists, else
/// a file on the hub; likewise `a/b`, which is a folder here where it has a `config.json`. `./` or `hf.co/` in front
/// decides it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// A path on this machine.
    Local(PathBuf),
    /// A repository on the hub, or a file in it.
    Hub(HubRef),
    /// A catalogue name, in lower case.
    Alias(String),
}

/// A repository on the hub and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubRef {
    /// `user/name`.
    pub repo: String,
    /// A path inside the repository, when one file was named.
    pub file: Option<String>,
    /// The quantization asked for, as written; compared without regard to case.
    pub quant: Option<String>,
    /// A branch, tag, commit or `refs/pr/N`; the hub's `main` when absent.
    pub revision: Option<String>,
}

/// A model name that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{input}' is not a model reference: {reason}. Write a path to a .gguf file, user/repo[:QUANT][@revision], \
     user/repo/path/file.gguf, or a short name such as smollm2"
)]
pub struct RefError {
    /// What was written.
    pub input: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Prefixes that say "this is on the hub".
const HUB_PREFIXES: [&str; 4] = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/"];

impl ModelRef {
    /// Reads a model reference; looks at the disk only for the shapes `a/b/c.gguf` and `a/b`.
    ///
    /// # Errors
    /// [`RefError`] when the text fits none of the forms.
    pub fn parse(input: &str) -> Result<Self, RefError> {
        let err = |reason: String| RefError { input: input.to_owned(), reason };
        let text = input.trim();
        if text.is_empty() {
            return Err(err("it is empty".into()));
        }
        for prefix in HUB_PREFIXES {
            if text.len() > prefix.len() && text.is_char_boundary(prefix.len()) {
                let (head, rest) = text.split_at(prefix.len());
                if head.eq_ignore_ascii_case(prefix) {
                    let rest = rest.trim_end_matches('/');
                    return HubRef::parse(&from_page_address(rest)).map(Self::Hub).map_err(err);
                }
            }
        }
        if text.contains("://") {
            return Err(err("only addresses on https://huggingface.co/ can be given".into()));
        }
        if is_plainly_local(text) {
            return Ok(Self::Local(expand_home(text)));
        }
        let slashes = text.matches('/').count();
        if is_gguf(text) && (slashes < 2 || PathBuf::from(text).exists()) {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let path = PathBuf::from(text);
        if text.ends_with(".safetensors") || path.join("config.json").is_file() {
            return Ok(Self::Local(path));
        }
        if slashes > 0 {
            return HubRef::parse(text).map(Self::Hub).map_err(err);
        }
        if text.contains('@') {
            return Err(err("a revision needs a repository in front (user/repo@revision)".into()));
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c)) {
            return Err(err("a short name has only letters, digits and . _ : -".into()));
        }
        Ok(Self::Alias(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(hub) => hub.fmt(f),
            Self::Alias(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for ModelRef {
    type Err = RefError;

    fn from_str(s: &str) -> Result<Self, RefError> {
        Self::parse(s)
    }
}

impl HubRef {
    /// The revision to ask the hub for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Reads `user/repo[:QUANT][@revision]` or `user/repo/path/file.gguf[@revision]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (text, revision) = match text.split_once('@') {
            Some((text, revision)) => (text, Some(revision)),
            None => (text, None),
        };
        if let Some(revision) = revision {
            if revision.contains(':') {
                return Err("the quantization comes before the revision (user/repo:QUANT@revision)".into());
            }
            if !is_safe_path(revision) {
                return Err(format!("'{revision}' is not a revision"));
            }
        }
        let (path, quant) = match text.split_once(':') {
            Some((path, quant)) => (path, Some(quant)),
            None => (text, None),
        };
        if let Some(quant) = quant
            && (quant.is_empty() || !quant.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
        {
            return Err(format!("'{quant}' is not a quantization name"));
        }
        let mut parts = path.splitn(3, '/');
        let (user, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        for part in [user, name] {
            if !is_repo_part(part) {
                return Err(format!("'{part}' cannot be part of a repository name"));
            }
        }
        let file = parts.next();
        if let Some(file) = file {
            if !is_gguf(file) {
                return Err(format!("'{file}' inside the repository is not a .gguf file"));
            }
            if !is_safe_path(file) {
                return Err(format!("'{file}' is not a path inside a repository"));
            }
            if quant.is_some() {
                return Err("a file and a quantization cannot both be given".into());
            }
        }
        Ok(Self {
            repo: format!("{user}/{name}"),
            file: file.map(str::to_owned),
            quant: quant.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

/// Turns what a browser's address bar shows (`user/repo/blob/REV/file.gguf`, `…/resolve/…`,
/// `…/tree/REV`, a `?download=true` behind) into the form that [`HubRef::parse`] reads.
fn from_page_address(rest: &str) -> String {
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        [user, name, "blob" | "resolve", revision, file @ ..] if !file.is_empty() => {
            format!("{user}/{name}/{}@{revision}", file.join("/"))
        }
        [user, name, "tree", revision] => format!("{user}/{name}@{revision}"),
        _ => rest.to_owned(),
    }
}

fn is_plainly_local(text: &str) -> bool {
    let b = text.as_bytes();
    let drive = b.len() > 2 && b[0].is_ascii_alphabetic() && b[1] == b':' && matches!(b[2], b'/' | b'\\');
    text.starts_with(['/', '.', '~']) || text.contains('\\') || drive
}

/// `~/x` as the shell would have expanded it (a quoted argument or a variable reaches us as it is).
pub(crate) fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

pub(crate) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.as_bytes()[name.len() - 5..].eq_ignore_ascii_case(b".gguf")
}

/// The hub's own rule for a user or repository name; it also forbids `--`, which keeps the cache
/// folder `models--user--name` unambiguous.
fn is_repo_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 96
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("--")
        && !part.contains("..")
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether a path that came from outside stays inside the folder it is joined to, on every system.
pub(crate) fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, file: Option<&str>, quant: Option<&str>, revision: Option<&str>) -> ModelRef {
        ModelRef::Hub(HubRef {
            repo: repo.into(),
            file: file.map(Into::into),
            quant: quant.map(Into::into),
            revision: revision.map(Into::into),
        })
    }

    #[test]
    fn reads_every_form() {
        let cases = [
            ("model.gguf", ModelRef::Local("model.gguf".into())),
            ("dir/model.GGUF", ModelRef::Local("dir/model.GGUF".into())),
            ("./user/repo", ModelRef::Local("./user/repo".into())),
            ("/x/y/z/m.gguf", ModelRef::Local("/x/y/z/m.gguf".into())),
            (r"C:\models\m.gguf", ModelRef::Local(r"C:\models\m.gguf".into())),
            ("user/repo", hub("user/repo", None, None, None)),
            ("user/repo:q4_k_m", hub("user/repo", None, Some("q4_k_m"), None)),
            ("user/repo:Q8_0@refs/pr/1", hub("user/repo", None, Some("Q8_0"), Some("refs/pr/1"))),
            ("hf.co/user/repo@v1.0", hub("user/repo", None, None, Some("v1.0"))),
            ("huggingface.co/user/repo.x", hub("user/repo.x", None, None, None)),
            ("https://huggingface.co/user/repo/", hub("user/repo", None, None, None)),
            ("HTTPS://HF.CO/user/repo:F16", hub("user/repo", None, Some("F16"), None)),
            ("https://huggingface.co/user/repo/tree/dev", hub("user/repo", None, None, Some("dev"))),
            ("user/repo/no/such.gguf", hub("user/repo", Some("no/such.gguf"), None, None)),
            ("user/repo/such.gguf@abc", hub("user/repo", Some("such.gguf"), None, Some("abc"))),
            (
                "https://huggingface.co/user/repo/resolve/main/a/b.gguf?download=true",
                hub("user/repo", Some("a/b.gguf"), None, Some("main")),
            ),
            ("smollm2", ModelRef::Alias("smollm2".into())),
            ("Gemma3:270M", ModelRef::Alias("gemma3:270m".into())),
        ];
        for (text, want) in cases {
            assert_eq!(ModelRef::parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn printed_form_reads_back() {
        for text in ["user/repo:Q8_0@v1", "user/repo/a/b.gguf@v1", "smollm2", "./m.gguf"] {
            assert_eq!(ModelRef::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_existing_file_three_levels_deep_is_local() {
        let file = "src/hub/reference.rs";
        assert!(PathBuf::from(file).exists());
        assert!(matches!(ModelRef::parse("src/hub/none.gguf"), Ok(ModelRef::Hub(_))));
        let dir = tempfile::tempdir_in(".").unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/m.gguf"), b"").unwrap();
        // tempdir names start with a dot, which already means local; the visible twin does not
        let visible = format!("t{name}");
        std::fs::rename(dir.path(), &visible).unwrap();
        let parsed = ModelRef::parse(&format!("{visible}/sub/m.gguf"));
        std::fs::remove_dir_all(&visible).unwrap();
        assert!(matches!(parsed, Ok(ModelRef::Local(_))), "{parsed:?}");
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let cases = [
            "",
            "  ",
            "user/",
            "user/repo:",
            "user/repo@",
            "user/repo@x:Q4_0",
            "user/repo@../x",
            "user/repo/file.bin",
            "user/repo/../x.gguf",
            "user/repo/x.gguf:Q4_0",
            "us er/repo",
            "user/re--po",
            "-user/repo",
            "https://example.com/user/repo",
            "name with space",
            "smollm2@main",
            "한국어/모델",
            "hf.co/user",
        ];
        for text in cases {
            let got = ModelRef::parse(text);
            assert!(got.is_err(), "{text:?} gave {got:?}");
        }
    }
}
