//! `kinfer check`: a device's results beside the CPU's.

use super::bench::synthetic;
use crate::ctx::Ctx;
use crate::exit;
use crate::model::{CacheArgs, LoadArgs};
use crate::table::Table;
use crate::{progress, term};
use kinfer::step::{BLOCK_LEN, Batch, Draw, Drawn, Outputs, Role, Runner, RunnerLimits, Sampler};
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
bf16 about 1e-5. More than 2e-3 is a fault of the device, of its driver or of kinfer. A device that
draws tokens itself must draw those that the host draws from its logits.", after_help = help())]
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
/// How the sequences' tokens are drawn: as by default, warmer, and the likeliest.
const DRAWS: [Draw; SEQUENCES] = [
    Draw { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, unit: 0.7 },
    Draw { temperature: 1.5, top_k: 200, top_p: 1.0, min_p: 0.0, unit: 0.9 },
    Draw::GREEDY,
];

/// Runs it.
pub fn run(args: CheckArgs, ctx: &Ctx) -> anyhow::Result<()> {
    args.load.options(engine())?;
    let models = match &args.models[..] {
        [] => all()?,
        given => given.to_vec(),
    };
    let bar = progress::steps(ctx, "checking", models.len() as u64);
    let mut table = Table::new(["model", ">prompt", ">generated", "tokens", ""]);
    let (mut passed, mut failed, mut device) = (0, 0, String::new());
    for synthetic in models {
        let path = synthetic::file(ctx, &synthetic)?;
        let model = args.load.load(ctx, Some(&path.display().to_string()), engine())?;
        let exact = reference(&path)?;
        let found = errors(&model, &exact, args.cache.into())?;
        device = model.device();
        let good = found.prompt < BOUND && found.generated < BOUND && found.draws;
        if good {
            passed += 1
        } else {
            failed += 1
        }
        table.row([
            synthetic.to_string(),
            format!("{:.1e}", found.prompt),
            format!("{:.1e}", found.generated),
            if found.draws { "as drawn from its logits" } else { "not as drawn from its logits" }.into(),
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
    /// Whether the tokens that it draws itself are those that the host draws from its logits.
    draws: bool,
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
    let (mut prompt, mut generated, mut draws) = (Error::default(), Error::default(), true);
    let mut sampler = Sampler::new(vocab as usize);

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
        batch.draws.extend_from_slice(&DRAWS[..sequences]);
        let rows = batch.draws.iter().enumerate();
        let wanted: Vec<Drawn> = rows.map(|(o, d)| sampler.draw_unchanged(logits.row(o), d)).collect();
        let drawn = step(&mut *runner, &batch)?.drawn;
        draws &= drawn.is_empty() || drawn == wanted;
    }
    Ok(Errors { prompt: prompt.normalised(), generated: generated.normalised(), draws })
}

fn step<'a>(runner: &'a mut dyn Runner, batch: &Batch) -> anyhow::Result<Outputs<'a>> {
    Ok(runner.step(batch).map_err(kinfer::Error::from)?)
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
