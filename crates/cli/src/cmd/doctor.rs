//! `kinfer doctor`: what this machine offers, and what kinfer makes of it.

use crate::bandwidth::{self, Bandwidth};
use crate::cmd::list::shown;
use crate::ctx::Ctx;
use crate::system::{self, Gpus};
use crate::table::Table;
use crate::{model, progress, term};
use clap::builder::FalseyValueParser;
use kinfer::hub::{Hub, human_size};
use kinfer::{Device, Isa, machine};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

/// Show what this machine offers, and what kinfer makes of it
#[derive(clap::Args)]
#[command(after_help = "\
Memory bandwidth bounds decode: every token reads all weights, so a model of 4 GB on 40 GB/s makes at most 10 tokens a
second. Graphics cards are found without loading a driver, and a token for the hub is never printed.

Examples:
  kinfer doctor
  kinfer doctor --json | jq .cpu.isa
  KINFER_ISA=avx2 kinfer doctor          is this instruction set here?")]
pub struct DoctorArgs {
    /// Do not measure memory bandwidth, which takes a second or two
    #[arg(long, env = "KINFER_NO_BANDWIDTH", value_parser = FalseyValueParser::new())]
    no_bandwidth: bool,
    /// Print one JSON object
    #[arg(long, env = "KINFER_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

/// A debug build computes slower than memory is.
const DEBUG: bool = cfg!(debug_assertions);

/// Runs it.
pub fn run(args: DoctorArgs, ctx: &Ctx) -> anyhow::Result<()> {
    let hub = model::hub(ctx)?;
    let available = machine::available_memory();
    let bandwidth = if args.no_bandwidth || DEBUG { None } else { measure(ctx) };
    let found = Found {
        // A wrong KINFER_ISA is what a doctor is asked about: said, not failed at.
        isa: Isa::from_env(),
        features: system::cpu_features(),
        usable: std::thread::available_parallelism().map_or(1, usize::from),
        threads: machine::threads(),
        cpus: system::machine_cpus(),
        total: system::total_memory(),
        available,
        bandwidth,
        gpus: system::gpus(),
        caches: caches(&hub),
        pip: pip(&hub),
        hub,
    };
    if args.json {
        return Ok(term::out_line(&serde_json::to_string_pretty(&found.json())?)?);
    }
    Ok(term::out(&found.text())?)
}

/// Measures with 1, 2, 4, … and all threads in about a second, besides touching the memory; `None` where there is too
/// little memory for it.
fn measure(ctx: &Ctx) -> Option<Vec<Bandwidth>> {
    let bytes = bandwidth::bytes()?;
    let most = machine::threads();
    let mut threads: Vec<usize> =
        std::iter::successors(Some(1), |t| Some(t * 2)).take_while(|&t| t < most).collect();
    threads.push(most);
    let _line = progress::transient(ctx, "measuring memory bandwidth …");
    Some(bandwidth::measure(bytes, &threads, Duration::from_secs(1)))
}

/// Everything that was found.
struct Found {
    isa: Result<Isa, String>,
    features: Vec<&'static str>,
    usable: usize,
    threads: usize,
    cpus: Option<usize>,
    total: Option<u64>,
    available: Option<u64>,
    bandwidth: Option<Vec<Bandwidth>>,
    gpus: Gpus,
    caches: Vec<Cache>,
    pip: Option<String>,
    hub: Hub,
}

/// A folder with models.
struct Cache {
    name: &'static str,
    path: String,
    models: usize,
    bytes: u64,
    /// Free bytes on its disk.
    free: Option<u64>,
}

fn caches(hub: &Hub) -> Vec<Cache> {
    let config = hub.config();
    let models = hub.list();
    let of = |name, folder: &Path| {
        let inside = models.iter().filter(|m| m.files.iter().all(|f| f.starts_with(folder)));
        let sizes: Vec<u64> = inside.map(|m| m.size).collect();
        // A cache that does not exist yet will lie on the disk of the nearest folder that does.
        let existing = folder.ancestors().find(|p| p.exists());
        Cache {
            name,
            path: shown(folder),
            models: sizes.len(),
            bytes: sizes.iter().sum(),
            free: existing.and_then(|p| (config.free_space)(p).ok()),
        }
    };
    vec![of("hub", &config.hub_cache), of("kinfer", &config.kinfer_cache)]
}

/// The version of the first pip that runs.
fn pip(hub: &Hub) -> Option<String> {
    hub.config().pip.iter().find_map(|command| {
        let (program, first) = command.split_first()?;
        let args: Vec<&str> = first.iter().map(String::as_str).chain(["--version"]).collect();
        let version = system::run(program, &args)?;
        let version = version.split(" from ").next().unwrap_or_default();
        Some(format!("{version} ({})", command.join(" ")))
    })
}

impl Found {
    fn text(&self) -> String {
        let mut table = Table::new(["", ""]);
        let mut row = |name: &str, value: String| table.row([name.into(), value]);
        row("kinfer", env!("CARGO_PKG_VERSION").into());
        row("system", system::os());
        row("processor", system::cpu_name());
        row("features", self.features.join(" "));
        row(
            "instruction set",
            match &self.isa {
                Ok(isa) if *isa == Isa::best() => format!("{isa}, the best that this machine has"),
                Ok(isa) => format!("{isa} by KINFER_ISA; the best is {}", Isa::best()),
                Err(reason) => reason.clone(),
            },
        );
        let of = match self.cpus {
            Some(all) if all > self.usable => {
                format!(" of the machine's {all} (by affinity or container quota)")
            }
            _ => String::new(),
        };
        row("processors", format!("{}{of}", self.usable));
        row("threads", format!("{} by default, one for each fast physical core", self.threads));
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), human_size);
        row("memory", format!("{}, {} available", size(self.total), size(self.available)));
        match &self.bandwidth {
            Some(measured) => {
                for (i, b) in measured.iter().enumerate() {
                    let threads = if b.threads == 1 { "thread" } else { "threads" };
                    let name = if i == 0 { "bandwidth" } else { "" };
                    row(name, format!("{:.1} GB/s read by {} {threads}", b.gb_per_s, b.threads));
                }
            }
            None => row(
                "bandwidth",
                format!("not measured{}", if DEBUG { ": this is a debug build" } else { "" }),
            ),
        }
        let mut name = "GPU";
        for line in self.gpus.found.iter().chain(&self.gpus.notes) {
            row(name, line.clone());
            name = "";
        }
        let mut name = "devices";
        for (device, unavailable) in self.devices() {
            row(name, format!("{device}: {}", unavailable.as_deref().unwrap_or("ready")));
            name = "";
        }
        for cache in &self.caches {
            let s = if cache.models == 1 { "" } else { "s" };
            let free = cache
                .free
                .map_or_else(String::new, |free| format!(", {} free on the disk", human_size(free)));
            row(
                &format!("{} cache", cache.name),
                format!("{}: {} model{s}, {}{free}", cache.path, cache.models, human_size(cache.bytes)),
            );
        }
        let config = self.hub.config();
        row("hub", format!("{}{}", config.endpoint, if config.offline { ", not used: offline" } else { "" }));
        row("hub token", self.token());
        row(
            "pip",
            self.pip
                .clone()
                .unwrap_or_else(|| "none found: models in Python packages cannot be fetched".into()),
        );
        table.to_string()
    }

    /// The devices by name, and why one cannot be used.
    fn devices(&self) -> [(&'static str, Option<Cow<'static, str>>); 4] {
        [Device::Cpu, Device::Candle, Device::Cuda(0), Device::Metal].map(|d| (d.name(), d.unavailable()))
    }

    /// Where the token comes from, never the token.
    fn token(&self) -> String {
        let config = self.hub.config();
        match &config.token {
            None => "none; models that need a login cannot be fetched (set HF_TOKEN)".into(),
            Some(_) if std::env::var_os("HF_TOKEN").is_some_and(|v| !v.is_empty()) => "from HF_TOKEN".into(),
            Some(_) => format!("from {}", shown(&config.token_file)),
        }
    }

    fn json(&self) -> Value {
        let config = self.hub.config();
        let bandwidth = self.bandwidth.as_ref().map(|measured| {
            measured
                .iter()
                .map(|b| json!({ "threads": b.threads, "gb_per_s": b.gb_per_s }))
                .collect::<Vec<_>>()
        });
        let devices = self.devices().map(|(name, why)| json!({ "name": name, "unavailable": why }));
        let caches = self.caches.iter().map(|c| {
            json!({ "name": c.name, "path": c.path, "models": c.models, "bytes": c.bytes, "disk_free": c.free })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": system::os(),
            "cpu": {
                "name": system::cpu_name(),
                "features": self.features,
                "isa": self.isa.as_ref().ok().map(|isa| isa.name()),
                "isa_error": self.isa.as_ref().err(),
                "isa_available": Isa::ALL.iter().filter(|isa| isa.available()).map(|isa| isa.name()).collect::<Vec<_>>(),
                "usable": self.usable,
                "threads": self.threads,
                "machine": self.cpus,
            },
            "memory": { "total": self.total, "available": self.available },
            "bandwidth": bandwidth,
            "gpus": { "found": self.gpus.found, "notes": self.gpus.notes },
            "devices": devices,
            "caches": caches.collect::<Vec<_>>(),
            "hub": { "endpoint": config.endpoint, "token": config.token.is_some(), "offline": config.offline },
            "pip": self.pip,
        })
    }
}
