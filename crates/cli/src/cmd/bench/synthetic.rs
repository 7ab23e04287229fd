//! Files of random weights in kinfer's cache, made when they are first asked for.

use crate::cmd::list::shown;
use crate::ctx::Ctx;
use crate::exit::CliError;
use crate::{model, progress};
use anyhow::Context;
use kinfer::hub::human_size;
use kinfer::synthetic::Synthetic;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The model's file in `KINFER_CACHE/synthetic`, written where it is not there yet.
pub fn file(ctx: &Ctx, synthetic: &Synthetic) -> anyhow::Result<PathBuf> {
    let hub = model::hub(ctx)?;
    let folder = hub.config().kinfer_cache.join("synthetic");
    let path = folder.join(synthetic.file_name());
    if path.is_file() {
        ctx.detail(&format!("{synthetic}: {} is there", shown(&path)));
        return Ok(path);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", shown(&folder)))?;
    let bytes = synthetic.tensor_bytes()?;
    let free = (hub.config().free_space)(&folder).unwrap_or(u64::MAX);
    anyhow::ensure!(
        free >= bytes,
        "{synthetic} needs {} in {}, where {} are free; KINFER_CACHE names another folder",
        human_size(bytes),
        shown(&folder),
        human_size(free)
    );
    ctx.note(&format!("writing {} of random weights to {}", human_size(bytes), shown(&path)));
    // A name of its own: whole files only are found by others, also when two write at once.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let start = Instant::now();
    if let Err(e) = write(ctx, synthetic, bytes, &part) {
        // What is left is of no use; that it cannot be removed either would only hide the reason.
        let _ = fs::remove_file(&part);
        return Err(e);
    }
    fs::rename(&part, &path).with_context(|| format!("cannot make {}", shown(&path)))?;
    ctx.detail(&format!("written in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(path)
}

fn write(ctx: &Ctx, synthetic: &Synthetic, bytes: u64, path: &Path) -> anyhow::Result<()> {
    let (cancel, _working) = ctx.interrupt.download();
    let bar = progress::bytes(ctx, "writing", bytes);
    let file = File::create(path).with_context(|| format!("cannot make {}", shown(path)))?;
    let mut out = BufWriter::new(file);
    let written = synthetic.write(&mut out, |done| {
        bar.set_position(done);
        if cancel.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    bar.finish_and_clear();
    if cancel.is_cancelled() {
        return Err(CliError::Interrupted.into());
    }
    written.with_context(|| shown(path))?;
    out.flush().with_context(|| format!("cannot write {}", shown(path)))
}
