//! What the integration tests share.
#![allow(dead_code)] // each test binary uses a part

use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
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

/// SplitMix64 (Steele, Lea & Flood 2014).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
