//! Facts about this machine.

/// Bytes of memory that a program may still take: the system's estimate, and within a container what its limit leaves. `None` where it
/// cannot be told.
pub fn available_memory() -> Option<u64> {
    let system = meminfo("MemAvailable:");
    let read = |p: &str| std::fs::read_to_string(p).ok()?.trim().parse::<u64>().ok();
    let left = |max: &str, used: &str| Some(read(max)?.saturating_sub(read(used)?));
    let container = left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current").or_else(|| {
        left("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
    });
    match (system, container) {
        (Some(s), Some(c)) => Some(s.min(c)),
        (s, c) => s.or(c),
    }
}

/// Bytes of memory of the machine.
pub fn total_memory() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Threads that may run at once, by affinity and container quota.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
