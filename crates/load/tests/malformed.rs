//! Malformed GGUF files: each gives the expected error within a second (optimised) and 200 MB; mutations never panic.
//!
//! One test function runs the corpus, since it measures the memory of the whole process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kinfer_load::gguf::{Gguf, GgufError, Problem, Value};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const F32: u32 = 0;
const Q4_0: u32 = 2;
const Q4_K: u32 = 12;

/// For each file. Unoptimised code on a busy machine walks the longest header in some seconds.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// A file with every field free to be wrong.
#[derive(Clone)]
struct Raw {
    magic: [u8; 4],
    version: u32,
    n_tensors: Option<u64>,
    n_keys: Option<u64>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    alignment: usize,
    data: Vec<u8>,
}

impl Raw {
    fn new() -> Self {
        Raw {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![],
            tensors: vec![],
            alignment: 32,
            data: vec![0; 256],
        }
    }

    fn key(mut self, key: &str, ty: u32, payload: impl AsRef<[u8]>) -> Self {
        self.keys.push([&text(key.as_bytes()), &ty.to_le_bytes()[..], payload.as_ref()].concat());
        self
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        self.raw_tensor(name.as_bytes(), dims.len() as u32, dims, ty, offset)
    }

    fn raw_tensor(mut self, name: &[u8], n_dims: u32, dims: &[u64], ty: u32, offset: u64) -> Self {
        let dims: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        let (n_dims, ty, offset) = (n_dims.to_le_bytes(), ty.to_le_bytes(), offset.to_le_bytes());
        self.tensors.push([&text(name), &n_dims[..], &dims, &ty, &offset].concat());
        self
    }

    fn header(&self) -> Vec<u8> {
        let mut out = [&self.magic[..], &self.version.to_le_bytes()].concat();
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.tensors.concat());
        out
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

/// A length and the bytes.
fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// An array's element type, length and elements.
fn array(ty: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

/// A valid file with one of everything.
fn valid() -> Raw {
    Raw::new()
        .key("general.architecture", 8, text(b"llama"))
        .key("general.alignment", 4, 32u32.to_le_bytes())
        .key("flag", 7, [1])
        .key("scores", 9, array(6, 3, &[0; 12]))
        .key("tokens", 9, array(8, 3, &[text(b"a"), text("가".as_bytes()), text(b"")].concat()))
        .key("flags", 9, array(7, 2, &[0, 1]))
        .key("nested", 9, array(9, 2, &[array(0, 1, &[7]), array(8, 1, &text(b"x"))].concat()))
        .tensor("a", &[8, 2], F32, 0)
        .tensor("b", &[32], Q4_0, 64)
        .tensor("c", &[], F32, 96)
}

/// Nested arrays, `depth` deep.
fn nested(depth: u32) -> Vec<u8> {
    (0..depth).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner))
}

/// Runs one case: the files are already written, `path` is opened, then `then` may go on to use it.
struct Corpus {
    dir: tempfile::TempDir,
    count: usize,
    failures: Vec<String>,
}

impl Corpus {
    fn check(
        &mut self,
        name: &str,
        path: &Path,
        then: fn(&Gguf) -> Result<(), GgufError>,
        expected: fn(&Problem) -> bool,
    ) {
        self.count += 1;
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let start = Instant::now();
        let result = Gguf::open(path).and_then(|gguf| then(&gguf));
        let (took, memory) = (start.elapsed(), ALLOCATOR.peak_usage().saturating_sub(before));
        match result {
            Ok(()) => self.failures.push(format!("{name}: accepted")),
            Err(e) if !expected(&e.problem) => self.failures.push(format!("{name}: {e} ({:?})", e.problem)),
            Err(e) => {
                let message = e.to_string();
                assert!(
                    message.starts_with(&e.path.display().to_string()) && message.len() > 40,
                    "{message}"
                );
            }
        }
        if took > LIMIT || memory > 200 << 20 {
            self.failures.push(format!("{name}: took {took:?} and {memory} bytes"));
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], expected: fn(&Problem) -> bool) {
        self.using(name, bytes, |_| Ok(()), expected);
    }

    fn using(
        &mut self,
        name: &str,
        bytes: &[u8],
        then: fn(&Gguf) -> Result<(), GgufError>,
        expected: fn(&Problem) -> bool,
    ) {
        let path = self.dir.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        self.check(name, &path, then, expected);
    }

