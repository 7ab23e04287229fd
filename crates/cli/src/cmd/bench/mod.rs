//! `kinfer bench`: prefill and decode speed.

mod bounds;
mod measure;
mod plot;
mod report;
pub mod synthetic;
mod work;

use crate::ctx::Ctx;
use crate::exit::CliError;
use crate::model::{CacheArgs, LoadArgs, NumericsArg, OffloadArgs};
use crate::{model, progress, term};
use bounds::Bounds;
use clap::builder::FalseyValueParser;
use kinfer::peak::Arithmetic;
use kinfer::synthetic::Synthetic;
use kinfer::{Device, EngineBuilder, GpuPower, Isa, Model, machine};
use measure::{Bench, Case, Kind};
use report::{Format, Group, Measured};
use std::path::PathBuf;
use std::time::Instant;
use work::{Weights, Work};

/// Measure the speed of prompts and of generation
#[derive(clap::Args)]
#[command(after_help = "\
Prefill (pp) computes a prompt in steps of --ubatch-size tokens; decode (tg) generates tokens one by one, always the
likeliest. Only the model is timed: no tokenizer, no sampling, as in llama-bench. A test at depth D has D tokens in
the cache before it begins. A warm-up that is not counted comes first.

tok/s is the median of the repetitions. GB/s are bytes of weights, keys and values that the test reads in a second, GOPS its
operations (two per multiply-add); beside each is the share of what the machine was measured to do just before, with as
many threads: reads from memory, and multiply-adds in registers (bf16 on AMX: on tiles as they come from the
first-level cache). A model that fits into the processor's cache can read
faster than memory.

--synthetic SHAPE:QUANT measures random weights in a model's shape, from a file that is made once in KINFER_CACHE/synthetic:
  SHAPE  tiny (for tests), smollm2-135m, gemma3-270m, llama-1b, llama-8b, granite-1b-a400m
  QUANT  q4_k_m, q5_k_m (the usual mixes), or a format: q4_0, q4_1, q5_0, q8_0, q6_k, f16, ...

Every repetition must give the same tokens; if one does not, kinfer says so and ends with code 1.

Lists are separated by commas. Examples:
  kinfer bench smollm2
  kinfer bench smollm2 gemma3:270m -p 0 -n 128 -t 1,2,4       decode only, by threads
  kinfer bench smollm2 -p 512 -n 64 -d 0,1024,4096            by depth
  kinfer bench smollm2 -p 0 -d 4096 -ctk q8_0 -ctv q8_0       with a smaller cache
  kinfer bench smollm2 -p 0 -n 64 -np 1,8,32                  sequences side by side
  kinfer bench --synthetic llama-1b:q4_k_m,llama-1b:q8_0      without fetching a model
  kinfer bench smollm2 -p 64,512 -d 0,1024 --plot speed.svg   as a figure
  kinfer bench smollm2 --output csv >> speed.csv")]
