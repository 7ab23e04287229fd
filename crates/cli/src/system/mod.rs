//! What the machine is: operating system, processor, caches, graphics cards.

mod gpu;

pub use gpu::{Gpus, gpus};

use kinfer::machine;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The operating system and its version, for people.
pub fn os() -> String {
    let name = match std::env::consts::OS {
        "linux" => linux_name(&read("/etc/os-release")).unwrap_or_else(|| "Linux".into()),
        "macos" => format!("macOS {}", run("sw_vers", &["-productVersion"]).unwrap_or_default()),
        other => other.to_owned(),
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = if kernel.is_empty() { String::new() } else { format!(", kernel {}", kernel.trim()) };
    format!("{}, {}{kernel}", name.trim(), std::env::consts::ARCH)
}

fn linux_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The processor's name, for people.
pub fn cpu_name() -> String {
    let name = match std::env::consts::OS {
        "linux" => linux_cpu(&read("/proc/cpuinfo")),
        "macos" => run("sysctl", &["-n", "machdep.cpu.brand_string"]),
        _ => std::env::var("PROCESSOR_IDENTIFIER").ok(),
    };
    name.map(|n| n.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH))
}

fn linux_cpu(cpuinfo: &str) -> Option<String> {
    // ARM kernels give no name, or one only in `Hardware`.
    ["model name", "Hardware"].iter().find_map(|key| field(cpuinfo, key)).map(str::to_owned)
}

/// The value of the first `key : value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// The instruction-set extensions that matter for inference and that the processor and the system offer.
pub fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        let detected = detect!(
            "avx",
            "f16c",
            "fma",
            "avx2",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vbmi",
            "avx512vnni",
            "avx512bf16",
            "avx512fp16"
        );
        found.extend(detected.into_iter().filter(|(_, has)| *has).map(|(name, _)| name));
        // The standard library cannot detect these yet; the kernel can.
        let cpuinfo = read("/proc/cpuinfo");
        let flags: Vec<&str> = field(&cpuinfo, "flags").unwrap_or_default().split(' ').collect();
        found.extend(["amx_tile", "amx_int8", "amx_bf16"].into_iter().filter(|name| flags.contains(name)));
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
        }
        let detected = detect!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
        found.extend(detected.into_iter().filter(|(_, has)| *has).map(|(name, _)| name));
    }
    found
}

/// Processors of the machine, where the system tells.
pub fn machine_cpus() -> Option<usize> {
    match std::env::consts::OS {
        "linux" => range_len(read("/sys/devices/system/cpu/online").trim()),
        "macos" => run("sysctl", &["-n", "hw.logicalcpu"])?.parse().ok(),
        _ => std::env::var("NUMBER_OF_PROCESSORS").ok()?.parse().ok(),
    }
}

/// How many numbers a list such as `0-3,8` has.
fn range_len(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

/// Bytes of all last-level caches, where the system tells.
pub fn last_level_cache() -> Option<u64> {
    if std::env::consts::OS == "macos" {
        return run("sysctl", &["-n", "hw.l2cachesize"])?.parse().ok();
    }
    let mut seen = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let cache = entry.path().join("cache/index3");
        let shared = read(cache.join("shared_cpu_list"));
        if !shared.is_empty() && !seen.contains(&shared) {
            total += kibibytes(read(cache.join("size")).trim())?;
            seen.push(shared);
        }
    }
    (total > 0).then_some(total)
}

/// Bytes of a number with `K` or `kB` behind it.
fn kibibytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes of main memory, where the system tells.
pub fn total_memory() -> Option<u64> {
    machine::total_memory().or_else(|| run("sysctl", &["-n", "hw.memsize"])?.parse().ok())
}

/// A small text file; empty where it cannot be read.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What a program prints, trimmed; `None` when it is not there, fails or takes more than five seconds.
pub fn run(program: &str, args: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // What these programs print is less than a pipe holds, so nobody has to read meanwhile.
    let end = Instant::now() + Duration::from_secs(5);
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            // Both fail on a process that has just ended, which is fine.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = child.wait_with_output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        assert_eq!(
            linux_name("NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").unwrap(),
            "Debian GNU/Linux 12"
        );
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nmodel name\t: other\n";
        assert_eq!(linux_cpu(cpuinfo).unwrap(), "AMD EPYC 9654");
        assert_eq!(linux_cpu("processor: 0\n"), None);
        assert_eq!(["0", "0-3", "0-3,8,10-11", "x"].map(range_len), [Some(1), Some(4), Some(7), None]);
        assert_eq!(
            ["107520K", "24684084 kB", "?"].map(kibibytes),
            [Some(110_100_480), Some(25_276_502_016), None]
        );
    }

    #[test]
    fn a_missing_program_is_no_answer() {
        assert_eq!(run("kinfer-no-such-program", &[]), None);
    }

    #[test]
    fn this_machine_has_a_name_and_processors() {
        assert!(!cpu_name().is_empty() && !os().is_empty());
        assert!(machine_cpus().is_none_or(|n| n >= machine::threads()));
    }
}
