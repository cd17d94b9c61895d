//! Resource limits (setrlimit(2)), lowered for good.

use std::io;

use super::check;

/// Descriptors: the machine's, and as many connections as the socket device has.
const DESCRIPTORS: u64 = 1200;
/// Size to which a file may be written where no disk is larger, in bytes: the last words.
const SMALLEST_FILE: u64 = 4096;

/// Lowers what does not depend on the sandbox.
pub fn apply() -> io::Result<()> {
    lower(libc::RLIMIT_NOFILE, DESCRIPTORS)?;
    // Guest memory and secrets of other sandboxes' neighbours do not belong into a file.
    lower(libc::RLIMIT_CORE, 0)?;
    lower(libc::RLIMIT_MEMLOCK, 0)?;
    lower(libc::RLIMIT_MSGQUEUE, 0)
}

/// Forbids to write a file beyond the size of the largest disk, in bytes.
pub fn limit_file_size(largest: u64) -> io::Result<()> {
    lower(libc::RLIMIT_FSIZE, largest.max(SMALLEST_FILE))
}

fn lower(resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
    let mut current = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::getrlimit(resource, &raw mut current) })?;
    let limit = limit.min(current.rlim_max);
    let lowered = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(resource, &raw const lowered) })
}
