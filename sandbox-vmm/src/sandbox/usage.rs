//! Reading what a micro-VM uses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandbox_core::stats::{CpuStats, MemoryStats, ReportedMemory};
use sandbox_core::{Error, ErrorKind, Result, Stats};

use crate::devices::virtio::balloon::{BALLOON_PAGE_SIZE, BalloonHandle};
use crate::devices::virtio::block::BlockCounters;
use crate::devices::virtio::net::NetCounters;
use crate::machine::Machine;
use crate::machine::crew::Crew;

/// The counters that a micro-VM's devices keep.
#[derive(Default)]
pub struct Counters {
    /// One per disk.
    pub disks: Vec<Arc<BlockCounters>>,
    /// One per network card.
    pub networks: Vec<Arc<NetCounters>>,
    /// The balloon, if there is one.
    pub balloon: Option<BalloonHandle>,
}

impl Counters {
    pub(super) fn read(&self, machine: &Machine, crew: &Crew) -> Result<Stats> {
        let touched = machine.vm.memory().mapping().resident_bytes().map_err(|error| {
            let context = "cannot read the memory map of this process";
            Error::new(ErrorKind::HostFailure, context).with_source(error)
        })?;
        Ok(Stats {
            memory: MemoryStats {
                guest_touched: Some(touched),
                ballooned: self
                    .balloon
                    .as_ref()
                    .map(|balloon| u64::from(balloon.actual()) * BALLOON_PAGE_SIZE),
                reported: self.balloon.as_ref().and_then(reported),
                ..MemoryStats::default()
            },
            cpu: CpuStats {
                guest: Some(crew.members().iter().map(|member| member.cpu_nanoseconds()).sum()),
                host: None,
                exits: Some(
                    crew.members()
                        .iter()
                        .map(|member| member.exits.load(Ordering::Relaxed))
                        .sum(),
                ),
            },
            disks: self.disks.iter().map(|disk| disk.read()).collect(),
            networks: self.networks.iter().map(|network| network.read()).collect(),
        })
    }
}

/// The guest's latest statistics; newer ones are asked for.
fn reported(balloon: &BalloonHandle) -> Option<ReportedMemory> {
    // A balloon without statistics has none to ask for.
    balloon.request_statistics().ok()?;
    let statistics = balloon.statistics()?;
    Some(ReportedMemory {
        total: statistics.total,
        free: statistics.free,
        available: statistics.available,
        disk_caches: statistics.disk_caches,
        swapped_in: statistics.swapped_in,
        swapped_out: statistics.swapped_out,
        major_faults: statistics.major_faults,
        minor_faults: statistics.minor_faults,
    })
}
