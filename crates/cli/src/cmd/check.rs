//! `kinfer check`: a device's results beside the CPU's.

use super::bench::synthetic;
use crate::ctx::Ctx;
use crate::exit;
use crate::model::{CacheArgs, LoadArgs};
use crate::table::Table;
use crate::{progress, term};
use kinfer::step::{BLOCK_LEN, Batch, Outputs, Role, Runner, RunnerLimits};
use kinfer::synthetic::{Synthetic, quants};
use kinfer::{EngineBuilder, KvTypes, LoadOptions, Model, Numerics};
use std::path::Path;
use std::sync::Arc;

/// Check a device's results against the CPU's exact ones
#[derive(clap::Args)]
#[command(long_about = "\
Check a device's results against the CPU's exact ones

Runs small models of random weights, one of each format and some of each shape, on the device and
in single precision on the CPU: a prompt, and tokens after it, in one sequence and in three. What
differs is the normalised mean square error of all logits; 8-bit activations make about 1e-4 of it,
bf16 about 1e-5. More than 2e-3 is a fault of the device, of its driver or of kinfer.", after_help = help())]
pub struct CheckArgs {
    /// Only these models, written SHAPE:FORMAT as for `kinfer bench --synthetic`
    models: Vec<Synthetic>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    load: LoadArgs,
}

fn help() -> String {
    format!(
        "\
Examples:
  kinfer check --device cuda
  kinfer check --device cuda -ngl 2 tiny:q4_k     one of two layers, and the output, on the GPU
  KINFER_ISA=avx2 kinfer check                    the CPU's fast path against its exact one

{}",
        exit::HELP
    )
}

/// What a correct device stays below.
const BOUND: f64 = 2e-3;
const PROMPT: usize = 70;
const GENERATED: usize = 6;
const SEQUENCES: usize = 3;
/// Likeliest tokens that are asked for.
const ENOUGH: usize = 8;

/// Runs it.
pub fn run(args: CheckArgs, ctx: &Ctx) -> anyhow::Result<()> {
    args.load.options(engine())?;
    let models = match &args.models[..] {
        [] => all()?,
        given => given.to_vec(),
    };
    let bar = progress::steps(ctx, "checking", models.len() as u64);
    let mut table = Table::new(["model", ">prompt", ">generated", "likeliest tokens", ""]);
    let (mut passed, mut failed, mut device) = (0, 0, String::new());
    for synthetic in models {
        let path = synthetic::file(ctx, &synthetic)?;
        let model = args.load.load(ctx, Some(&path.display().to_string()), engine())?;
        let exact = reference(&path)?;
        let found = errors(&model, &exact, args.cache.into())?;
        device = model.device();
        let good = found.prompt < BOUND && found.generated < BOUND && found.likeliest;
        if good {
            passed += 1
        } else {
            failed += 1
        }
        table.row([
            synthetic.to_string(),
            format!("{:.1e}", found.prompt),
            format!("{:.1e}", found.generated),
            if found.likeliest { "as its logits say" } else { "not as its logits say" }.into(),
            if good { "ok" } else { "FAILED" }.into(),
        ]);
        bar.inc(1);
    }
    bar.finish_and_clear();
    term::out(&format!(
        "{device}, against the CPU in single precision\n{table}{passed} passed, {failed} failed\n"
    ))?;
    anyhow::ensure!(failed == 0, "{failed} of {} models give wrong results on this device", passed + failed);
    Ok(())
}

/// One small model of each format, and of each other shape one.
fn all() -> anyhow::Result<Vec<Synthetic>> {
    let formats = quants().into_iter().map(|quant| format!("tiny:{quant}"));
    let shapes = ["tiny-gemma3:q4_k_m", "tiny-gemma3:q8_0", "tiny-moe:q4_k_m", "tiny-moe:mxfp4"];
    let named = formats.chain(shapes.map(String::from)).map(|name| name.parse());
    named.collect::<Result<_, _>>().map_err(|e| kinfer::Error::Model(e).into())
}

fn engine() -> EngineBuilder {
    EngineBuilder::default().context(128).parallel(SEQUENCES).batch(128).ubatch(128)
}

/// The same model on the CPU in single precision.
fn reference(path: &Path) -> anyhow::Result<Arc<Model>> {
    let options = LoadOptions { numerics: Numerics::F32, ..LoadOptions::default() };
    Ok(Model::load(path, options)?)
}

