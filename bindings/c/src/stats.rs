//! What a sandbox uses.

use std::mem::size_of;

use sandbox::Stats;
use sandbox::stats::{DiskStats, NetworkStats};

use crate::argument;
use crate::entry::{Failure, Outcome, entry};
use crate::error::sandbox_error_t;
use crate::lifecycle::sandbox_t;
use crate::object::SANDBOXES;
use crate::text::{self, sandbox_text_t};

/// In `sandbox_stats`: the backend, or the guest, does not tell.
pub const SANDBOX_UNKNOWN: u64 = u64::MAX;

/// A reading of a sandbox's counters. Sizes in bytes, times in nanoseconds; `SANDBOX_UNKNOWN` where nobody can tell.
/// Later versions of the interface append fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_stats {
    /// Resident memory of the processes that belong to the sandbox alone.
    pub memory_resident: u64,
    /// Proportional share of those processes.
    pub memory_proportional: u64,
    /// Memory that nobody else shares.
    pub memory_private: u64,
    /// Guest memory that the guest has touched.
    pub memory_guest_touched: u64,
    /// Memory that the guest gave back by its balloon.
    pub memory_ballooned: u64,
    /// The guest's own words: all its memory. Not to be trusted, as all that a guest reports.
    pub reported_total: u64,
    /// The guest's own words: memory that nothing uses.
    pub reported_free: u64,
    /// The guest's own words: memory that could be had without swapping.
    pub reported_available: u64,
    /// The guest's own words: memory that caches files.
    pub reported_disk_caches: u64,
    /// The guest's own words: memory swapped in since its start.
    pub reported_swapped_in: u64,
    /// The guest's own words: memory swapped out since its start.
    pub reported_swapped_out: u64,
    /// The guest's own words: page faults since its start that had to read from a disk.
    pub reported_major_faults: u64,
    /// The guest's own words: page faults since its start that did not.
    pub reported_minor_faults: u64,
    /// Time of the guest's processors, the host's work on their threads included.
    pub cpu_guest: u64,
    /// Time of the other threads that serve the sandbox.
    pub cpu_host: u64,
    /// Times that a guest's processor left to user space.
    pub cpu_exits: u64,
    /// How many disks there are; `sandbox_disk_stats_read` reads one.
    pub disk_count: u64,
    /// How many networks there are; `sandbox_network_stats_read` reads one.
    pub network_count: u64,
}

/// Counters of a disk. Later versions of the interface append fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_disk_stats {
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

/// Counters of a network card, from the guest's side. Later versions of the interface append fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_network_stats {
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

/// Reads the counters. Any state but torn down. `size` is `sizeof(sandbox_stats)`: no more than that is written.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_stats_read(
    sandbox: sandbox_t,
    stats: *mut sandbox_stats,
    size: usize,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let read = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.stats()?))?;
            put(stats, size, "stats", whole(&read))
        })
    }
}

/// Reads the counters of the disk of that number, in the order of the spec. `size` is `sizeof(sandbox_disk_stats)`.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_ARGUMENT` if there is no such
/// disk.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_disk_stats_read(
    sandbox: sandbox_t,
    index: u64,
    stats: *mut sandbox_disk_stats,
    size: usize,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let read = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.stats()?))?;
            put(stats, size, "stats", disk(pick(&read.disks, index)?))
        })
    }
}

/// Reads the counters of the network of that number, in the order of the spec. `size` is
/// `sizeof(sandbox_network_stats)`.
///
/// Thread-safety: any thread, any time. Does not block. Fails with `SANDBOX_ERROR_INVALID_ARGUMENT` if there is no such
/// network.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_network_stats_read(
    sandbox: sandbox_t,
    index: u64,
    stats: *mut sandbox_network_stats,
    size: usize,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let read = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.stats()?))?;
            put(stats, size, "stats", network(pick(&read.networks, index)?))
        })
    }
}

/// Reads all counters at once, as JSON: `null` where nobody can tell. The caller frees `*json` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_stats_to_json(
    sandbox: sandbox_t,
    json: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(json, "json")?;
            let read = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.stats()?))?;
            *place = text::hand_out_json(&read)?;
            Ok(())
        })
    }
}

/// The networks that the SDK made for it, as a JSON array: `"id"`, `"interface"`, `"address"`, `"gateway"`, `"mac"`,
/// `"ports"`, with what the spec left open. Any state; what is told here is given back by teardown. The caller frees
/// `*json` with `sandbox_text_free`.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_networks_to_json(
    sandbox: sandbox_t,
    json: *mut sandbox_text_t,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(json, "json")?;
            let networks = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.networks()))?;
            *place = text::hand_out_json(&networks)?;
            Ok(())
        })
    }
}

/// Writes as much of `value` as the caller has room for.
///
/// # Safety
/// `place` is null or has room for `size` bytes.
unsafe fn put<T: Copy>(place: *mut T, size: usize, name: &'static str, value: T) -> Outcome<()> {
    if place.is_null() {
        return Err(Failure::invalid_argument(name, "is NULL"));
    }
    if size == 0 || !size.is_multiple_of(size_of::<u64>()) {
        return Err(Failure::invalid_argument(
            "size",
            "is not the size of any version of the structure",
        ));
    }
    let size = size.min(size_of::<T>());
    // SAFETY: both have at least `size` bytes, and `value` is a copy of this function's own.
    unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), place.cast::<u8>(), size) };
    Ok(())
}

fn pick<T>(all: &[T], index: u64) -> Outcome<&T> {
    let found = usize::try_from(index).ok().and_then(|index| all.get(index));
    found.ok_or_else(|| Failure::invalid_argument("index", format!("is {index}; there are {}", all.len())))
}

fn whole(stats: &Stats) -> sandbox_stats {
    let known = |value: Option<u64>| value.unwrap_or(SANDBOX_UNKNOWN);
    let reported = stats.memory.reported.unwrap_or_default();
    sandbox_stats {
        memory_resident: known(stats.memory.resident),
        memory_proportional: known(stats.memory.proportional),
        memory_private: known(stats.memory.private),
        memory_guest_touched: known(stats.memory.guest_touched),
        memory_ballooned: known(stats.memory.ballooned),
        reported_total: known(reported.total),
        reported_free: known(reported.free),
        reported_available: known(reported.available),
        reported_disk_caches: known(reported.disk_caches),
        reported_swapped_in: known(reported.swapped_in),
        reported_swapped_out: known(reported.swapped_out),
        reported_major_faults: known(reported.major_faults),
        reported_minor_faults: known(reported.minor_faults),
        cpu_guest: known(stats.cpu.guest),
        cpu_host: known(stats.cpu.host),
        cpu_exits: known(stats.cpu.exits),
        disk_count: stats.disks.len() as u64,
        network_count: stats.networks.len() as u64,
    }
}

fn disk(stats: &DiskStats) -> sandbox_disk_stats {
    sandbox_disk_stats {
        reads: stats.reads,
        writes: stats.writes,
        read_bytes: stats.read_bytes,
        written_bytes: stats.written_bytes,
        flushes: stats.flushes,
        errors: stats.errors,
    }
}

fn network(stats: &NetworkStats) -> sandbox_network_stats {
    sandbox_network_stats {
        received_frames: stats.received_frames,
        received_bytes: stats.received_bytes,
        sent_frames: stats.sent_frames,
        sent_bytes: stats.sent_bytes,
        dropped_frames: stats.dropped_frames,
    }
}
