//! What a container uses, as its cgroup's files say.

use sandbox_core::stats::DiskStats;

use super::Cgroup;

/// A reading. `None` where the host does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All memory that is charged to it, page cache included, in bytes.
    pub memory: Option<u64>,
    /// Anonymous memory, in bytes: what nobody else shares.
    pub anonymous: Option<u64>,
    /// Mapped files and shared memory, in bytes.
    pub mapped: Option<u64>,
    /// Processor time, in nanoseconds.
    pub cpu: Option<u64>,
    /// What was read from and written to disks.
    pub disks: Option<DiskStats>,
    /// Times that the kernel killed a process in it for want of memory.
    pub oom_kills: Option<u64>,
}

pub(super) fn read(cgroup: &Cgroup) -> Usage {
    match cgroup.is_unified {
        true => unified(|name| cgroup.text(name)),
        false => version_1(|name| cgroup.text(name)),
    }
}

fn unified(text: impl Fn(&str) -> Option<String>) -> Usage {
    let memory = text("memory.stat");
    Usage {
        memory: number(text("memory.current")),
        anonymous: field(memory.as_deref(), "anon"),
        mapped: field(memory.as_deref(), "file_mapped"),
        cpu: field(text("cpu.stat").as_deref(), "usage_usec").map(|time| time * 1000),
        disks: text("io.stat").map(|text| disks_unified(&text)),
        oom_kills: field(text("memory.events").as_deref(), "oom_kill"),
    }
}

fn version_1(text: impl Fn(&str) -> Option<String>) -> Usage {
    let memory = text("memory.stat");
    Usage {
        memory: number(text("memory.usage_in_bytes")),
        anonymous: field(memory.as_deref(), "total_rss"),
        mapped: field(memory.as_deref(), "total_mapped_file"),
        cpu: number(text("cpuacct.usage")),
        disks: disks_version_1(
            text("blkio.throttle.io_service_bytes").as_deref(),
            text("blkio.throttle.io_serviced").as_deref(),
        ),
        oom_kills: field(text("memory.oom_control").as_deref(), "oom_kill"),
    }
}

/// The sum of lines such as `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn disks_unified(text: &str) -> DiskStats {
    let sum = |name: &str| {
        let words = text.split_whitespace().filter_map(|word| word.strip_prefix(name));
        words.filter_map(|number| number.parse::<u64>().ok()).sum()
    };
    DiskStats {
        reads: sum("rios="),
        writes: sum("wios="),
        read_bytes: sum("rbytes="),
        written_bytes: sum("wbytes="),
        ..DiskStats::default()
    }
}

/// The sum of lines such as `254:0 Read 4096`, in bytes and in requests.
fn disks_version_1(bytes: Option<&str>, requests: Option<&str>) -> Option<DiskStats> {
    let sum = |text: &str, kind: &str| {
        let numbers = text.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(kind)).then(|| words.next()?.parse::<u64>().ok())?
        });
        numbers.sum()
    };
    let (bytes, requests) = (bytes?, requests?);
    Some(disks_by_operation(|operation| {
        (sum(requests, operation), sum(bytes, operation))
    }))
}

/// What `count` tells of an operation of version 1, `Read` or `Write`: how many requests, and how many bytes.
pub fn disks_by_operation(count: impl Fn(&str) -> (u64, u64)) -> DiskStats {
    let ((reads, read_bytes), (writes, written_bytes)) = (count("Read"), count("Write"));
    DiskStats {
        reads,
        writes,
        read_bytes,
        written_bytes,
        ..DiskStats::default()
    }
}

fn number(text: Option<String>) -> Option<u64> {
    text?.trim().parse().ok()
}

/// The number behind `name` on a line of its own.
fn field(text: Option<&str>, name: &str) -> Option<u64> {
    text?.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same() {
        let new = unified(|name| {
            let text = match name {
                "memory.current" => "4096\n",
                "memory.stat" => "anon 100\nfile 5\nfile_mapped 20\n",
                "cpu.stat" => "usage_usec 3\nuser_usec 1\n",
                "memory.events" => "low 0\noom 1\noom_kill 2\n",
                "io.stat" => "254:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n7:0 rbytes=4 rios=1\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        let old = version_1(|name| {
            let text = match name {
                "memory.usage_in_bytes" => "4096\n",
                "memory.stat" => "cache 5\nrss 1\ntotal_rss 100\ntotal_mapped_file 20\n",
                "cpuacct.usage" => "3000\n",
                "blkio.throttle.io_service_bytes" => "254:0 Read 4096\n254:0 Write 512\n7:0 Read 4\nTotal 4612\n",
                "blkio.throttle.io_serviced" => "254:0 Read 2\n254:0 Write 1\n7:0 Read 1\nTotal 4\n",
                "memory.oom_control" => "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!(new, old);
        assert_eq!(new.cpu, Some(3000));
        let disks = new.disks.unwrap();
        assert_eq!((disks.reads, disks.read_bytes), (3, 4100));
        assert_eq!((disks.writes, disks.written_bytes), (1, 512));
        assert_eq!(unified(|_| None), Usage::default());
    }
}
