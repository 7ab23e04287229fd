#![allow(dead_code)] // each test binary uses a part

//! Where the tests' files are, and the vocabulary of a GGUF file.

use std::path::{Path, PathBuf};

use kinfer_load::tokenizer::{Strings, VocabSpec};

fn dir(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(default),
        PathBuf::from,
    )
}

/// A real model's path.
pub fn model(name: &str) -> PathBuf {
    let path = dir("KINFER_TEST_MODELS", "test-models").join(name);
    assert!(path.is_file(), "{} is missing: run tests/fetch-models target/test-models", path.display());
    path
}

/// A vocabulary file's path.
pub fn vocab(name: &str) -> PathBuf {
    let path = dir("KINFER_TEST_VOCABS", "test-vocabs").join(name);
    assert!(path.is_file(), "{} is missing: run tests/fetch-vocabs target/test-vocabs", path.display());
    path
}

struct R<'a>(&'a [u8]);
impl<'a> R<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn str(&mut self) -> &'a [u8] {
        let n = self.u64() as usize;
        self.take(n)
    }
    fn skip(&mut self, ty: u32) {
        match ty {
            0 | 1 | 7 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4..=6 => drop(self.take(4)),
            8 => drop(self.str()),
            9 => {
                let (t, n) = (self.u32(), self.u64());
                (0..n).for_each(|_| self.skip(t));
            }
            _ => drop(self.take(8)),
        }
    }
}

/// The vocabulary in a file.
pub fn spec(path: &Path) -> VocabSpec {
    read(path).0
}

/// The vocabulary and chat template in a file.
pub fn read(path: &Path) -> (VocabSpec, Option<String>) {
    use std::io::Read;
    let mut bytes = vec![];
    std::fs::File::open(path).unwrap().take(40 << 20).read_to_end(&mut bytes).unwrap();
    let mut r = R(&bytes);
    r.take(16);
    let n = r.u64();
    let mut s = VocabSpec::default();
    let mut template = None;
    for _ in 0..n {
        let key = std::str::from_utf8(r.str()).unwrap();
        let ty = r.u32();
        let short = key.strip_prefix("tokenizer.ggml.").unwrap_or(key);
        let text = |r: &mut R| String::from_utf8(r.str().to_vec()).unwrap();
        match (short, ty) {
            ("model", 8) => s.model = text(&mut r),
            ("pre", 8) => s.pre = Some(text(&mut r)),
            ("tokenizer.chat_template", 8) => template = Some(text(&mut r)),
            ("tokens" | "merges" | "token_type" | "scores", 9) => {
                let (_, n) = (r.u32(), r.u64());
                match short {
                    "tokens" => s.tokens = (0..n).map(|_| r.str()).collect::<Strings>(),
                    "merges" => s.merges = (0..n).map(|_| r.str()).collect::<Strings>(),
                    "scores" => s.scores = Some((0..n).map(|_| f32::from_bits(r.u32())).collect()),
                    _ => s.types = Some((0..n).map(|_| r.u32() as i32).collect()),
                }
            }
            ("bos_token_id", 4) => s.bos = Some(r.u32()),
            ("eos_token_id", 4) => s.eos = Some(r.u32()),
            ("unknown_token_id", 4) => s.unk = Some(r.u32()),
            ("seperator_token_id", 4) => s.sep = Some(r.u32()),
            ("padding_token_id", 4) => s.pad = Some(r.u32()),
            ("cls_token_id", 4) => s.cls = Some(r.u32()),
            ("mask_token_id", 4) => s.mask = Some(r.u32()),
            ("add_bos_token", 7) => s.add_bos = Some(r.take(1)[0] != 0),
            ("add_eos_token", 7) => s.add_eos = Some(r.take(1)[0] != 0),
            ("add_sep_token", 7) => s.add_sep = Some(r.take(1)[0] != 0),
            ("add_space_prefix", 7) => s.add_space_prefix = Some(r.take(1)[0] != 0),
            _ => r.skip(ty),
        }
    }
    (s, template)
}
