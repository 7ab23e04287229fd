//! What the integration tests share.
#![allow(dead_code, unused_imports)] // each test binary uses a part

use std::path::{Path, PathBuf};

pub use kinfer_models::synthetic::Random;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first GPU, with the kernels that `KINFER_GPU_ISA` asks for.
#[cfg(feature = "gpu-tests")]
pub fn gpu() -> kinfer_cuda::Cuda {
    let level = kinfer_cuda::Level::from_env().unwrap();
    kinfer_cuda::Cuda::new(kinfer_cuda::Options { level, ..Default::default() }).unwrap()
}

/// A real model file. A missing one is a failure that says how to get it.
pub fn model(file: &str) -> PathBuf {
    let dir = std::env::var_os("KINFER_TEST_MODELS").map(PathBuf::from);
    let path = dir.unwrap_or_else(|| root().join("target/test-models")).join(file);
    assert!(
        path.is_file(),
        "{} is missing: run `tests/fetch-models target/test-models`, or set KINFER_TEST_MODELS to the directory \
         that has it",
        path.display()
    );
    path
}