pub struct BenchArgs {
    /// Models: short names, hub references or .gguf files
    #[arg(value_name = "MODEL", required_unless_present = "synthetic")]
    models: Vec<String>,
    /// Random weights in a model's shape, SHAPE:QUANT
    #[arg(long, env = "KINFER_SYNTHETIC", value_name = "SHAPE:QUANT,...", value_delimiter = ',')]
    synthetic: Vec<Synthetic>,
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
        visible_alias = "depth",
        env = "KINFER_N_DEPTH",
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0",
        value_parser = model::count
    )]
    n_depth: Vec<usize>,
    /// Sequences that decode side by side, also written -np
    #[arg(long, visible_alias = "batch", env = "KINFER_PARALLEL", value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = model::size)]
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
    #[command(flatten)]
    cache: CacheArgs,
    /// Run on this device: auto (the CPU), cpu, candle, cuda, cuda:1, …
    #[arg(long, env = "KINFER_DEVICE", value_name = "NAME", default_value = "auto", value_parser = model::device)]
    device: Device,
    #[command(flatten)]
    offload: OffloadArgs,
    /// Instruction set instead of the best one: scalar, avx2, avxvnni, avx512vnni, avx512bf16, amx, neon, dotprod, i8mm
    #[arg(long, env = "KINFER_ISA", value_name = "NAME")]
    isa: Option<String>,
    /// How the CPU computes: the best way for each token's role, all in int8, or all in f32
    #[arg(long, env = "KINFER_NUMERICS", value_name = "KIND", default_value = "auto")]
    numerics: NumericsArg,
    /// Count from the first run on, without a warm-up
    #[arg(long, env = "KINFER_NO_WARMUP", value_parser = FalseyValueParser::new())]
    no_warmup: bool,
    /// Do not measure the machine's bounds, which takes a second or two
    #[arg(long, env = "KINFER_NO_BOUNDS", value_parser = FalseyValueParser::new())]
    no_bounds: bool,
    /// Draw the results, too: speed by depth, sequences and prompt, and the roofline
    #[arg(long, env = "KINFER_PLOT", value_name = "FILE.svg", conflicts_with = "no_bounds")]
    plot: Option<PathBuf>,
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
    args.load_args(None).options(EngineBuilder::default())?;
    model::check_names(&args.models)?;
    let threads: Vec<Option<u16>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().map(|&t| Some(t)).collect() };
    let bounds = args.bounds(ctx, &threads)?;
    let mut models: Vec<(String, String)> = args.models.iter().map(|m| (m.clone(), m.clone())).collect();
    for synthetic in &args.synthetic {
        let path = synthetic::file(ctx, synthetic)?;
        models.push((synthetic.to_string(), path.display().to_string()));
    }
    let total = models.len() * threads.len() * cases.len() * args.repetitions;
    let bar = progress::steps(ctx, "measuring", total as u64);
    let power = args.power(ctx);
    let mut groups = Vec::new();
    for (name, path) in &models {
        for (i, &threads) in threads.iter().enumerate() {
            let start = Instant::now();
            let model = args.load_args(threads).load(ctx, Some(path), args.engine(&cases))?;
            let load = start.elapsed();
            fits(&cases, model.spec().context)?;
            let kv = args.cache.into();
            let bounds = bounds.get(i).map(|&b| anyhow::Ok((b, args.arithmetic(&model, b)?)));
            let bounds = bounds.transpose()?;
            let mut group = Group::new(name, &model, threads, kv, load, bounds);
            let mut bench = Bench::new(&model, &cases, kv)?;
            for case in &cases {
                bench.prepare(case, !args.no_warmup)?;
                let joules = || power.as_ref().and_then(|p| p.joules().ok());
                let before = joules();
                let runs = bench.run(case, args.repetitions, || bar.inc(1))?;
                let joules = joules().zip(before).map(|(after, before)| after - before);
                let work = Work::of(case, model.spec(), Weights::of(&model), kv);
                group.tests.push(Measured::new(*case, &runs, work, joules));
            }
            groups.push(group);
        }
    }
    bar.finish_and_clear();
    term::out(&args.output.write(&groups)?)?;
    if let Some(path) = &args.plot {
        plot::write(path, &groups)?;
        ctx.note(&format!("drawn: {}", path.display()));
    }
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

    /// The machine's bounds for each number of threads; none where they are not wanted, or a debug build could not reach them.
    fn bounds(&self, ctx: &Ctx, threads: &[Option<u16>]) -> anyhow::Result<Vec<Bounds>> {
        if self.no_bounds || cfg!(debug_assertions) {
            return Ok(Vec::new());
        }
        if let Some(peak) = self.device.peak()? {
            return Ok(vec![peak.into(); threads.len()]);
        }
        let isa = self.instruction_set()?;
        let counts: Vec<usize> =
            threads.iter().map(|t| t.map_or_else(machine::threads, usize::from)).collect();
        Ok(bounds::measure(ctx, isa, &counts))
    }

    /// A GPU's energy counter.
    fn power(&self, ctx: &Ctx) -> Option<GpuPower> {
        match self.device.power()? {
            Ok(power) => Some(power),
            Err(reason) => {
                ctx.note(&format!("no power is measured: {reason}"));
                None
            }
        }
    }

    fn instruction_set(&self) -> anyhow::Result<Isa> {
        match model::given(&self.isa) {
            Some(name) => Ok(Isa::parse(name).map_err(CliError::usage)?),
            None => Ok(Isa::best()),
        }
    }

    /// What a model's prompts are computed in, for the most part.
    fn arithmetic(&self, model: &Model, bounds: Bounds) -> anyhow::Result<Arithmetic> {
        let quantised = model.gguf().tensors().any(|t| t.tensor_type().is_some_and(|t| t.block_len() > 1));
        let halves = model.gguf().tensors().any(|t| matches!(&*t.type_name(), "F16" | "BF16"));
        let cpu = matches!(self.device, Device::Auto | Device::Cpu);
        let multiplies_bf16 = match self.instruction_set()? {
            Isa::Amx => quantised || halves,
            Isa::Avx512Bf16 => halves && !quantised,
            _ => false,
        };
        let tensor_cores = bounds.threads.is_none() && bounds.bf16_gops > 0.0;
        Ok(match self.numerics {
            NumericsArg::Auto if tensor_cores => Arithmetic::Bf16,
            NumericsArg::Auto | NumericsArg::Int8 if bounds.threads.is_none() => Arithmetic::Int8,
            NumericsArg::Auto if cpu && multiplies_bf16 => Arithmetic::Bf16,
            NumericsArg::Auto | NumericsArg::Int8 if cpu && quantised => Arithmetic::Int8,
            _ => Arithmetic::F32,
        })
    }

    fn load_args(&self, threads: Option<u16>) -> LoadArgs {
        LoadArgs {
            device: self.device,
            threads,
            isa: self.isa.clone(),
            numerics: self.numerics,
            offload: self.offload.clone(),
            ..LoadArgs::default()
        }
    }

    /// What a GPU has to have room for beside layers.
    fn engine(&self, cases: &[Case]) -> EngineBuilder {
        let most = |of: fn(&Case) -> usize| cases.iter().map(of).max().unwrap_or(1);
        let (context, parallel) = (most(|c| c.depth + c.tokens), most(|c| c.parallel));
        EngineBuilder::default()
            .context(context)
            .parallel(parallel)
            .ubatch(most(|c| c.ubatch))
            .batch(most(|c| c.ubatch).max(parallel))
            .kv(self.cache)
    }
}
