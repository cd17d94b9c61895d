//! What a container's processes use, as the kernel says of each: where there is no cgroup that counts them together.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox_core::stats::{CpuStats, MemoryStats};

/// What all processes in the process namespace of `pid` use. The time of those that have ended is in that of whoever
/// has waited for them. Nothing where they cannot be looked at.
pub fn usage(pid: u32) -> (MemoryStats, CpuStats) {
    let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
    let Some(of_container) = namespace(Path::new(&format!("/proc/{pid}"))) else {
        return Default::default();
    };
    // The host's own namespace is that of a process that has not become the container's yet, or is gone.
    if namespace(Path::new("/proc/self")).as_ref() == Some(&of_container) {
        return Default::default();
    }
    let all = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let processes: Vec<PathBuf> = all
        .filter(|path| namespace(path).as_ref() == Some(&of_container))
        .collect();
    let read = |name: &str| -> Vec<String> {
        let texts = processes.iter().map(|process| fs::read_to_string(process.join(name)));
        // One that has just ended has no files any more.
        texts.flatten().collect()
    };
    (memory(&read("smaps_rollup")), cpu(&read("stat")))
}

fn memory(rollups: &[String]) -> MemoryStats {
    let sum = |name: &str| -> u64 { rollups.iter().map(|text| kilobytes(text, name)).sum::<u64>() << 10 };
    if rollups.is_empty() {
        return MemoryStats::default();
    }
    MemoryStats {
        resident: Some(sum("Rss:")),
        proportional: Some(sum("Pss:")),
        private: Some(sum("Private_Clean:") + sum("Private_Dirty:")),
        guest_touched: Some(sum("Pss:")),
        ..MemoryStats::default()
    }
}

/// Reads a line such as `Rss:    1024 kB` (proc(5), `/proc/PID/smaps`); 0 without one.
fn kilobytes(text: &str, name: &str) -> u64 {
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn cpu(stats: &[String]) -> CpuStats {
    let times: Vec<u64> = stats.iter().filter_map(|text| ticks(text)).collect();
    let nanoseconds = |ticks: u64| ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    CpuStats {
        guest: (!times.is_empty()).then(|| nanoseconds(times.iter().sum())),
        ..CpuStats::default()
    }
}

/// A process's time in user space and kernel and that of the children it has waited for: fields 14 to 17 of
/// `/proc/PID/stat` (proc(5)). The second one is a name, which may have anything in it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let times = behind_name.split(' ').skip(11).take(4).map(|word| word.parse::<u64>());
    times
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .map(|times| times.iter().sum())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(ticks("7 (a) b) R 1 7 7 0 -1 0 1 2 3 4 10 20 30 40 20 0 1"), Some(100));
        assert_eq!(ticks("7 (a) R 1"), Some(0));
        assert_eq!(ticks("nonsense"), None);
        let text = "5500-7fff ---p 00000000 00:00 0    [rollup]\nRss:    1024 kB\nPrivate_Clean:   4 kB\nPrivate_Dirty: 8 kB\n";
        let memory = memory(&[text.to_owned(), text.to_owned()]);
        assert_eq!((memory.resident, memory.private), (Some(2 << 20), Some(24 << 10)));
        assert_eq!(cpu(&[]).guest, None);
    }

    #[test]
    fn a_process_of_the_hosts_own_namespace_is_no_container() {
        assert_eq!(usage(std::process::id()), Default::default());
        assert_eq!(usage(0), Default::default());
    }
}
