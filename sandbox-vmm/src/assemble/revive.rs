//! From a saved machine to one that is ready to go on.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use sandbox_core::pool::Refill;
use sandbox_core::{Error, ErrorKind, Phase, Result, SandboxSpec, Uniqueness};

use super::devices::EVENT_GSI;
use super::{DeviceSet, Library, Parts, devices, new_machine, shell_kind};
use crate::assemble::opened::OpenDevices;
use crate::devices::persist;
use crate::error::with_cause;
use crate::machine::Machine;
use crate::machine::host::KvmHost;
use crate::machine::shell::Shell;
use crate::machine::vcpu::Vcpu;
use crate::machine::vm::GsiLine;
use crate::memory::GuestMemory;
use crate::memory::image::MemoryImage;
use crate::renewal::{self, Channel, NewIdentity, RenewalError};
use crate::sandbox::Outlets;
use crate::sandbox::life::Assembly;
use crate::snapshot::pager::Pager;
use crate::snapshot::saved::{Origin, SavedMachine};
use crate::snapshot::section::Identity;

/// Where a revived guest's memory comes from.
pub enum MemorySource<'a> {
    /// An image, which it shares with others until it writes.
    Image(&'a Arc<MemoryImage>),
    /// Memory of its own, which this fills.
    Filled(&'a dyn Fn(&GuestMemory) -> Result<()>),
    /// Memory of its own, whose pages come when they are asked for.
    Paged(&'a dyn Fn(&GuestMemory) -> Result<Pager>),
}

impl MemorySource<'_> {
    /// The image that a machine's memory is to begin with.
    fn image(&self) -> Option<&Arc<MemoryImage>> {
        match self {
            Self::Image(image) => Some(image),
            _ => None,
        }
    }

    /// Gives memory that began so the rest of its content.
    fn fill(&self, memory: &GuestMemory) -> Result<Option<Pager>> {
        match self {
            Self::Image(_) => Ok(None),
            Self::Filled(fill) => fill(memory).map(|()| None),
            Self::Paged(page) => page(memory).map(Some),
        }
    }
}

/// What a clone is made from, beside what is opened for it.
pub struct Revival<'a> {
    /// What stood still.
    pub saved: &'a SavedMachine,
    /// Its memory.
    pub memory: &'a MemorySource<'a>,
    /// The snapshot that its memory is of: a difference can be taken to it.
    pub snapshot: Option<Identity>,
    /// What it is told of its own, if it is another sandbox than the saved one.
    pub identity: Option<NewIdentity>,
}

/// What is left to be done when the clone's threads are about to run.
pub struct Revived {
    channel: Channel,
    identity: Option<NewIdentity>,
    /// Lets another VM be made in the place of this one's.
    refill: Option<Refill>,
}

impl Revived {
    /// What is to be dropped when the clone runs and is in no hurry any more.
    pub fn take_refill(&mut self) -> Option<Refill> {
        self.refill.take()
    }

    /// Tells the guest what it has of its own.
    ///
    /// # Errors
    /// A guest whose memory has no place for it.
    pub fn tell(&self, machine: &Machine) -> std::result::Result<Uniqueness, RenewalError> {
        match &self.identity {
            Some(identity) => {
                let event = GsiLine::new(Arc::clone(&machine.vm), EVENT_GSI);
                renewal::give(machine, self.channel, identity, &event)
            }
            None => Ok(renewal::NOTHING_GIVEN),
        }
    }

    /// Tells the guest again, since time has passed, and has the devices go on.
    ///
    /// # Errors
    /// A guest whose memory has no place for it.
    pub fn wake(&self, machine: &Machine) -> std::result::Result<(), RenewalError> {
        self.tell(machine)?;
        persist::wake(machine);
        Ok(())
    }
}

/// Makes a machine as the saved one was, by the clone's own `spec` and with what was opened for it.
///
/// The vCPUs come before the interrupt controllers: an interrupt that is pending in the IOAPIC is delivered when that
/// is restored, to the local APICs that there are.
pub fn revive(
    host: &KvmHost,
    library: &Library,
    revival: Revival<'_>,
    spec: SandboxSpec,
    opened: OpenDevices,
    outlets: &Outlets,
) -> Result<(Parts, Uniqueness)> {
    let recorder = &outlets.recorder;
    let saved = revival.saved;
    let origin = Origin {
        spec,
        ..saved.origin.clone()
    };
    let spec = &origin.spec;
    let devices = DeviceSet::new(spec, opened, outlets)?;
    let kind = shell_kind(spec, origin.chipset, origin.dense_memory);
    let (shell, refill) = library
        .shells
        .take_with(host, &kind, revival.memory.image(), recorder)?;
    let Shell { vm, vcpus } = shell;
    let pager = revival.memory.fill(vm.memory())?;
    if let Some(snapshot) = revival.snapshot {
        vm.dirty().begin(snapshot);
    }
    let mut machine = new_machine(host, vm, (origin.ports, origin.renewal), outlets);
    machine.pager = pager;
    let counters = devices.install(&mut machine, &devices::slots(spec)?);
    persist::restore(&machine, &saved.devices)?;
    recorder.record(Phase::DevicesReady);
    let vcpus = tell_vcpus(host, &machine, vcpus, saved)?;
    recorder.record(Phase::VcpusReady);
    machine.vm.restore(&saved.vm)?;
    let revived = Revived {
        channel: origin.renewal,
        identity: revival.identity,
        refill,
    };
    let told = revived
        .tell(&machine)
        .map_err(|error| with_cause(ErrorKind::Corrupt, error))?;
    recorder.record(Phase::StateRestored);
    let assembly = Assembly {
        machine,
        vcpus,
        deadline: spec.limits.deadline_ms.map(Duration::from_millis),
        origin,
        revived: Some(revived),
    };
    Ok((Parts { assembly, counters }, told))
}

fn tell_vcpus(host: &KvmHost, machine: &Machine, fds: Vec<VcpuFd>, saved: &SavedMachine) -> Result<Vec<Vcpu>> {
    if fds.len() != saved.vcpus.len() {
        let context = format!("the spec has {} vCPUs, and {} were saved", fds.len(), saved.vcpus.len());
        return Err(Error::new(ErrorKind::Corrupt, context));
    }
    let passed = saved.vm.time_passed();
    machine.vm.restore_clock(&saved.vm, &passed)?;
    let mut vcpus = Vec::with_capacity(saved.vcpus.len());
    for (id, (state, fd)) in (0..).zip(saved.vcpus.iter().zip(fds)) {
        vcpus.push(state.restore(host, fd, id, &passed)?);
    }
    Ok(vcpus)
}
