//! Facts about this machine.

use std::collections::HashSet;
use std::path::Path;

/// Bytes that can be allocated without swapping: what the system says is available, and what the control group of this
/// process leaves. `None` where neither is known.
pub fn available_memory() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|s| meminfo(&s, "MemAvailable:"));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|s| group_available(&s));
    [system, group].into_iter().flatten().min()
}

/// Bytes of memory of the machine.
pub fn total_memory() -> Option<u64> {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|s| meminfo(&s, "MemTotal:"))
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that this group and those around it leave. Page cache counts as free, since it goes when need be.
fn group_available(cgroup: &str) -> Option<u64> {
    // Version 2: one line `0::/path`. Version 1: `5:memory:/path`, with other file names.
    let (root, path, limit, used) = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        match (fields.next()?, fields.next()?) {
            ("", path) => Some(("/sys/fs/cgroup", path, "memory.max", "memory.current")),
            (kinds, path) if kinds.split(',').any(|k| k == "memory") => {
                Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"))
            }
            _ => None,
        }
    })?;
    let mut least = None;
    // Inside a container the path is often that of the host, and only the root exists.
    let mut path = path.trim_matches('/');
    loop {
        let read = |file: &str| std::fs::read_to_string(format!("{root}/{path}/{file}")).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        if let (Some(limit), Some(used)) = (number(limit), number(used)) {
            let cache = read("memory.stat").and_then(|s| file_cache(&s)).unwrap_or(0);
            let left = limit.saturating_sub(used.saturating_sub(cache));
            least = Some(least.map_or(left, |l: u64| l.min(left)));
        }
        if path.is_empty() {
            return least;
        }
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
}

fn file_cache(stat: &str) -> Option<u64> {
    let value = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
    Some(value("inactive_file ")? + value("active_file ").unwrap_or(0))
}

/// Threads that compute best together: one for each physical core that this process may use (two threads of one core share the
/// units that do the work), of cores of two kinds only the fast ones (a stage waits for its slowest thread), and no more than the
/// container's quota. Where the system tells nothing about cores, the threads that may run at once.
pub fn threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = self::allowed().and_then(|cpus| fast_cores(Path::new("/sys/devices"), &cpus));
    cores.map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// The CPUs that this process may use, by the memory that they are near to: one entry, or none, where all memory is equally near.
pub fn nodes() -> Vec<Vec<usize>> {
    allowed().map_or(Vec::new(), |cpus| nodes_of(Path::new("/sys/devices"), &cpus))
}

/// The CPUs that this process may use.
fn allowed() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    list(status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?)
}

/// `cpus` by their NUMA nodes, in the order of the nodes' numbers.
fn nodes_of(sys: &Path, cpus: &[usize]) -> Vec<Vec<usize>> {
    let dir = sys.join("system/node");
    let numbers = std::fs::read_to_string(dir.join("online")).ok().and_then(|s| list(&s)).unwrap_or_default();
    let cpus_of = |node| {
        let of_node = std::fs::read_to_string(dir.join(format!("node{node}/cpulist"))).ok()?;
        Some(list(&of_node)?.into_iter().filter(|cpu| cpus.contains(cpu)).collect::<Vec<_>>())
    };
    // A node of memory alone has an empty list.
    numbers.into_iter().filter_map(cpus_of).filter(|cpus| !cpus.is_empty()).collect()
}

/// Keeps the calling thread on `cpus`. A system that refuses leaves it where it is: that costs speed only.
pub(crate) fn stay_on(cpus: &[usize]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
        let _ = sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpus;
}

/// How many cores `cpus` are, of those at least three quarters as fast as the fastest. `None` where `sys` tells nothing.
fn fast_cores(sys: &Path, cpus: &[usize]) -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(sys.join(path)).ok();
    // Intel's hybrid processors list their efficient cores.
    let slow = read("cpu_atom/cpus").and_then(|s| list(&s)).unwrap_or_default();
    let fast = |cpu: &&usize| !slow.contains(cpu);
    let fast: Vec<usize> = if cpus.iter().any(|c| fast(&c)) {
        cpus.iter().filter(fast).copied().collect()
    } else {
        cpus.to_vec()
    };
    // ARM's kernels say how fast each is, with 1024 for the fastest of the machine.
    let capacity = |cpu: usize| {
        read(&format!("system/cpu/cpu{cpu}/cpu_capacity"))
            .and_then(|s| s.trim().parse::<u32>().ok())
            .unwrap_or(1024)
    };
    let capacities: Vec<u32> = fast.iter().map(|&cpu| capacity(cpu)).collect();
    let least = capacities.iter().max()?.saturating_mul(3) / 4;
    let cores: Option<HashSet<usize>> = fast
        .iter()
        .zip(&capacities)
        .filter(|(_, capacity)| **capacity >= least)
        .map(|(cpu, _)| {
            let siblings = read(&format!("system/cpu/cpu{cpu}/topology/thread_siblings_list"))?;
            list(&siblings)?.into_iter().min()
        })
        .collect();
    cores.map(|cores| cores.len())
}

