//! A file's bytes: mapped, or in memory. The only unsafe code of this crate.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::error::Problem;

/// The bytes of one file, or of one array being written.
#[derive(Debug)]
pub(crate) enum Source {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Source {
    /// Maps a regular file read-only.
    pub(crate) fn map(path: &Path) -> Result<Source, Problem> {
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let metadata = std::fs::metadata(path).map_err(|source| Problem::Io { doing: "open", source })?;
        if !metadata.is_file() {
            return Err(Problem::NotAFile);
        }
        let file = File::open(path).map_err(|source| Problem::Io { doing: "open", source })?;
        // SAFETY: the map is read-only and only ever read as plain bytes through safe, bounds-checked code. That another
        // process may change or cut a file that is mapped cannot be prevented; every value is checked where it is used,
        // and model files are replaced by renaming, not rewritten in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Problem::Io { doing: "map", source })?;
        Ok(Source::Mapped(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Source::Mapped(map) => map,
            Source::Owned(bytes) => bytes,
        }
    }

    /// Lets the system drop the pages of a mapped range from memory; reading it again reads the file again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Source::Mapped(map) = self
            && range.end <= map.len()
            && !range.is_empty()
        {
            // SAFETY: the range lies in the map. DONTNEED on a shared, read-only file map loses nothing: the next access
            // maps the same file page again. The advice is only a hint, so its failure changes nothing.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
