//! The key-value section.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::error::{GgufError, Problem};
use super::value::{FromValue, Value};

/// The metadata of a model: keys in file order, with typed access whose errors name the key.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    /// Indices into `entries`, ordered by key.
    by_key: Vec<u32>,
}

impl Metadata {
    pub(crate) fn new(path: PathBuf, entries: Vec<(String, Value)>) -> Result<Metadata, Problem> {
        let by_key = sorted_unique(&entries, |(key, _)| key)
            .map_err(|(key, _)| Problem::DuplicateKey { key: key.clone() })?;
        Ok(Metadata { path, entries, by_key })
    }

    /// The value of a key that must be there, as a number, bool, `&str`, [`Array`](super::Array), or a `Vec` of those:
    /// `let layers: usize = metadata.get("llama.block_count")?`.
    ///
    /// # Errors
    /// [`Problem::MissingKey`], or [`Problem::WrongType`] when the value is another type or does not fit.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.opt(key)?
            .ok_or_else(|| self.error(Problem::MissingKey { key: key.into(), expected: T::EXPECTED }))
    }

    /// As [`get`](Metadata::get) for a key that may be absent.
    ///
    /// # Errors
    /// [`Problem::WrongType`] when it is there and is another type or does not fit.
    pub fn opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let found = self.by_key.binary_search_by(|&i| self.entries[i as usize].0.as_str().cmp(key));
        let Ok(at) = found else { return Ok(None) };
        let (_, value) = &self.entries[self.by_key[at] as usize];
        T::from_value(value)
            .map(Some)
            .map_err(|got| self.error(Problem::WrongType { key: key.into(), expected: T::EXPECTED, got }))
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The file that the entries come from; for a split model, its first part.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(super) fn error(&self, problem: Problem) -> GgufError {
        GgufError { path: self.path.clone(), problem }
    }
}

/// The indices of `items` ordered by name; `Err` with an item whose name another one has.
pub(super) fn sorted_unique<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<u32>, &T> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let key = |i: u32| name(&items[i as usize]);
    order.sort_unstable_by(|&a, &b| key(a).cmp(key(b)));
    match order.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
        Some(pair) => Err(&items[pair[0] as usize]),
        None => Ok(order),
    }
}