    /// A file whose rest is a hole of zeros up to `len`.
    fn sparse(&mut self, name: &str, bytes: &[u8], len: u64, expected: fn(&Problem) -> bool) {
        let path = self.dir.path().join("sparse.gguf");
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        self.check(name, &path, |_| Ok(()), expected);
        std::fs::remove_file(&path).unwrap();
    }

    /// Parts in a directory of their own; opens the first one.
    fn split(&mut self, name: &str, parts: &[(&str, Raw)], expected: fn(&Problem) -> bool) {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let paths: Vec<PathBuf> = parts.iter().map(|(file, _)| dir.path().join(file)).collect();
        for (path, (_, raw)) in paths.iter().zip(parts) {
            std::fs::write(path, raw.bytes()).unwrap();
        }
        self.check(name, &paths[0], |_| Ok(()), expected);
    }
}

macro_rules! is {
    ($($pattern:tt)+) => { |problem: &Problem| matches!(problem, Problem::$($pattern)+) };
}

#[test]
fn every_malformed_file_gives_its_error() {
    let mut corpus = Corpus { dir: tempfile::tempdir().unwrap(), count: 0, failures: vec![] };
    Gguf::from_bytes(valid().bytes()).expect("the file that the cases spoil is good");
    start(&mut corpus);
    truncated(&mut corpus);
    counts(&mut corpus);
    metadata(&mut corpus);
    tensors(&mut corpus);
    use_of_values(&mut corpus);
    splits(&mut corpus);
    println!("{} malformed files", corpus.count);
    assert!(corpus.count >= 60, "{} cases", corpus.count);
    assert!(corpus.failures.is_empty(), "{}", corpus.failures.join("\n"));
}

fn start(c: &mut Corpus) {
    let with_version = |version| Raw { version, ..valid() }.bytes();
    let dir = c.dir.path().to_owned();
    c.check("no such file", &dir.join("none.gguf"), |_| Ok(()), is!(Io { .. }));
    c.check("a directory", &dir, |_| Ok(()), is!(MissingFile { .. }));
    #[cfg(unix)]
    c.check("a device", Path::new("/dev/zero"), |_| Ok(()), is!(NotAFile));
    c.bytes("text", b"Hello, world. This is no model.", is!(NotGguf { hint: "", .. }));
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    c.bytes("a Git LFS pointer", pointer, |p| p.to_string().contains("Git LFS"));
    c.bytes("a web page", b"<!doctype html><html></html>", |p| p.to_string().contains("web page"));
    c.bytes("an old GGML file", b"tjgg\x01\0\0\0", |p| p.to_string().contains("GGML"));
    c.bytes("magic in lower case", &Raw { magic: *b"gguf", ..valid() }.bytes(), is!(NotGguf { .. }));
    c.bytes("version 0", &with_version(0), is!(Version { got: 0 }));
    c.bytes("version 1", &with_version(1), is!(Version { got: 1 }));
    c.bytes("version 4", &with_version(4), is!(Version { got: 4 }));
    c.bytes("version of all ones", &with_version(u32::MAX), is!(Version { .. }));
    c.bytes("big-endian 3", &with_version(3u32.swap_bytes()), is!(BigEndian { version: 3 }));
    c.bytes("big-endian 2", &with_version(2u32.swap_bytes()), is!(BigEndian { version: 2 }));
}

fn truncated(c: &mut Corpus) {
    let (file, header) = (valid().bytes(), valid().header().len());
    let keys = Raw { tensors: vec![], ..valid() }.header().len();
    let cuts = [
        ("empty file", 0),
        ("in the magic", 2),
        ("after the magic", 4),
        ("in the version", 6),
        ("in the tensor count", 12),
        ("in the key count", 20),
        ("after the counts", 24),
        ("in a key's length", 28),
        ("in a key", 40),
        ("in a value's type", 54),
        ("in a string's length", 60),
        ("in a string", 67),
        ("before the last key", keys - 60),
        ("in a nested array", keys - 4),
        ("before the tensor records", keys),
        ("in a tensor name's length", keys + 4),
        ("in a dimension count", keys + 11),
        ("in the dimensions", keys + 17),
        ("in a tensor type", keys + 30),
        ("in a tensor offset", header - 4),
    ];
    for (name, cut) in cuts {
        c.bytes(&format!("truncated {name}"), &file[..cut], is!(Truncated { .. }));
    }
    let data = header.next_multiple_of(32);
    c.bytes("truncated in the padding", &file[..data - 1], is!(OutOfBounds { .. }));
    c.bytes("truncated before the data", &file[..data], is!(OutOfBounds { .. }));
    c.bytes("truncated in the data", &file[..data + 90], is!(OutOfBounds { .. }));
}

