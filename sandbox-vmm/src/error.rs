//! From each module's errors to the contract's one error.

use std::io;

use sandbox_core::{Error, ErrorKind};

use crate::boot::{BootError, Subject};
use crate::devices::persist::DevicesError;
use crate::devices::virtio::RestoreError;
use crate::machine::cpuid::CpuidError;
use crate::machine::host::KvmError;
use crate::machine::kick::KickError;
use crate::machine::vcpu_state::VcpuStateError;
use crate::memory::MemoryError;

impl From<KvmError> for Error {
    fn from(error: KvmError) -> Self {
        let kind = match &error {
            KvmError::Missing { .. } => ErrorKind::NotFound,
            KvmError::PermissionDenied { .. } => ErrorKind::PermissionDenied,
            KvmError::WrongVersion { .. } => ErrorKind::Unsupported,
            KvmError::Call { source, .. } => kind_of(source),
        };
        with_cause(kind, error)
    }
}

impl From<KickError> for Error {
    fn from(error: KickError) -> Self {
        let kind = match &error {
            KickError::NotRealTime { .. } => ErrorKind::InvalidSpec,
            KickError::InUse(_) | KickError::AlreadyClaimed { .. } => ErrorKind::InUse,
            KickError::Install { .. } => ErrorKind::HostFailure,
        };
        with_cause(kind, error).with_field("kick_signal")
    }
}

impl From<CpuidError> for Error {
    fn from(error: CpuidError) -> Self {
        match error {
            CpuidError::UnknownFeature(_) => with_cause(ErrorKind::InvalidSpec, error).with_field("cpu.mask"),
            CpuidError::TooManyLeaves => with_cause(ErrorKind::HostFailure, error),
        }
    }
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        let kind = match &error {
            MemoryError::Map { source, .. } => kind_of(source),
            MemoryError::Region { .. } => ErrorKind::HostFailure,
        };
        with_cause(kind, error).with_field("memory")
    }
}

impl From<VcpuStateError> for Error {
    fn from(error: VcpuStateError) -> Self {
        match error {
            VcpuStateError::Kvm(error) => error.into(),
            VcpuStateError::Nested => with_cause(ErrorKind::Unsupported, error),
            _ => with_cause(ErrorKind::Incompatible, error),
        }
    }
}

impl From<DevicesError> for Error {
    fn from(error: DevicesError) -> Self {
        let kind = match &error.source {
            RestoreError::Activate(_) => ErrorKind::HostFailure,
            RestoreError::DiskSize { .. } => ErrorKind::InvalidSpec,
            _ => ErrorKind::Corrupt,
        };
        with_cause(kind, error)
    }
}

/// Which fields of the spec a [`BootError`] may be about.
pub struct BootFields {
    /// Names the kernel.
    pub kernel: &'static str,
    /// Names the initrd.
    pub initrd: &'static str,
    /// Names the command line.
    pub cmdline: &'static str,
}

/// The contract's error for `error`, with its field.
pub fn boot_error(error: BootError, fields: &BootFields) -> Error {
    let field = match error.subject() {
        Subject::Kernel => Some(fields.kernel),
        Subject::Initrd => Some(fields.initrd),
        Subject::CommandLine => Some(fields.cmdline),
        Subject::Memory => Some("memory"),
        Subject::Host => None,
    };
    let converted = with_cause(error.kind(), error);
    match field {
        Some(field) => converted.with_field(field),
        None => converted,
    }
}

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

/// An error with the words of `error` and the cause behind it.
pub fn with_cause(kind: ErrorKind, error: impl std::error::Error) -> Error {
    let converted = Error::new(kind, error.to_string());
    match error.source() {
        // The cause's own type is private to its module; its words are what a caller can use.
        Some(cause) => converted.with_source(chain(cause)),
        None => converted,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
