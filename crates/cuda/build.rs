//! Compresses the PTX of `kernels/cuda/ptx` to be embedded: `src/ptx.rs` includes it from the output folder.

use flate2::{Compression, write::DeflateEncoder};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder =
        |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("no {name}")));
    let from = folder("CARGO_MANIFEST_DIR")?.join("../../kernels/cuda/ptx");
    let to = folder("OUT_DIR")?;
    println!("cargo::rerun-if-changed={}", from.display());
    for level in fs::read_dir(&from)? {
        let level = level?;
        let to = to.join(level.file_name());
        fs::create_dir_all(&to)?;
        for module in fs::read_dir(level.path())? {
            let module = module?;
            compress(&module.path(), &to.join(module.file_name()))?;
        }
    }
    Ok(())
}

fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let mut encoder = DeflateEncoder::new(fs::File::create(to)?, Compression::best());
    encoder.write_all(&fs::read(from)?)?;
    encoder.finish()?.flush()
}