fn counts(c: &mut Corpus) {
    let tensors = |n| Raw { n_tensors: Some(n), ..valid() };
    let keys = |n| Raw { n_keys: Some(n), ..valid() };
    c.bytes("2^64 - 1 tensors", &tensors(u64::MAX).bytes(), is!(TooMany { what: "tensors", .. }));
    c.bytes("2^63 tensors", &tensors(1 << 63).bytes(), is!(TooMany { .. }));
    c.bytes("200,000 tensors in a small file", &tensors(200_000).bytes(), is!(Truncated { .. }));
    c.sparse("one tensor too many", &tensors(4).bytes(), 1 << 20, is!(EmptyName { .. }));
    c.bytes("2^64 - 1 keys", &keys(u64::MAX).bytes(), is!(TooMany { what: "metadata keys", .. }));
    c.bytes("65,000 keys in a small file", &keys(65_000).bytes(), is!(Truncated { .. }));
    c.bytes("one key too few", &keys(6).bytes(), |p| !matches!(p, Problem::Io { .. }));
    c.sparse("60,000 keys in a hole", &keys(60_000).header(), 1 << 40, |p| !matches!(p, Problem::Io { .. }));
    let long = Raw::new().key("k", 8, (1u64 << 40).to_le_bytes());
    c.bytes("a string longer than the file", &long.bytes(), is!(Truncated { .. }));
    c.sparse("a string of a tebibyte", &long.header(), 1 << 41, is!(TooMany { .. }));
    let long = Raw::new().key("k", 8, u64::MAX.to_le_bytes());
    c.bytes("a string of 2^64 - 1 bytes", &long.bytes(), is!(Truncated { .. }));
    let eight_million = Raw::new().key("k", 9, array(8, (64 << 17) - 20, &[])).key("j", 0, [0]);
    let eight_million = Raw { n_tensors: Some(1), ..eight_million }.header();
    let arrays = |ty, n| Raw::new().key("k", 9, array(ty, n, &[]));
    c.bytes("an array of 2^64 - 1 bytes", &arrays(0, u64::MAX).bytes(), is!(Truncated { .. }));
    c.bytes("an array of 2^61 u64, 2^64 bytes", &arrays(10, 1 << 61).bytes(), is!(Truncated { .. }));
    c.bytes("an array of 2^61 strings", &arrays(8, 1 << 61).bytes(), is!(Truncated { .. }));
    c.sparse("an array of 2^36 empty strings", &arrays(8, 1 << 36).header(), 1 << 40, is!(TooMany { .. }));
    c.sparse("an array of 2^36 empty arrays", &arrays(9, 1 << 36).header(), 1 << 40, is!(TooMany { .. }));
    c.sparse("as many empty strings as fit the limit", &eight_million, 1 << 40, is!(EmptyName { .. }));
    c.sparse("an array of 2^38 floats", &arrays(6, 1 << 38).header(), 1 << 41, is!(TooMany { .. }));
}

