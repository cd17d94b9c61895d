//! What a sandbox uses: one struct for all backends.

use serde::{Deserialize, Serialize};

/// A reading of a sandbox's counters. Sizes in bytes, times in nanoseconds; `None` where a backend cannot tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Memory.
    pub memory: MemoryStats,
    /// Processor time.
    pub cpu: CpuStats,
    /// One entry per disk, in the order of the spec. A container has one entry for all disks of the host together.
    pub disks: Vec<DiskStats>,
    /// One entry per network, in the order of the spec.
    pub networks: Vec<NetworkStats>,
}

/// Memory in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Resident memory of the processes that belong to the sandbox alone; `None` for one that lives in its embedder.
    pub resident: Option<u64>,
    /// Proportional share of those processes.
    pub proportional: Option<u64>,
    /// Memory that nobody else shares: what would be free if the sandbox were gone.
    pub private: Option<u64>,
    /// Guest memory that is backed by host memory, which is what the guest has touched.
    pub guest_touched: Option<u64>,
    /// Memory that the guest gave back by its balloon.
    pub ballooned: Option<u64>,
    /// What the guest itself says of its memory, where it was made to report that: its latest report. Each reading asks
    /// for a newer one and does not wait for it. Not to be trusted: a guest may say anything.
    pub reported: Option<ReportedMemory>,
}

/// A guest's own figures. Sizes in bytes; `None` where the guest does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedMemory {
    /// All its memory.
    pub total: Option<u64>,
    /// Memory that nothing uses.
    pub free: Option<u64>,
    /// Memory that could be had without swapping.
    pub available: Option<u64>,
    /// Memory that caches files.
    pub disk_caches: Option<u64>,
    /// Memory swapped in since its start.
    pub swapped_in: Option<u64>,
    /// Memory swapped out since its start.
    pub swapped_out: Option<u64>,
    /// Page faults since its start that had to read from a disk.
    pub major_faults: Option<u64>,
    /// Page faults since its start that did not.
    pub minor_faults: Option<u64>,
}

/// Processor time used up to now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// Time of the guest's processors, the host's work on their threads included.
    pub guest: Option<u64>,
    /// Time of the other threads that serve the sandbox.
    pub host: Option<u64>,
    /// Times that a guest's processor left to user space.
    pub exits: Option<u64>,
}

/// Counters of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Counters of a network card, from the guest's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Frames that the guest received.
    pub received_frames: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Frames that the guest sent.
    pub sent_frames: u64,
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Frames dropped in either direction.
    pub dropped_frames: u64,
}
