//! Facts about this machine.

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

/// Threads that may run at once, by affinity and container quota.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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

    #[cfg(target_os = "linux")]
    #[test]
    fn something_is_available() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