fn metadata(c: &mut Corpus) {
    let align = |ty, bytes: &[u8]| Raw::new().key("general.alignment", ty, bytes).bytes();
    c.bytes("alignment 0", &align(4, &[0; 4]), is!(Alignment { got: 0 }));
    c.bytes("alignment 3", &align(4, &[3, 0, 0, 0]), is!(Alignment { got: 3 }));
    c.bytes("alignment 48", &align(4, &[48, 0, 0, 0]), is!(Alignment { got: 48 }));
    c.bytes("alignment 2^32 - 1", &align(4, &[255; 4]), is!(Alignment { .. }));
    c.bytes("alignment as a string", &align(8, &text(b"32")), is!(WrongType { .. }));
    c.bytes("alignment as a float", &align(6, &32f32.to_le_bytes()), is!(WrongType { .. }));
    let far = valid().key("x", 4, [0; 4]).bytes();
    let at = far.windows(17).position(|w| w == b"general.alignment").unwrap() + 17 + 4;
    let far = [&far[..at], &(1u32 << 31).to_le_bytes(), &far[at + 4..]].concat();
    c.bytes("alignment beyond the file", &far, |p| {
        matches!(p, Problem::Misaligned { .. } | Problem::OutOfBounds { .. })
    });
    let twice = Raw::new().key("k", 0, [1]).key("j", 0, [1]).key("k", 0, [2]);
    c.bytes("a key twice", &twice.bytes(), is!(DuplicateKey { .. }));
    c.bytes("an empty key", &Raw::new().key("", 0, [1]).bytes(), is!(EmptyName { .. }));
    let long = Raw::new().key(&"k".repeat(65536), 0, [1]);
    c.bytes("a key of 65536 bytes", &long.bytes(), is!(TooMany { .. }));
    let mut latin1 = Raw::new();
    latin1.keys.push([&text(b"caf\xe9"), &0u32.to_le_bytes()[..], &[1]].concat());
    c.bytes("a key in Latin-1", &latin1.bytes(), is!(NotUtf8 { .. }));
    let latin1 = Raw::new().key("k", 8, text(b"caf\xe9"));
    c.bytes("a string in Latin-1", &latin1.bytes(), is!(NotUtf8 { .. }));
    c.bytes("value type 13", &Raw::new().key("k", 13, [0; 8]).bytes(), is!(ValueType { got: 13, .. }));
    c.bytes("value type 2^32 - 1", &Raw::new().key("k", u32::MAX, [0; 8]).bytes(), is!(ValueType { .. }));
    let inner = Raw::new().key("k", 9, array(99, 1, &[0; 8]));
    c.bytes("element type 99", &inner.bytes(), is!(ValueType { got: 99, .. }));
    c.bytes("boolean 2", &Raw::new().key("k", 7, [2]).bytes(), is!(Bool { got: 2, .. }));
    c.bytes("arrays 5 deep", &Raw::new().key("k", 9, nested(5)).bytes(), is!(Nesting { .. }));
    c.bytes("arrays 100,000 deep", &Raw::new().key("k", 9, nested(20_000)).bytes(), is!(Nesting { .. }));
}

