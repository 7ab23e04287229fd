//! The results of `kinfer bench` as a table, JSON or CSV.

use super::bounds::Bounds;
use super::measure::{Case, Kind, Run};
use super::work::Work;
use crate::system;
use crate::table::Table;
use kinfer::hub::human_size;
use kinfer::peak::Arithmetic;
use kinfer::{KvTypes, Model};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// Form of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON object, with the rate of every repetition
    Json,
    /// One line for each test, after a line of column names
    Csv,
}

/// The tests of one model with one number of threads.
pub struct Group {
    /// The model as the user wrote it.
    pub name: String,
    path: String,
    device: String,
    threads: Option<u16>,
    kv: KvTypes,
    weight_bytes: u64,
    bytes_per_token: u64,
    load: Duration,
    /// The machine's bounds for these threads, and which arithmetic bounds this model; `None`: not measured.
    pub bounds: Option<(Bounds, Arithmetic)>,
    /// Its results.
    pub tests: Vec<Measured>,
}

impl Group {
    /// A group without results.
    pub fn new(
        name: &str,
        model: &Model,
        threads: Option<u16>,
        kv: KvTypes,
        load: Duration,
        bounds: Option<(Bounds, Arithmetic)>,
    ) -> Self {
        Self {
            name: name.into(),
            path: model.path().display().to_string(),
            device: model.device(),
            threads,
            kv,
            weight_bytes: model.weight_bytes(),
            bytes_per_token: model.bytes_per_token(),
            load,
            bounds,
            tests: Vec::new(),
        }
    }

    /// The number of threads that the user asked for.
    pub fn threads(&self) -> Option<u16> {
        self.threads
    }

    /// The share of the memory's bandwidth that a test used.
    pub fn memory_share(&self, test: &Measured) -> Option<f64> {
        self.bounds.and_then(|(b, _)| b.gb_per_s).map(|bound| test.gb_per_s() / bound)
    }

    /// The share of the arithmetic's peak that a test used.
    pub fn peak_share(&self, test: &Measured) -> Option<f64> {
        let bound = self.bounds.map(|(b, arithmetic)| b.gops(arithmetic)).filter(|&bound| bound > 0.0)?;
        Some(test.gops() / bound)
    }
}

/// A test's result.
#[derive(Debug, PartialEq)]
pub struct Measured {
    /// The test.
    pub case: Case,
    /// What a repetition computes and reads.
    pub work: Work,
    /// Tokens per second of each repetition.
    rates: Vec<f64>,
    /// Whether all repetitions gave the same tokens.
    pub same_tokens: bool,
    /// Energy that the GPU took for a token, joules, and its mean power in watts.
    energy: Option<(f64, f64)>,
}

impl Measured {
    /// Sums up the repetitions, during all of which a GPU took so many joules.
    pub fn new(case: Case, runs: &[Run], work: Work, joules: Option<f64>) -> Self {
        let rate = |r: &Run| case.all_tokens() as f64 / r.time.as_secs_f64().max(1e-9);
        let same_tokens = runs.windows(2).all(|w| w[0].tokens == w[1].tokens);
        let (tokens, seconds) =
            (case.all_tokens() * runs.len(), runs.iter().map(|r| r.time.as_secs_f64()).sum::<f64>());
        let energy = joules.map(|j| (j / tokens.max(1) as f64, j / seconds.max(1e-9)));
        Self { case, work, rates: runs.iter().map(rate).collect(), same_tokens, energy }
    }

    /// Tokens per second.
    pub fn median(&self) -> f64 {
        median(&self.rates)
    }

    /// Repetitions per second, at the median.
    fn runs_per_s(&self) -> f64 {
        self.median() / self.case.all_tokens() as f64
    }

    /// Bytes read per second at the median, in 10^9.
    pub fn gb_per_s(&self) -> f64 {
        self.work.bytes * self.runs_per_s() / 1e9
    }

    /// Operations per second at the median, in 10^9.
    pub fn gops(&self) -> f64 {
        self.work.operations * self.runs_per_s() / 1e9
    }

    fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }

    /// Of a sample: divided by the count less one.
    fn standard_deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.rates.iter().map(|r| (r - mean).powi(2)).sum();
        if self.rates.len() < 2 { 0.0 } else { (squares / (self.rates.len() - 1) as f64).sqrt() }
    }

    /// Of the slowest repetition.
    pub fn min(&self) -> f64 {
        self.rates.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Of the fastest repetition.
    pub fn max(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

impl Format {
    /// The results in this form.
    pub fn write(self, groups: &[Group]) -> anyhow::Result<String> {
        match self {
            Format::Table => Ok(table(groups)),
            Format::Json => Ok(serde_json::to_string_pretty(&json(groups))? + "\n"),
            Format::Csv => Ok(csv(groups)),
        }
    }
}

fn table(groups: &[Group]) -> String {
    let mut out = format!("kinfer {}, {}, {}\n", version(), system::cpu_name(), system::os());
    for g in groups {
        let (weights, token) = (human_size(g.weight_bytes), human_size(g.bytes_per_token));
        let load = g.load.as_secs_f64();
        let _ = write!(
            out,
            "\n{} on {}: {weights} of weights, {token} read for a token, loaded in {load:.2} s\n",
            g.name, g.device
        );
        if let Some((bounds, arithmetic)) = g.bounds {
            let memory = bounds.gb_per_s.map_or_else(String::new, |gb| format!("memory {gb:.1} GB/s, "));
            let gops = bounds.gops(arithmetic);
            let _ = writeln!(out, "bounds of {}: {memory}{} {gops:.0} GOPS", bounds.of(), arithmetic.name());
        }
        let has_energy = g.tests.iter().any(|t| t.energy.is_some());
        let heads = ["test", ">tok/s", ">min", ">max", ">GB/s", ">of memory", ">GOPS", ">of peak"];
        let energy = [">J/token", ">W"];
        let mut table = Table::new(heads.into_iter().chain(energy.into_iter().filter(|_| has_energy)));
        for t in &g.tests {
            let number = |n: f64| if n < 100.0 { format!("{n:.2}") } else { format!("{n:.1}") };
            let percent =
                |share: Option<f64>| share.map_or_else(String::new, |s| format!("{:.0} %", 100.0 * s));
            let mut row = vec![
                t.case.to_string(),
                number(t.median()),
                number(t.min()),
                number(t.max()),
                format!("{:.2}", t.gb_per_s()),
                percent(g.memory_share(t)),
                number(t.gops()),
                percent(g.peak_share(t)),
            ];
            if has_energy {
                let of = |f: fn((f64, f64)) -> f64| t.energy.map_or_else(String::new, |e| number(f(e)));
                row.extend([of(|e| e.0), of(|e| e.1)]);
            }
            table.row(row);
        }
        let _ = write!(out, "{table}");
    }
    out
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn kind(case: &Case) -> &'static str {
    match case.kind {
        Kind::Prefill => "prefill",
        Kind::Decode => "decode",
    }
}

fn json(groups: &[Group]) -> Value {
    let results: Vec<Value> = groups
        .iter()
        .flat_map(|g| {
            g.tests.iter().map(move |t| {
                json!({
                    "model": g.name,
                    "path": g.path,
                    "device": g.device,
                    "threads": g.threads,
                    "type_k": g.kv.k.name(),
                    "type_v": g.kv.v.name(),
                    "weight_bytes": g.weight_bytes,
                    "bytes_per_token": g.bytes_per_token,
                    "load_s": g.load.as_secs_f64(),
                    "test": t.case.to_string(),
                    "kind": kind(&t.case),
                    "tokens": t.case.tokens,
                    "depth": t.case.depth,
                    "parallel": t.case.parallel,
                    "ubatch": t.case.ubatch,
                    "tokens_per_s": {
                        "mean": t.mean(),
                        "median": t.median(),
                        "min": t.min(),
                        "max": t.max(),
                        "stddev": t.standard_deviation(),
                        "samples": t.rates,
                    },
                    "operations": t.work.operations,
                    "bytes": t.work.bytes,
                    "gb_per_s": t.gb_per_s(),
                    "gops": t.gops(),
                    "bounds": g.bounds.map(|(bounds, arithmetic)| json!({
                        "threads": bounds.threads,
                        "gb_per_s": bounds.gb_per_s,
                        "f32_gops": bounds.f32_gops,
                        "int8_gops": bounds.int8_gops,
                        "bf16_gops": bounds.bf16_gops,
                        "arithmetic": arithmetic.name(),
                    })),
                    "memory_share": g.memory_share(t),
                    "peak_share": g.peak_share(t),
                    "joules_per_token": t.energy.map(|e| e.0),
                    "watts": t.energy.map(|e| e.1),
                    "same_tokens": t.same_tokens,
                })
            })
        })
        .collect();
    json!({ "version": version(), "machine": machine(), "results": results })
}

fn machine() -> Value {
    json!({
        "os": system::os(),
        "cpu": system::cpu_name(),
        "cpu_features": system::cpu_features(),
        "cpus": kinfer::machine::threads(),
    })
}

fn csv(groups: &[Group]) -> String {
    let mut out = String::from(
        "version,cpu,model,device,threads,type_k,type_v,weight_bytes,bytes_per_token,load_s,test,kind,tokens,depth,parallel,\
         ubatch,repetitions,mean_tok_s,median_tok_s,min_tok_s,max_tok_s,stddev_tok_s,gb_per_s,memory_share,gops,peak_share,\
         same_tokens,joules_per_token,watts\n",
    );
    let cpu = system::cpu_name();
    for g in groups {
        for t in &g.tests {
            let threads = g.threads.map_or_else(String::new, |n| n.to_string());
            let texts = [version(), &cpu, &g.name, &g.device, &threads, g.kv.k.name(), g.kv.v.name()];
            let texts = texts.map(quoted).join(",");
            let Case { tokens, depth, parallel, ubatch, kind: _ } = t.case;
            let share = |share: Option<f64>| share.map_or_else(String::new, |s| format!("{s:.4}"));
            let _ = writeln!(
                out,
                "{texts},{},{},{:.3},{},{},{tokens},{depth},{parallel},{ubatch},{},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{},{:.3},{},{},{},{}",
                g.weight_bytes,
                g.bytes_per_token,
                g.load.as_secs_f64(),
                t.case,
                kind(&t.case),
                t.rates.len(),
                t.mean(),
                t.median(),
                t.min(),
                t.max(),
                t.standard_deviation(),
                t.gb_per_s(),
                share(g.memory_share(t)),
                t.gops(),
                share(g.peak_share(t)),
                t.same_tokens,
                share(t.energy.map(|e| e.0)),
                share(t.energy.map(|e| e.1)),
            );
        }
    }
    out
}

/// A CSV field (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ms: &[u64], tokens: &[u32]) -> Measured {
        let case = Case { kind: Kind::Decode, tokens: 10, depth: 0, parallel: 2, ubatch: 8 };
        let run = |(ms, token): (&u64, &u32)| Run { time: Duration::from_millis(*ms), tokens: vec![*token] };
        let work = Work { operations: 2e9, bytes: 1e9 };
        Measured::new(case, &ms.iter().zip(tokens).map(run).collect::<Vec<_>>(), work, Some(9.0))
    }

    #[test]
    fn statistics() {
        // 20 tokens in 100, 200, 400 ms: 200, 100, 50 tokens per second.
        let m = measured(&[100, 200, 400], &[7, 7, 7]);
        assert_eq!((m.min(), m.max(), m.median()), (50.0, 200.0, 100.0));
        assert!((m.mean() - 350.0 / 3.0).abs() < 1e-9);
        assert!((m.standard_deviation() - 76.376_261_582_597_33).abs() < 1e-9);
        // Five times in a second, at the median.
        assert!((m.gb_per_s() - 5.0).abs() < 1e-9 && (m.gops() - 10.0).abs() < 1e-9);
        assert!(m.same_tokens);
        // 9 joules for 30 tokens in 0.7 seconds.
        let (each, watts) = m.energy.unwrap();
        assert!((each - 0.15).abs() < 1e-9 && (watts - 9.0 / 0.7).abs() < 1e-9);
        assert_eq!(median(&[1.0, 2.0, 3.0, 10.0]), 2.5);
        assert_eq!(measured(&[100], &[7]).standard_deviation(), 0.0);
    }

    #[test]
    fn different_tokens_are_seen() {
        assert!(!measured(&[100, 100, 100], &[7, 7, 8]).same_tokens);
    }

    #[test]
    fn csv_fields_with_commas_are_quoted() {
        assert_eq!(quoted("cpu (avx2, 2 threads)"), "\"cpu (avx2, 2 threads)\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
