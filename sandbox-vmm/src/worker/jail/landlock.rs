//! Landlock: no file may be opened and no port used, whatever way there is to name it
//! (Documentation/userspace-api/landlock.rst of the Linux source).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

const CREATE_RULESET_VERSION: libc::c_uint = 1;
/// Accesses to files that the first version knows; later ones add a bit each.
const FILES_V1: u64 = (1 << 13) - 1;
const FILES_REFER: u64 = 1 << 13;
const FILES_TRUNCATE: u64 = 1 << 14;
const FILES_IOCTL_DEVICE: u64 = 1 << 15;
/// Binding and connecting TCP sockets.
const NETWORK: u64 = 0b11;
/// Abstract Unix sockets and signals to processes outside.
const SCOPES: u64 = 0b11;

/// `struct landlock_ruleset_attr`, as of version 6.
#[derive(Default)]
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

/// Forbids this process all that the host's version of Landlock can forbid, for good. Descriptors that are open stay.
///
/// # Errors
/// A kernel without Landlock.
pub fn restrict() -> io::Result<()> {
    let null = ptr::null::<Ruleset>();
    // SAFETY: with this flag the call takes no structure and returns the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, 0, CREATE_RULESET_VERSION) };
    if version < 1 {
        return Err(io::Error::last_os_error());
    }
    let (ruleset, size) = ruleset(version);
    // SAFETY: the structure has at least `size` bytes of what this version knows, and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0) };
    let Ok(fd @ 0..) = libc::c_int::try_from(fd) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the descriptor was just made.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: takes integers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// All that `version` can forbid, without exception, and how much of the structure it knows.
fn ruleset(version: libc::c_long) -> (Ruleset, usize) {
    let from = |first: libc::c_long, bits: u64| if version >= first { bits } else { 0 };
    let ruleset = Ruleset {
        files: FILES_V1 | from(2, FILES_REFER) | from(3, FILES_TRUNCATE) | from(5, FILES_IOCTL_DEVICE),
        network: from(4, NETWORK),
        scopes: from(6, SCOPES),
    };
    let size = match version {
        ..4 => 8,
        4 | 5 => 16,
        6.. => 24,
    };
    (ruleset, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_asked_for_what_it_knows() {
        let (first, size) = ruleset(1);
        assert_eq!((first.files, first.network, first.scopes, size), (0x1fff, 0, 0, 8));
        let (fourth, size) = ruleset(4);
        assert_eq!((fourth.files, fourth.network, fourth.scopes, size), (0x7fff, 3, 0, 16));
        let (later, size) = ruleset(9);
        assert_eq!((later.files, later.network, later.scopes, size), (0xffff, 3, 3, 24));
    }
}