/// The numbers of a list such as `0-3,8`.
fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_system_files() {
        assert_eq!(meminfo("MemTotal: 10 kB\nMemAvailable:   123 kB\n", "MemAvailable:"), Some(123 * 1024));
        assert_eq!(meminfo("MemTotal: 10 kB\n", "MemAvailable:"), None);
        assert_eq!(meminfo("MemAvailable: many\n", "MemAvailable:"), None);
        assert_eq!(file_cache("anon 5\nactive_file 7\ninactive_file 3\n"), Some(10));
        assert_eq!(file_cache(""), None);
    }

    /// A `/sys/devices` with the given files.
    fn sys(files: &[(String, String)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn siblings(cpu: usize, list: &str) -> (String, String) {
        (format!("system/cpu/cpu{cpu}/topology/thread_siblings_list"), format!("{list}\n"))
    }

    #[test]
    fn threads_of_one_core_count_once() {
        let files: Vec<_> =
            (0..8).map(|cpu| siblings(cpu, &format!("{},{}", cpu % 4, cpu % 4 + 4))).collect();
        let sys = sys(&files);
        assert_eq!(fast_cores(sys.path(), &list("0-7").unwrap()), Some(4));
        assert_eq!(fast_cores(sys.path(), &list("0,2,6").unwrap()), Some(2), "of the CPUs allowed");
    }

    #[test]
    fn efficient_cores_are_left_out_unless_there_are_no_others() {
        // Two fast cores of two threads, four efficient ones: Intel's hybrid processors.
        let mut files: Vec<_> =
            (0..4).map(|cpu| siblings(cpu, if cpu < 2 { "0-1" } else { "2-3" })).collect();
        files.extend((4..8).map(|cpu| siblings(cpu, &cpu.to_string())));
        files.push(("cpu_atom/cpus".into(), "4-7\n".into()));
        let intel = sys(&files);
        assert_eq!(fast_cores(intel.path(), &list("0-7").unwrap()), Some(2));
        assert_eq!(fast_cores(intel.path(), &list("5-7").unwrap()), Some(3));
        // One, three and four of three speeds: ARM.
        let mut files: Vec<_> = (0..8).map(|cpu| siblings(cpu, &cpu.to_string())).collect();
        for cpu in 0..8 {
            let capacity = if cpu == 7 {
                1024
            } else if cpu > 3 {
                870
            } else {
                325
            };
            files.push((format!("system/cpu/cpu{cpu}/cpu_capacity"), format!("{capacity}\n")));
        }
        let arm = sys(&files);
        assert_eq!(fast_cores(arm.path(), &list("0-7").unwrap()), Some(4));
        assert_eq!(fast_cores(arm.path(), &list("0-2").unwrap()), Some(3));
    }

    #[test]
    fn nodes_are_those_with_cpus_that_are_allowed() {
        let file = |path: &str, text: &str| (format!("system/node/{path}"), format!("{text}\n"));
        let two = sys(&[
            file("online", "0-2"),
            file("node0/cpulist", "0-3,8-11"),
            file("node1/cpulist", "4-7"),
            file("node2/cpulist", ""),
        ]);
        let nodes = |cpus: &str| nodes_of(two.path(), &list(cpus).unwrap());
        assert_eq!(nodes("0-11"), [vec![0, 1, 2, 3, 8, 9, 10, 11], vec![4, 5, 6, 7]]);
        assert_eq!(nodes("2,9"), [vec![2, 9]]);
        assert!(nodes_of(sys(&[]).path(), &[0]).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_stays_where_it_is_told_to() {
        let first = allowed().unwrap()[0];
        let seen = std::thread::spawn(move || {
            stay_on(&[first]);
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(|l| l.trim().to_string())
        });
        assert_eq!(seen.join().unwrap(), Some(first.to_string()));
    }

    #[test]
    fn a_system_that_tells_nothing_gives_no_cores() {
        assert_eq!(fast_cores(sys(&[]).path(), &[0, 1]), None);
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("x"), None);
        assert!(threads() >= 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn something_is_available() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
