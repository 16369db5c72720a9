//! What the machine, or the container, lets this process have.

#![allow(clippy::disallowed_methods)] // limits are files

use std::fs;

/// Memory this process may use, in bytes: the smaller of the machine's and its control group's (version 2, then 1).
pub fn memory_limit() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    });
    let group = own_group().and_then(|group| number(&format!("/sys/fs/cgroup{group}/memory.max")));
    let outer = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    [machine, group, outer].into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The group of this process below the mount, under version 2.
fn own_group() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(|group| group.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some_memory_and_not_more_than_the_machine_has() {
        let limit = super::memory_limit();
        assert!(limit > 1 << 20, "{limit}");
        assert!(limit < 1 << 50, "{limit}");
    }
}
