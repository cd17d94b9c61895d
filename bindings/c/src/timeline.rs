//! When which phase was reached.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use sandbox::Phase;

use crate::argument;
use crate::entry::entry;
use crate::error::sandbox_error_t;
use crate::lifecycle::sandbox_t;
use crate::object::SANDBOXES;
use crate::stats::SANDBOX_UNKNOWN;

/// Room for this many entries is always enough for a timeline.
pub const SANDBOX_TIMELINE_CAPACITY: usize = 64;

/// A phase of a sandbox's life that was reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sandbox_timeline_entry {
    /// The phase's number, append-only; `sandbox_phase_name` names it.
    pub phase: u32,
    /// 0.
    pub reserved: u32,
    /// Real time since `sandbox_create` or `sandbox_restore` was called, in nanoseconds.
    pub real: u64,
    /// Processor time of the process since then, in nanoseconds; `SANDBOX_UNKNOWN` if the runtime was not opened with
    /// `cpu_timeline`.
    pub cpu: u64,
}

/// Reads the phases reached, in order of time, up to `capacity` of them, into `entries`. `*count` is how many there
/// are, also if there was not room for all. Any state.
///
/// Thread-safety: any thread, any time. Does not block.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sandbox_timeline_read(
    sandbox: sandbox_t,
    entries: *mut sandbox_timeline_entry,
    capacity: usize,
    count: *mut usize,
    error: *mut sandbox_error_t,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        entry(error, || {
            let place = argument::place(count, "count")?;
            let room = argument::room(entries, capacity, "entries")?;
            let timeline = SANDBOXES.with(sandbox, |object| Ok(object.sandbox.timeline()))?;
            for (place, entry) in room.iter_mut().zip(timeline.entries()) {
                *place = sandbox_timeline_entry {
                    phase: entry.phase as u32,
                    reserved: 0,
                    real: entry.real,
                    cpu: entry.cpu.unwrap_or(SANDBOX_UNKNOWN),
                };
            }
            *place = timeline.entries().len();
            Ok(())
        })
    }
}

/// The name of a phase, such as `first_entry`; NULL if there is none of that number. The text lives as long as the
/// library.
///
/// Thread-safety: any thread, any time. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn sandbox_phase_name(phase: u32) -> *const c_char {
    static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        Phase::ALL
            .iter()
            .map(|phase| crate::error::c_string(phase.name()))
            .collect()
    });
    let position = Phase::ALL.iter().position(|known| *known as u32 == phase);
    let name = position.and_then(|position| names.get(position));
    name.map_or(ptr::null(), |name| name.as_ptr())
}
