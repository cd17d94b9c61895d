//! Reading what a micro-VM uses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandbox_core::stats::{CpuStats, MemoryStats};
use sandbox_core::{Error, ErrorKind, Result, Stats};

use crate::devices::virtio::net::NetCounters;
use crate::machine::Machine;
use crate::machine::crew::Crew;

/// The counters that a micro-VM's devices keep.
#[derive(Default)]
pub struct Counters {
    /// One per network card.
    pub networks: Vec<Arc<NetCounters>>,
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
            disks: Vec::new(),
            networks: self.networks.iter().map(|network| network.read()).collect(),
        })
    }
}