fn tensors(c: &mut Corpus) {
    let tensor = |dims: &[u64], ty, offset| Raw::new().tensor("t", dims, ty, offset).bytes();
    c.bytes("a tensor name twice", &valid().tensor("a", &[1], F32, 128).bytes(), is!(DuplicateTensor { .. }));
    c.bytes("an empty tensor name", &Raw::new().tensor("", &[1], F32, 0).bytes(), is!(EmptyName { .. }));
    let name = Raw::new().raw_tensor(&[0xff, 0xfe], 1, &[1], F32, 0);
    c.bytes("a tensor name in UTF-16", &name.bytes(), is!(NotUtf8 { .. }));
    let name = Raw::new().tensor(&"t".repeat(70_000), &[1], F32, 0);
    c.bytes("a tensor name of 70,000 bytes", &name.bytes(), is!(TooMany { .. }));
    c.bytes("5 dimensions", &tensor(&[1; 5], F32, 0), is!(Dims { got: 5, .. }));
    let dims = Raw::new().raw_tensor(b"t", u32::MAX, &[1], F32, 0);
    c.bytes("2^32 - 1 dimensions", &dims.bytes(), is!(Dims { .. }));
    c.bytes("a dimension of 0", &tensor(&[32, 0], Q4_0, 0), is!(EmptyShape { .. }));
    c.bytes(
        "a shape whose product wraps to 0",
        &tensor(&[1 << 32, 1 << 32], F32, 0),
        is!(ShapeOverflow { .. }),
    );
    let wraps = [(1 << 33) + 32, 1 << 31, 1 << 31, 1];
    c.bytes("a shape whose product wraps to a little", &tensor(&wraps, F32, 0), is!(ShapeOverflow { .. }));
    c.bytes("2^63 elements", &tensor(&[1 << 62, 2], F32, 0), is!(ShapeOverflow { .. }));
    c.bytes("2^62 floats, 2^64 bytes", &tensor(&[1 << 62], F32, 0), is!(ShapeOverflow { .. }));
    c.bytes("2^64 - 1 in one dimension", &tensor(&[u64::MAX], F32, 0), is!(ShapeOverflow { .. }));
    c.bytes("an unknown type's overflow", &tensor(&[1 << 32, 1 << 32], 99, 0), is!(ShapeOverflow { .. }));
    c.bytes("rows of 33 in Q4_0", &tensor(&[33, 32], Q4_0, 0), is!(PartialBlock { row: 33, block: 32, .. }));
    c.bytes("rows of 32 in Q4_K", &tensor(&[32, 8], Q4_K, 0), is!(PartialBlock { block: 256, .. }));
    c.bytes("a scalar in Q4_0", &tensor(&[], Q4_0, 0), is!(PartialBlock { row: 1, .. }));
    c.bytes("offset 1", &tensor(&[1], F32, 1), is!(Misaligned { offset: 1, alignment: 32, .. }));
    c.bytes("offset 16", &tensor(&[1], F32, 16), is!(Misaligned { .. }));
    c.bytes("offset beyond the file", &tensor(&[1], F32, 1 << 20), is!(OutOfBounds { .. }));
    c.bytes("offset 2^64 - 32", &tensor(&[8], F32, u64::MAX - 31), is!(OutOfBounds { .. }));
    c.bytes("data 4 bytes beyond the file", &tensor(&[65], F32, 0), is!(OutOfBounds { .. }));
    c.bytes("a unknown type beyond the file", &tensor(&[1], 99, 1 << 20), is!(OutOfBounds { .. }));
    c.bytes("2^60 elements", &tensor(&[1 << 60], F32, 0), is!(OutOfBounds { .. }));
    let two = |a: u64, b: u64| Raw::new().tensor("a", &[16], F32, a).tensor("b", &[16], F32, b).bytes();
    c.bytes("two tensors at one offset", &two(64, 64), is!(Overlap { .. }));
    c.bytes("two tensors half over each other", &two(0, 32), is!(Overlap { .. }));
    c.bytes("the same, in reverse order", &two(32, 0), is!(Overlap { .. }));
    let inside = Raw::new().tensor("a", &[64], F32, 0).tensor("b", &[1], F32, 128);
    c.bytes("a tensor inside another", &inside.bytes(), is!(Overlap { .. }));
}

fn use_of_values(c: &mut Corpus) {
    let flags = Raw::new().key("k", 9, array(7, 2, &[1, 2])).bytes();
    let get_bools = |g: &Gguf| g.metadata().get::<Vec<bool>>("k").map(drop);
    c.using("a boolean 2 in an array", &flags, get_bools, is!(WrongType { .. }));
    let latin1 = Raw::new().key("k", 9, array(8, 2, &[text(b"a"), text(b"\xe9")].concat())).bytes();
    let get_texts = |g: &Gguf| g.metadata().get::<Vec<&str>>("k").map(drop);
    c.using("Latin-1 in an array", &latin1, get_texts, |p| p.to_string().contains("element 1 is not valid"));
    let get_count = |g: &Gguf| g.metadata().get::<u32>("flag").map(drop);
    c.using("a boolean for a count", &valid().bytes(), get_count, is!(WrongType { .. }));
    let get_missing = |g: &Gguf| g.metadata().get::<u32>("llama.block_count").map(drop);
    c.using("a missing key", &valid().bytes(), get_missing, is!(MissingKey { .. }));
    let format = |g: &Gguf| g.tensors().try_for_each(|t| t.format().map(drop));
    let unknown = Raw::new().tensor("t", &[1], 9999, 0).bytes();
    c.using("tensor type 9999", &unknown, format, is!(Unsupported { .. }));
    let integer = Raw::new().tensor("t", &[1], 26, 0).bytes();
    c.using("a tensor of integers", &integer, format, |p| p.to_string().contains("I32 is not supported"));
}