/// How far a device is off.
struct Errors {
    prompt: f64,
    generated: f64,
    /// Whether the likeliest tokens that it finds itself are those of its logits.
    likeliest: bool,
}

fn errors(model: &Arc<Model>, exact: &Arc<Model>, kv: KvTypes) -> anyhow::Result<Errors> {
    let each = (PROMPT + GENERATED).div_ceil(BLOCK_LEN);
    let limits = |kv| RunnerLimits {
        rows: 128,
        outputs: SEQUENCES,
        logits: true,
        blocks: SEQUENCES * each,
        states: SEQUENCES,
        context: each * BLOCK_LEN,
        kv,
    };
    let mut runner = model.runner(limits(kv))?;
    let mut truth = exact.runner(limits(kv))?;
    let vocab = model.spec().vocab as u32;
    let blocks = |s: usize| (0..each).map(|b| (b * SEQUENCES + s) as u32).collect::<Vec<_>>();
    let (mut prompt, mut generated, mut likeliest) = (Error::default(), Error::default(), true);

    let mut batch = Batch::default();
    for s in 0..SEQUENCES {
        let tokens: Vec<u32> = (0..PROMPT).map(|i| (7919 * (i + 1) * (s + 3)) as u32 % vocab).collect();
        for (chunk, start) in [(&tokens[..64], 0), (&tokens[64..], 64)] {
            batch.clear();
            batch.push_state(s as u32, Role::Prompt, chunk, start, &blocks(s), start > 0);
            prompt.add(step(&mut *runner, &batch)?.data, step(&mut *truth, &batch)?.data);
        }
    }
    for (i, sequences) in (0..GENERATED).zip([1, 1, 1, SEQUENCES, SEQUENCES, SEQUENCES]) {
        batch.clear();
        for s in 0..SEQUENCES {
            // The others catch up in steps of their own.
            if s < sequences {
                let token = (104_729 * (i + 1) * (s + 1)) as u32 % vocab;
                let start = if s == 0 { PROMPT + i } else { PROMPT + i - 3 };
                batch.push_state(s as u32, Role::Generated, &[token], start, &blocks(s), true);
            }
        }
        generated.add(step(&mut *runner, &batch)?.data, step(&mut *truth, &batch)?.data);
        let logits = step(&mut *runner, &batch)?;
        let wanted: Vec<Vec<u32>> = (0..sequences).map(|o| best(logits.row(o))).collect();
        batch.enough = ENOUGH;
        let logits = step(&mut *runner, &batch)?;
        for (o, wanted) in wanted.iter().enumerate() {
            if let Some(found) = logits.likeliest(o, ENOUGH) {
                likeliest &= found.iter().map(|l| l.id).eq(wanted.iter().copied());
            }
        }
    }
    Ok(Errors { prompt: prompt.normalised(), generated: generated.normalised(), likeliest })
}

fn step<'a>(runner: &'a mut dyn Runner, batch: &Batch) -> anyhow::Result<Outputs<'a>> {
    Ok(runner.step(batch).map_err(kinfer::Error::from)?)
}

/// The likeliest tokens, of equals the first.
fn best(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    ids.truncate(ENOUGH);
    ids
}

/// A normalised mean square error.
#[derive(Default)]
struct Error {
    squares: f64,
    of: f64,
}

impl Error {
    fn add(&mut self, got: &[f32], exact: &[f32]) {
        for (&got, &exact) in got.iter().zip(exact) {
            self.squares += f64::from(got - exact).powi(2);
            self.of += f64::from(exact).powi(2);
        }
        if got.len() != exact.len() {
            self.squares = f64::INFINITY;
        }
    }

    /// NaN counts as the largest.
    fn normalised(&self) -> f64 {
        let error = self.squares / self.of;
        if error.is_nan() { f64::INFINITY } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_nan_is_one() {
        let of = |got: &[f32]| {
            let mut error = Error::default();
            error.add(got, &[3.0, 4.0]);
            error.normalised()
        };
        assert_eq!(of(&[3.0, 4.0]), 0.0);
        assert_eq!(of(&[3.0, 4.5]), 0.01);
        assert_eq!(of(&[3.0, f32::NAN]), f64::INFINITY);
        assert_eq!(of(&[3.0]), f64::INFINITY);
    }
}
