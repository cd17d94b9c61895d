//! From the operating system's errors to the contract's.

use std::io;

use sandbox_core::{Error, ErrorKind};

use crate::reaper::CallError;

/// The kind of an operating system's error.
pub fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => ErrorKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::PermissionDenied,
        Some(libc::EBUSY | libc::EADDRINUSE) => ErrorKind::InUse,
        Some(libc::EEXIST) => ErrorKind::AlreadyExists,
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOSPC) => ErrorKind::HostExhausted,
        _ => ErrorKind::HostFailure,
    }
}

/// The contract's error for a failure of the host in `what`.
pub fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |error| Error::new(kind_of(&error), what).with_source(error)
}

/// The same for what rustix calls an error.
pub fn call(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Error {
    let host = host(what);
    move |error| host(error.into())
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Start { source, .. } => kind_of(source),
            CallError::TooLong { .. } => ErrorKind::Timeout,
            CallError::Reaper(_) => ErrorKind::WorkerLost,
        };
        let converted = Error::new(kind, error.to_string());
        match error {
            CallError::Start { source, .. } => converted.with_field(crate::runtime::FIELD).with_source(source),
            CallError::Reaper(source) => converted.with_source(source),
            CallError::TooLong { .. } => converted,
        }
    }
}
