//! What a container uses: what its cgroup says; without one what its runtime counts, and what the kernel says of its
//! processes.

use sandbox_core::Stats;
use sandbox_core::stats::{CpuStats, MemoryStats};

use super::life::Life;
use super::processes;
use crate::cgroup::Usage;
use crate::probe;
use crate::runtime::{Command, Flags, Kind, events};

/// All but what its networks count.
pub fn of(life: &Life) -> Stats {
    let parts = &life.parts;
    if let Some(cgroup) = &parts.cgroup {
        return stats(cgroup.usage());
    }
    if life.pid() == 0 || life.exit.get().is_some() {
        return Stats::default();
    }
    let counted = stats(told_by_the_runtime(life));
    let (memory, cpu) = match parts.runtime.kind {
        Kind::Runc | Kind::Crun => processes::usage(life.pid()),
        // The processes that the host sees are gVisor's own, in more than one namespace.
        Kind::Runsc => Default::default(),
    };
    Stats {
        memory: MemoryStats {
            resident: counted.memory.resident.or(memory.resident),
            proportional: memory.proportional,
            private: counted.memory.private.or(memory.private),
            guest_touched: counted.memory.guest_touched.or(memory.guest_touched),
            ..MemoryStats::default()
        },
        cpu: CpuStats {
            guest: counted.cpu.guest.or(cpu.guest),
            ..CpuStats::default()
        },
        ..counted
    }
}

fn stats(usage: Usage) -> Stats {
    Stats {
        memory: MemoryStats {
            resident: usage.anonymous.map(|anonymous| anonymous + usage.mapped.unwrap_or(0)),
            private: usage.anonymous,
            guest_touched: usage.memory,
            ..MemoryStats::default()
        },
        cpu: CpuStats {
            guest: usage.cpu,
            ..CpuStats::default()
        },
        disks: usage.disks.into_iter().collect(),
        ..Stats::default()
    }
}

/// Not under the lock of verbs: it changes nothing, and whoever looks at counters does not wait for a snapshot.
fn told_by_the_runtime(life: &Life) -> Usage {
    let parts = &life.parts;
    if !parts.runtime.has_events() {
        return Usage::default();
    }
    let flags = Flags {
        // Its complaints are not those of the verb that is on its way.
        log: parts.folder.join("events.log"),
        ..parts.flags.clone()
    };
    let words = parts.runtime.words(&flags, Command::Stats, &parts.id);
    match probe::ask(&parts.host, words, parts.host.options.call_limit) {
        Ok((_, answer)) => events::usage(parts.runtime.kind, &answer),
        Err(error) => {
            tracing::debug!(id = %parts.id, "{}", error.report());
            Usage::default()
        }
    }
}
