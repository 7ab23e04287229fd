//! Where the tests' files are.
#![allow(dead_code)] // each test file uses a part of it

use std::path::{Path, PathBuf};

use kinfer_load::gguf::Gguf;
use kinfer_load::tokenizer::{Tokenizer, VocabSpec};
use safetensors::{Dtype, tensor::TensorView};

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

/// The tokenizer in a GGUF file.
pub fn tokenizer(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    Tokenizer::new(&VocabSpec::from_metadata(gguf.metadata()).unwrap()).unwrap()
}

/// A folder with this config.json and with these tensors, all elements 0.
pub fn folder(config: &serde_json::Value, tensors: &[(&str, Dtype, &[usize])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let data = [0u8; 1024];
    let views = tensors.iter().map(|&(name, ty, shape)| {
        let bytes = shape.iter().product::<usize>() * ty.bitsize() / 8;
        (name, TensorView::new(ty, shape.to_vec(), &data[..bytes]).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}
