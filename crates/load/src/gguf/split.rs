//! Models in several files: `name-00001-of-00003.gguf` and so on, each with `split.no` (from 0) and `split.count`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// A part's file name: `prefix-00002-of-00003.gguf` is (prefix, 2, 3).
fn parse(path: &Path) -> Option<(&str, u16, u16)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, no) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| if is_number(text) { text.parse().ok() } else { None };
    Some((prefix, number(no)?, number(count)?))
}

/// The paths of all parts in order, when this path is named as one of `count` parts.
pub(super) fn parts(path: &Path, count: u16) -> Option<Vec<PathBuf>> {
    let (prefix, no, named) = parse(path)?;
    if named != count || no == 0 || no > count {
        return None;
    }
    Some((1..=count).map(|no| path.with_file_name(format!("{prefix}-{no:05}-of-{count:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let all = parts(Path::new("/m/a-b-00002-of-00003.gguf"), 3).unwrap();
        assert_eq!(all[0], Path::new("/m/a-b-00001-of-00003.gguf"));
        assert_eq!(all[2], Path::new("/m/a-b-00003-of-00003.gguf"));
        let bad =
            ["a", "a-00002-of-00004", "a-00000-of-00003", "a-00004-of-00003", "a-+0002-of-00003", "a-2-of-3"];
        for name in bad {
            assert_eq!(parts(Path::new(&format!("{name}.gguf")), 3), None, "{name}");
        }
    }
}
