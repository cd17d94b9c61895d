//! When each phase of a sandbox's life was reached. Always on: one clock reading and one store per phase.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A moment in a sandbox's life, in the order in which a cold start reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Reads the processor time that this process has used, in nanoseconds.
pub type CpuClock = fn() -> u64;

/// Records phases as they are reached; shared by all threads that serve a sandbox.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    cpu_clock: Option<CpuClock>,
    cpu_origin: u64,
    stamps: [Stamp; Phase::ALL.len()],
}

/// Nanoseconds since the origin, plus one; 0 where the phase was not reached.
#[derive(Debug)]
struct Stamp {
    real: AtomicU64,
    cpu: AtomicU64,
}

impl Recorder {
    /// Starts now: this moment is [`Phase::Called`].
    ///
    /// With `cpu_clock`, each phase is stamped with processor time as well, which tells work from waiting. It costs a
    /// system call per phase.
    pub fn start(cpu_clock: Option<CpuClock>) -> Self {
        let recorder = Self {
            origin: Instant::now(),
            cpu_clock,
            cpu_origin: cpu_clock.map_or(0, |clock| clock()),
            stamps: [const {
                Stamp {
                    real: AtomicU64::new(0),
                    cpu: AtomicU64::new(0),
                }
            }; Phase::ALL.len()],
        };
        recorder.stamps[Phase::Called as usize].real.store(1, Ordering::Relaxed);
        recorder
    }

    /// Stamps `phase` with the present time; the first stamp of a phase stays.
    pub fn record(&self, phase: Phase) {
        let stamp = &self.stamps[phase as usize];
        if stamp.real.load(Ordering::Relaxed) != 0 {
            return;
        }
        let elapsed = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.record_at(phase, elapsed, 0);
    }

    /// Stamps `phase` with a moment that somebody else saw, another process that serves the sandbox: `real` nanoseconds
    /// since the origin, and `cpu` nanoseconds of processor time beside this process's own.
    pub fn record_at(&self, phase: Phase, real: u64, cpu: u64) {
        let stamp = &self.stamps[phase as usize];
        let first = stamp
            .real
            .compare_exchange(0, real.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
        if let (Ok(_), Some(clock)) = (first, self.cpu_clock) {
            let own = clock().saturating_sub(self.cpu_origin);
            stamp.cpu.store(own.saturating_add(cpu), Ordering::Relaxed);
        }
    }

    /// What was recorded up to now.
    pub fn timeline(&self) -> Timeline {
        let mut entries: Vec<_> = Phase::ALL
            .into_iter()
            .filter_map(|phase| {
                let stamp = &self.stamps[phase as usize];
                let real = stamp.real.load(Ordering::Relaxed).checked_sub(1)?;
                let cpu = self.cpu_clock.map(|_| stamp.cpu.load(Ordering::Relaxed));
                Some(Entry { phase, real, cpu })
            })
            .collect();
        entries.sort_by_key(|entry| (entry.real, entry.phase as usize));
        Timeline {
            origin: self.origin,
            entries,
        }
    }
}

/// A phase that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The phase.
    pub phase: Phase,
    /// Real time since [`Phase::Called`], in nanoseconds.
    pub real: u64,
    /// Processor time of the whole process since then, in nanoseconds, where it was asked for.
    pub cpu: Option<u64>,
}

/// The phases that a sandbox has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    origin: Instant,
    entries: Vec<Entry>,
}

impl Timeline {
    /// The monotonic moment of [`Phase::Called`].
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// The phases reached, in order of time.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Nanoseconds from [`Phase::Called`] to `phase`, if it was reached.
    pub fn at(&self, phase: Phase) -> Option<u64> {
        self.entry(phase).map(|entry| entry.real)
    }

    /// Processor time from [`Phase::Called`] to `phase` in nanoseconds, if it was reached and this was asked for.
    pub fn cpu_at(&self, phase: Phase) -> Option<u64> {
        self.entry(phase)?.cpu
    }

    /// Nanoseconds between two phases, if both were reached in this order.
    pub fn between(&self, from: Phase, to: Phase) -> Option<u64> {
        self.at(to)?.checked_sub(self.at(from)?)
    }

    fn entry(&self, phase: Phase) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.phase == phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_ordered_and_the_first_stays() {
        let recorder = Recorder::start(Some(|| 7));
        recorder.record(Phase::VmCreated);
        let first = recorder.timeline().at(Phase::VmCreated);
        recorder.record(Phase::MemoryMapped);
        recorder.record(Phase::VmCreated);
        let timeline = recorder.timeline();
        assert_eq!(timeline.at(Phase::VmCreated), first);
        assert!(timeline.between(Phase::VmCreated, Phase::MemoryMapped).is_some());
        assert_eq!(timeline.at(Phase::Ready), None);
        assert_eq!(
            (timeline.entries()[0].phase, timeline.at(Phase::Called)),
            (Phase::Called, Some(0))
        );
        assert_eq!(timeline.cpu_at(Phase::VmCreated), Some(0));
    }

    #[test]
    fn the_list_of_phases_is_in_the_order_of_their_numbers() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
    }
}
