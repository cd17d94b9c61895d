//! From the operating system's errors to the contract's.

use std::io;

use sandbox_core::ErrorKind;

/// The kind of an operating system's error.
#[allow(dead_code, reason = "the modules that use it come with the next commits")]
pub(crate) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => ErrorKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::PermissionDenied,
        Some(libc::EBUSY | libc::EADDRINUSE) => ErrorKind::InUse,
        Some(libc::EEXIST) => ErrorKind::AlreadyExists,
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOSPC) => ErrorKind::HostExhausted,
        _ => ErrorKind::HostFailure,
    }
}
