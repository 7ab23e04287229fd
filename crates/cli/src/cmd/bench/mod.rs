//! `kinfer bench`: prefill and decode speed.

mod measure;
mod report;

use crate::ctx::Ctx;
use crate::exit::CliError;
use crate::model::{KvArg, LoadArgs, NumericsArg};
use crate::{model, progress, term};
use clap::builder::FalseyValueParser;
use kinfer::Device;
use measure::{Bench, Case, Kind};
use report::{Format, Group, Measured};
use std::time::Instant;

/// Measure the speed of prompts and of generation
#[derive(clap::Args)]
#[command(after_help = "\
Prefill (pp) computes a prompt in steps of --ubatch-size tokens; decode (tg) generates tokens one by one, always the
likeliest. Only the model is timed: no tokenizer, no sampling, as in llama-bench. A test at depth D has D tokens in
the cache before it begins. A warm-up that is not counted comes first.

GB/s are the bytes of weights that the test reads in a second, without the cache of keys and values. For decode, the
memory bandwidth that `kinfer doctor` measures is the bound.

Every repetition must give the same tokens; if one does not, kinfer says so and ends with code 1.

Lists are separated by commas. Examples:
  kinfer bench smollm2
  kinfer bench smollm2 gemma3:270m -p 0 -n 128 -t 1,2,4       decode only, by threads
  kinfer bench smollm2 -p 512 -n 64 -d 0,1024,4096            by depth
  kinfer bench smollm2 -p 0 -n 64 -np 1,8,32                  sequences side by side
  kinfer bench smollm2 --output csv >> speed.csv")]
pub struct BenchArgs {
    /// Models: short names, hub references or .gguf files
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<String>,
    /// Tokens of the prompts; 0: no prefill test
    #[arg(
        short = 'p',
        long,
        env = "KINFER_N_PROMPT",
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "512",
        value_parser = model::count
    )]
    n_prompt: Vec<usize>,
    /// Tokens to generate; 0: no decode test
    #[arg(
        short,
        long,
        env = "KINFER_N_GEN",
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "128",
        value_parser = model::count
    )]
    n_gen: Vec<usize>,
    /// Tokens in the cache before the test
    #[arg(
        short = 'd',
        long,
        env = "KINFER_N_DEPTH",
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0",
        value_parser = model::count
    )]
    n_depth: Vec<usize>,
    /// Sequences that decode side by side, also written -np
    #[arg(long, env = "KINFER_PARALLEL", value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = model::size)]
    parallel: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, env = "KINFER_REPETITIONS", value_name = "N", default_value = "5", value_parser = model::size)]
    repetitions: usize,
    /// Threads that compute [default: as many as this process may run at once]
    #[arg(short, long, env = "KINFER_THREADS", value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// Most tokens of a prompt computed at once, also written -ub
    #[arg(long, env = "KINFER_UBATCH_SIZE", value_name = "N,...", value_delimiter = ',', default_value = "512", value_parser = model::size)]
    ubatch_size: Vec<usize>,
    /// Element type of cached keys and values
    #[arg(long, env = "KINFER_CACHE_TYPE", value_name = "TYPE", default_value = "f16")]
    cache_type: KvArg,
    /// Run on this device: auto, cpu, candle
    #[arg(long, env = "KINFER_DEVICE", value_name = "NAME", default_value = "auto", value_parser = model::device)]
    device: Device,
    /// Instruction set instead of the best one: scalar, avx2, avx512vnni, ...
    #[arg(long, env = "KINFER_ISA", value_name = "NAME")]
    isa: Option<String>,
    /// How the CPU computes: the best way for each token's role, all in int8, or all in f32
    #[arg(long, env = "KINFER_NUMERICS", value_name = "KIND", default_value = "auto")]
    numerics: NumericsArg,
    /// Count from the first run on, without a warm-up
    #[arg(long, env = "KINFER_NO_WARMUP", value_parser = FalseyValueParser::new())]
    no_warmup: bool,
    /// Form of the results
    #[arg(short, long, env = "KINFER_OUTPUT", value_name = "FORM", default_value = "table")]
    output: Format,
}

/// Runs it.
pub fn run(args: BenchArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let cases = args.cases();
    if cases.is_empty() {
        return Err(CliError::usage("nothing to measure: give -p or -n a number above 0"));
    }
    args.load_args(None).options()?;
    model::check_names(&args.models)?;
    let threads: Vec<Option<u16>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().map(|&t| Some(t)).collect() };
    let total = args.models.len() * threads.len() * cases.len() * args.repetitions;
    let bar = progress::steps(ctx, "measuring", total as u64);
    let mut groups = Vec::new();
    for name in &args.models {
        for &threads in &threads {
            let start = Instant::now();
            let model = args.load_args(threads).load(ctx, Some(name))?;
            let load = start.elapsed();
            fits(&cases, model.spec().context)?;
            let mut group = Group::new(name, &model, threads, args.cache_type.into(), load);
            let mut bench = Bench::new(&model, &cases, args.cache_type.into())?;
            for case in &cases {
                let runs = bench.run(case, args.repetitions, !args.no_warmup, || bar.inc(1))?;
                group.tests.push(Measured::new(*case, &runs, model.bytes_per_token()));
            }
            groups.push(group);
        }
    }
    bar.finish_and_clear();
    term::out(&args.output.write(&groups)?)?;
    match groups.iter().flat_map(|g| g.tests.iter().map(move |t| (g, t))).find(|(_, t)| !t.same_tokens) {
        None => Ok(()),
        Some((group, test)) => {
            anyhow::bail!("{} {}: the repetitions gave different tokens", group.name, test.case)
        }
    }
}

/// Refuses tests that are longer than the model's context.
fn fits(cases: &[Case], context: usize) -> anyhow::Result<()> {
    match cases.iter().find(|c| c.depth + c.tokens > context) {
        Some(case) => Err(CliError::usage(format!(
            "{case} takes {} tokens; the model was trained for {context}",
            case.depth + case.tokens
        ))),
        None => Ok(()),
    }
}

impl BenchArgs {
    /// All tests, in the order in which they run: by depth, so that a depth is filled once.
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &depth in &self.n_depth {
            for &ubatch in &self.ubatch_size {
                let tokens = self.n_prompt.iter().filter(|&&p| p > 0);
                cases.extend(tokens.map(|&tokens| Case {
                    kind: Kind::Prefill,
                    tokens,
                    depth,
                    parallel: 1,
                    ubatch,
                }));
            }
            let ubatch = self.ubatch_size.iter().copied().max().unwrap_or(1);
            for &parallel in &self.parallel {
                let tokens = self.n_gen.iter().filter(|&&n| n > 0);
                cases.extend(tokens.map(|&tokens| Case {
                    kind: Kind::Decode,
                    tokens,
                    depth,
                    parallel,
                    ubatch,
                }));
            }
        }
        cases
    }

    fn load_args(&self, threads: Option<u16>) -> LoadArgs {
        LoadArgs {
            device: self.device,
            threads,
            isa: self.isa.clone(),
            numerics: self.numerics,
            ..LoadArgs::default()
        }
    }
}
