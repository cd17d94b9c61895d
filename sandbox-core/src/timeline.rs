//! When each phase of a sandbox's life was reached. Always on: one clock reading and one store per phase.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A moment in a sandbox's life, in the order in which a cold start reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(usize)]
pub enum Phase {
    /// `create` or `restore` was called; every other stamp counts from here.
    Called,
    /// The spec was checked and every host resource that it names was opened.
    SpecChecked,
    /// The VM, or the runtime's container, exists.
    VmCreated,
    /// Guest memory is mapped and known to the VM.
    MemoryMapped,
    /// Kernel, initrd and boot data are in guest memory.
    KernelLoaded,
    /// Devices are in place.
    DevicesReady,
    /// The vCPUs are set up.
    VcpusReady,
    /// `create` returned; what follows waits for `start`.
    Created,
    /// `start` was called.
    StartCalled,
    /// Right before the first `KVM_RUN`, or before the runtime's start.
    FirstEntry,
    /// The guest's first exit to user space.
    FirstExit,
    /// The readiness check passed.
    Ready,
    /// The guest ended.
    Ended,
    /// The exit status was published: a waiter can have it.
    ExitPublished,
    /// `teardown` was called.
    TeardownCalled,
    /// `teardown` returned to its caller.
    TeardownReturned,
    /// Every thread is joined, every descriptor closed, all memory unmapped.
    TornDown,
    /// Restore: the manifest and the state were read and checked.
    SnapshotChecked,
    /// Restore: device and vCPU state is in place.
    StateRestored,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Phase; 19] = [
        Phase::Called,
        Phase::SpecChecked,
        Phase::VmCreated,
        Phase::MemoryMapped,
        Phase::KernelLoaded,
        Phase::DevicesReady,
        Phase::VcpusReady,
        Phase::Created,
        Phase::StartCalled,
        Phase::FirstEntry,
        Phase::FirstExit,
        Phase::Ready,
        Phase::Ended,
        Phase::ExitPublished,
        Phase::TeardownCalled,
        Phase::TeardownReturned,
        Phase::TornDown,
        Phase::SnapshotChecked,
        Phase::StateRestored,
    ];

    /// The phase's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Called => "called",
            Phase::SpecChecked => "spec_checked",
            Phase::VmCreated => "vm_created",
            Phase::MemoryMapped => "memory_mapped",
            Phase::KernelLoaded => "kernel_loaded",
            Phase::DevicesReady => "devices_ready",
            Phase::VcpusReady => "vcpus_ready",
            Phase::Created => "created",
            Phase::StartCalled => "start_called",
            Phase::FirstEntry => "first_entry",
            Phase::FirstExit => "first_exit",
            Phase::Ready => "ready",
            Phase::Ended => "ended",
            Phase::ExitPublished => "exit_published",
            Phase::TeardownCalled => "teardown_called",
            Phase::TeardownReturned => "teardown_returned",
            Phase::TornDown => "torn_down",
            Phase::SnapshotChecked => "snapshot_checked",
            Phase::StateRestored => "state_restored",
        }
    }
}

/// Records phases as they are reached; shared by all threads that serve a sandbox.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    /// Nanoseconds since `origin`, plus one; 0 where the phase was not reached.
    stamps: [AtomicU64; Phase::ALL.len()],
}

impl Recorder {
    /// Starts now: this moment is [`Phase::Called`].
    pub fn start() -> Self {
        let recorder = Self {
            origin: Instant::now(),
            stamps: [const { AtomicU64::new(0) }; Phase::ALL.len()],
        };
        recorder.stamps[Phase::Called as usize].store(1, Ordering::Relaxed);
        recorder
    }

    /// Stamps `phase` with the present time; the first stamp of a phase stays.
    pub fn record(&self, phase: Phase) {
        let stamp = &self.stamps[phase as usize];
        if stamp.load(Ordering::Relaxed) == 0 {
            let elapsed = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
            let _ = stamp.compare_exchange(0, elapsed + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// What was recorded up to now.
    pub fn timeline(&self) -> Timeline {
        let mut entries: Vec<_> = Phase::ALL
            .into_iter()
            .filter_map(|phase| {
                let stamp = self.stamps[phase as usize].load(Ordering::Relaxed);
                (stamp != 0).then(|| (phase, stamp - 1))
            })
            .collect();
        entries.sort_by_key(|(phase, nanoseconds)| (*nanoseconds, *phase as usize));
        Timeline {
            origin: self.origin,
            entries,
        }
    }
}

/// The phases that a sandbox has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    origin: Instant,
    entries: Vec<(Phase, u64)>,
}

impl Timeline {
    /// The monotonic moment of [`Phase::Called`].
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// The phases reached, in order of time, each with nanoseconds since [`Phase::Called`].
    pub fn entries(&self) -> &[(Phase, u64)] {
        &self.entries
    }

    /// Nanoseconds from [`Phase::Called`] to `phase`, if it was reached.
    pub fn at(&self, phase: Phase) -> Option<u64> {
        let found = self.entries.iter().find(|(reached, _)| *reached == phase);
        found.map(|(_, nanoseconds)| *nanoseconds)
    }

    /// Nanoseconds between two phases, if both were reached in this order.
    pub fn between(&self, from: Phase, to: Phase) -> Option<u64> {
        self.at(to)?.checked_sub(self.at(from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_ordered_and_the_first_stays() {
        let recorder = Recorder::start();
        recorder.record(Phase::VmCreated);
        let first = recorder.timeline().at(Phase::VmCreated);
        recorder.record(Phase::MemoryMapped);
        recorder.record(Phase::VmCreated);
        let timeline = recorder.timeline();
        assert_eq!(timeline.at(Phase::VmCreated), first);
        assert!(timeline.between(Phase::VmCreated, Phase::MemoryMapped).is_some());
        assert_eq!(timeline.at(Phase::Ready), None);
        assert_eq!(timeline.entries()[0], (Phase::Called, 0));
    }

    #[test]
    fn the_list_of_phases_is_in_the_order_of_their_numbers() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
    }
}