fn splits(c: &mut Corpus) {
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let part = |no: u16, count: u16, tensor: &str| {
        Raw::new().key("split.no", 2, no.to_le_bytes()).key("split.count", 2, count.to_le_bytes()).tensor(
            tensor,
            &[1],
            F32,
            0,
        )
    };
    let (a, b) = (part(0, 2, "a"), part(1, 2, "b"));
    c.split("a part without its name", &[("m.gguf", a.clone())], is!(SplitName { count: 2 }));
    c.split("a name of another count", &[("m-00001-of-00003.gguf", a.clone())], is!(SplitName { count: 2 }));
    c.split("split.count 0", &[(one, part(0, 0, "a"))], is!(SplitName { count: 0 }));
    c.split("a missing part", &[(one, a.clone())], is!(MissingPart { no: 2, count: 2 }));
    c.split("a missing first part", &[(two, b.clone())], is!(MissingPart { no: 1, count: 2 }));
    let many = part(0, u16::MAX, "a");
    c.split("65535 parts", &[("m-00001-of-65535.gguf", many)], is!(MissingPart { no: 2, .. }));
    let no = is!(SplitMismatch { key: "split.no", .. });
    c.split("the first part again (a cycle)", &[(one, a.clone()), (two, a.clone())], no);
    c.split("parts exchanged", &[(one, b.clone()), (two, a.clone())], no);
    let three = part(1, 3, "b");
    c.split(
        "a part of three",
        &[(one, a.clone()), (two, three)],
        is!(SplitMismatch { key: "split.count", .. }),
    );
    let plain = Raw::new().tensor("b", &[1], F32, 0);
    c.split("a second part that is none", &[(one, a.clone()), (two, plain)], is!(MissingKey { .. }));
    let same = part(1, 2, "a");
    c.split("a tensor in two parts", &[(one, a.clone()), (two, same)], is!(DuplicateTensor { .. }));
    let total = a.clone().key("split.tensors.count", 5, 3i32.to_le_bytes());
    let wrong_total = is!(SplitMismatch { key: "split.tensors.count", expected: 2, got: 3 });
    c.split("a tensor lost", &[(one, total), (two, b.clone())], wrong_total);
    let broken = Raw { version: 9, ..b.clone() };
    c.split("a broken second part", &[(one, a.clone()), (two, broken)], is!(Version { got: 9 }));
    let negative = Raw::new().key("split.count", 5, (-2i32).to_le_bytes());
    c.split("split.count -2", &[(one, negative)], is!(WrongType { .. }));
}

/// Uses everything that an accepted file offers.
fn use_all(gguf: &Gguf) -> usize {
    let mut seen = 0;
    for (key, value) in gguf.metadata().iter() {
        if let Value::Array(array) = value {
            seen += array.iter().filter(|v| v.is_ok()).count();
        }
        seen += usize::from(gguf.metadata().get::<Vec<&str>>(key).is_ok());
        seen += usize::from(gguf.metadata().get::<Vec<u8>>(key).is_ok());
        seen += usize::from(gguf.metadata().get::<f32>(key).is_ok());
        seen += value.to_string().len();
    }
    for tensor in gguf.tensors() {
        seen += tensor.data().len() + tensor.elements() as usize;
        seen += usize::from(tensor.format().is_ok());
        assert_eq!(gguf.tensor(tensor.name()).unwrap().data(), tensor.data());
    }
    seen
}

#[test]
fn mutations_never_panic() {
    let file = valid().bytes();
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut accepted, mut rejected) = (0, 0);
    let mut run = |bytes: Vec<u8>, what: &dyn Fn() -> String| {
        let result = std::panic::catch_unwind(|| Gguf::from_bytes(bytes).map(|gguf| use_all(&gguf)));
        match result.unwrap_or_else(|_| panic!("panicked on {}", what())) {
            Ok(_) => accepted += 1,
            Err(_) => rejected += 1,
        }
    };
    for at in 0..file.len() {
        for value in
            [0, 1, 0x7f, 0x80, 0xff, file[at] ^ 1, file[at].wrapping_add(1), file[at].wrapping_sub(1)]
        {
            let mut bytes = file.clone();
            bytes[at] = value;
            run(bytes, &|| format!("byte {at} = {value}"));
        }
        run(file[..at].to_vec(), &|| format!("cut at {at}"));
    }
    for _ in 0..20_000 {
        let (from, to, len) = (random(file.len()), random(file.len()), 1 + random(24));
        let piece = &file[from..file.len().min(from + len)];
        let rest = file.len().min(to + random(24));
        let bytes = [&file[..to], piece, &file[rest.max(to)..]].concat();
        run(bytes, &|| format!("bytes {from}+{len} in place of {to}..{rest}"));
    }
    println!("{accepted} mutations accepted, {rejected} rejected");
    assert!(accepted > 1000 && rejected > 1000);
}
