//! The catalogue: short names, and where each model can be had from.

use serde::Deserialize;

use super::reference::{HubRef, is_safe_path};

/// Short names for models. The data is a JSON file outside this crate; this is its form.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The name used where the user gives none.
    pub default: String,
    /// All entries.
    pub models: Vec<CatalogEntry>,
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// The short name, in lower case (`gemma3:270m`).
    pub name: String,
    /// Further names for it.
    #[serde(default)]
    pub also: Vec<String>,
    /// One line for a person choosing a model.
    pub about: String,
    /// The exact file, when the catalogue vouches for it. A source that has another is refused.
    #[serde(default)]
    pub file: Option<PinnedFile>,
    /// Where to get it, in the order to try.
    pub sources: Vec<Source>,
}

/// A file known by content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// File name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// A place that has the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A repository on the hub, written as a [`HubRef`].
    Hub(String),
    /// Python packages whose wheels carry the file: the members' contents, put together in order.
    Pip(Vec<WheelMember>),
}

/// A file inside a wheel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelMember {
    /// `name==version`.
    pub package: String,
    /// Path inside the wheel.
    pub member: String,
}

/// A catalogue that contradicts itself or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("model catalogue: {0}")]
pub struct CatalogError(String);

impl Catalog {
    /// Reads and checks a catalogue.
    ///
    /// # Errors
    /// [`CatalogError`] naming the entry: bad JSON, a name twice, a source that cannot be read, a
    /// package without exact version or without a pinned file to check it by.
    pub fn parse(json: &str) -> Result<Self, CatalogError> {
        let catalog: Self = serde_json::from_str(json).map_err(|e| CatalogError(e.to_string()))?;
        let mut seen = Vec::new();
        for entry in &catalog.models {
            entry.check().map_err(|e| CatalogError(format!("{}: {e}", entry.name)))?;
            for name in entry.names() {
                if seen.contains(&name) {
                    return Err(CatalogError(format!("{name}: the name is there twice")));
                }
                seen.push(name);
            }
        }
        if catalog.find(&catalog.default).is_none() {
            return Err(CatalogError(format!("the default '{}' is not in it", catalog.default)));
        }
        Ok(catalog)
    }

    /// The entry of this name, without regard to case.
    pub fn find(&self, name: &str) -> Option<&CatalogEntry> {
        self.models.iter().find(|m| m.names().any(|n| n.eq_ignore_ascii_case(name)))
    }
}

impl CatalogEntry {
    /// The name and its further names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.also.iter().map(String::as_str))
    }

    fn check(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("it has no source".into());
        }
        if let Some(name) = self.names().find(|n| n.chars().any(|c| c.is_ascii_uppercase() || c == '/')) {
            return Err(format!("'{name}' must be in lower case and without a slash"));
        }
        if let Some(file) = &self.file {
            let hex = file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if file.sha256.len() != 64 || !hex {
                return Err("sha256 must be 64 lower-case hexadecimal digits".into());
            }
            if !is_safe_path(&file.name) || file.name.contains('/') {
                return Err(format!("'{}' is not a file name", file.name));
            }
        }
        for source in &self.sources {
            match source {
                Source::Hub(reference) => {
                    HubRef::parse(reference)?;
                }
                Source::Pip(members) => {
                    if self.file.is_none() {
                        return Err("a pip source needs a pinned file to be checked by".into());
                    }
                    if members.is_empty() {
                        return Err("a pip source needs a package".into());
                    }
                    for WheelMember { package, member: _ } in members {
                        // pip would read a leading dash as an option.
                        let name = package.split_once("==").map_or("", |(name, _)| name);
                        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                            return Err(format!("'{package}' is not name==version"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &str) -> Result<Catalog, String> {
        Catalog::parse(&format!(r#"{{"default":"a","models":[{{"name":"a","about":"",{body}}}]}}"#))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let cases = [
            (r#""sources":[]"#, "no source"),
            (r#""sources":[{"hub":"norepo"}]"#, "repository name"),
            (r#""sources":[{"pip":[{"package":"p==1","member":"m"}]}]"#, "pinned"),
            (r#""sources":[{"ftp":"x"}]"#, "unknown variant"),
            (r#""sources":[{"hub":"u/r"}],"sise":1"#, "unknown field"),
            (r#""sources":[{"hub":"u/r"}],"also":["A"]"#, "lower case"),
            (r#""sources":[{"hub":"u/r"}],"also":["a"]"#, "twice"),
            (r#""sources":[{"hub":"u/r"}],"file":{"name":"x","size":1,"sha256":"AB"}"#, "64"),
        ];
        for (body, want) in cases {
            let got = entry(body).unwrap_err();
            assert!(got.contains(want), "{body}: {got}");
        }
        let sha = "0".repeat(64);
        for package in ["p", "-r==1"] {
            let got = entry(&format!(
                r#""file":{{"name":"x","size":1,"sha256":"{sha}"}},"sources":[{{"pip":[{{"package":"{package}","member":"m"}}]}}]"#
            ));
            assert!(got.unwrap_err().contains("name==version"));
        }
        assert!(Catalog::parse(r#"{"default":"b","models":[]}"#).is_err());
    }

    #[test]
    fn finds_by_any_name() {
        let catalog = entry(r#""sources":[{"hub":"u/r"}],"also":["b:1"]"#).unwrap();
        assert_eq!(catalog.find("B:1"), catalog.find("a"));
        assert!(catalog.find("c").is_none());
    }
}
