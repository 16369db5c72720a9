//! What the machine, or the container, lets this process have.
//!
//! Control groups bound memory, its own one and every one around it; both versions are looked at, where they are mounted, since a
//! machine may have both. What other processes of the machine hold already is no use either, so that its available memory bounds too.

#![allow(clippy::disallowed_methods)] // limits are files

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Files of a group that bound its memory. `memory.high` kills nobody, and slows down whoever exceeds it to a standstill.
const LIMITS: [&str; 3] = ["memory.max", "memory.high", "memory.limit_in_bytes"];

/// Memory that the processes of this container, or machine, may use together, in bytes: what is available on the machine, or the least
/// that a control group allows.
pub fn memory_limit() -> u64 {
    limit_below(Path::new("/"))
}

/// The same where another folder stands for `/`.
fn limit_below(root: &Path) -> u64 {
    groups(root).iter().filter_map(|group| group_limit(group)).chain(machine_limit(root)).min().unwrap_or(u64::MAX)
}

fn machine_limit(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    // Old kernels tell no more than the total.
    of("MemAvailable:").or_else(|| of("MemTotal:"))
}

/// What a group allows. "max", and the huge number that means it in version 1, bound nothing.
fn group_limit(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let own = LIMITS.iter().filter_map(|name| read(name)?.trim().parse::<u64>().ok());
    // Version 1 knows there what groups around it allow that are out of sight in a container.
    let around = read("memory.stat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "))?.trim().parse::<u64>().ok()
    });
    own.chain(around).min()
}

/// Folders of this process's groups, and of those around them.
fn groups(root: &Path) -> Vec<PathBuf> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (memberships, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    mounts.lines().filter_map(Mount::of).flat_map(|mount| mount.groups(root, &memberships)).collect()
}

/// Where groups are seen.
struct Mount<'a> {
    /// The group that is on top of what is seen.
    top: &'a str,
    point: &'a str,
    is_unified: bool,
}

impl<'a> Mount<'a> {
    /// A line of `mountinfo`, if groups that bound memory are mounted there.
    fn of(line: &'a str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (top, point) = (place.next()?, place.next()?);
        let (kind, options) = kind.split_once(' ')?;
        let is_unified = kind == "cgroup2";
        let bounds_memory =
            is_unified || kind == "cgroup" && options.split([' ', ',']).any(|option| option == "memory");
        bounds_memory.then_some(Self { top, point, is_unified })
    }

    fn groups(&self, root: &Path, memberships: &str) -> Vec<PathBuf> {
        let own = memberships.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, group) = line.split_once(':')?;
            let is_here = if self.is_unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|one| one == "memory")
            };
            is_here.then_some(group)
        });
        // In a container the name may be one of the machine's, of which only what is below the top is seen.
        let below = own.and_then(|own| Path::new(own).strip_prefix(self.top).ok());
        let is_seen = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let below = below.filter(is_seen).unwrap_or(Path::new(""));
        let point = root.join(self.point.trim_start_matches('/'));
        below.ancestors().map(|group| point.join(group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of 64 GiB, half of it available, with these files.
    fn machine(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().expect("folder");
        let meminfo = ("proc/meminfo", "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   33554432 kB\n");
        for (path, text) in [&[meminfo], files].concat() {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("written");
        }
        limit_below(root.path())
    }

    const AVAILABLE: u64 = 32 << 30;
    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const SPLIT: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                         36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn there_is_some_memory_and_not_more_than_the_machine_has() {
        let limit = memory_limit();
        assert!(limit > 1 << 20, "{limit}");
        assert!(limit < 1 << 50, "{limit}");
    }

    #[test]
    fn without_groups_it_is_what_the_machine_has_available() {
        assert_eq!(machine(&[]), AVAILABLE);
        assert_eq!(machine(&[("proc/meminfo", "MemTotal: 1024 kB\n")]), 1 << 20, "an old kernel");
        assert_eq!(limit_below(Path::new("/nowhere")), u64::MAX);
    }

    #[test]
    fn the_least_of_nested_groups_holds() {
        let nested = |inner, middle, outer| {
            machine(&[
                ("proc/self/mountinfo", UNIFIED),
                ("proc/self/cgroup", "0::/slice/job/task\n"),
                ("sys/fs/cgroup/slice/job/task/memory.max", inner),
                ("sys/fs/cgroup/slice/job/memory.max", middle),
                ("sys/fs/cgroup/slice/memory.max", outer),
            ])
        };
        assert_eq!(nested("1000\n", "2000\n", "max\n"), 1000);
        assert_eq!(nested("max\n", "2000\n", "3000\n"), 2000);
        assert_eq!(nested("max\n", "max\n", "3000\n"), 3000);
        assert_eq!(nested("max\n", "max\n", "max\n"), AVAILABLE);
        assert_eq!(nested("99999999999999\n", "max\n", "max\n"), AVAILABLE);
    }

    #[test]
    fn a_group_that_is_slowed_down_early_has_no_more_than_that() {
        let files = [("proc/self/mountinfo", UNIFIED), ("proc/self/cgroup", "0::/x\n")];
        let limits = [("sys/fs/cgroup/x/memory.max", "5000\n"), ("sys/fs/cgroup/x/memory.high", "4000\n")];
        assert_eq!(machine(&[files, limits].concat()), 4000);
    }

    #[test]
    fn a_container_that_sees_its_own_group_alone_finds_its_limit() {
        let files = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "7000\n")];
        assert_eq!(machine(&[&[("proc/self/mountinfo", UNIFIED)], &files[..]].concat()), 7000);
        // Under version 1 it has the machine's name for it.
        let mounted = "40 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let inner = [
            ("proc/self/mountinfo", mounted),
            ("proc/self/cgroup", "4:cpu:/docker/abc\n3:memory:/docker/abc/inner\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8000\n"),
        ];
        assert_eq!(machine(&inner), 8000);
        let least = ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "6000\n");
        assert_eq!(machine(&[&inner[..], &[least]].concat()), 6000);
    }

    #[test]
    fn a_group_out_of_sight_is_as_good_as_the_top() {
        let files = [("proc/self/mountinfo", UNIFIED), ("sys/fs/cgroup/memory.max", "7000\n")];
        for name in ["0::/../../elsewhere\n", "", "0::/gone\n"] {
            assert_eq!(machine(&[&files[..], &[("proc/self/cgroup", name)]].concat()), 7000, "{name}");
        }
    }

    #[test]
    fn version_1_tells_limits_around_it_in_its_figures() {
        let files = [
            ("proc/self/mountinfo", SPLIT),
            ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(machine(&files), AVAILABLE);
        let figures = ("sys/fs/cgroup/memory/x/memory.stat", "cache 1\nhierarchical_memory_limit 9000\n");
        assert_eq!(machine(&[&files[..], &[figures]].concat()), 9000);
    }

    #[test]
    fn where_both_versions_are_mounted_both_bound() {
        let hybrid = format!("{SPLIT}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let files = |split: &'static str, unified: &'static str| {
            machine(&[
                ("proc/self/mountinfo", &hybrid),
                ("proc/self/cgroup", "2:memory:/a\n0::/b\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", split),
                ("sys/fs/cgroup/unified/b/memory.max", unified),
            ])
        };
        assert_eq!(files("5000\n", "max\n"), 5000);
        assert_eq!(files("9223372036854771712\n", "4000\n"), 4000);
    }
}
