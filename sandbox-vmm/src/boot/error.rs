//! Errors between a kernel file and a vCPU's first registers.

use std::io;
use std::path::PathBuf;

use sandbox_core::ErrorKind;
use vm_memory::GuestMemoryError;

use super::Protocol;
use super::image::ImageError;

/// What an error is about, for the caller to name the field of its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The kernel file.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The command line.
    CommandLine,
    /// The size of guest memory.
    Memory,
    /// No field: the host or the machine is at fault.
    Host,
}

/// Errors of putting a kernel into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line has a NUL, which would end it for the kernel.
    #[error("the command line has a NUL at byte {position}: remove it")]
    CmdlineNul {
        /// Offset of the NUL in bytes.
        position: usize,
    },
    /// The command line does not fit the kernel's buffer.
    #[error("the command line has {length} bytes with its device tokens, and this kernel takes {limit}: shorten it")]
    CmdlineTooLong {
        /// Length in bytes.
        length: u64,
        /// Most bytes that the kernel takes.
        limit: u64,
    },
    /// A file was written to while it was read.
    #[error("the file changed while it was read: do not change it while sandboxes start")]
    FileChanged {
        /// Which field named it.
        subject: Subject,
    },
    /// Guest memory does not have a place that it must have.
    #[error("cannot write {what} to guest memory")]
    GuestMemory {
        /// What was written.
        what: &'static str,
        /// What vm-memory said.
        source: GuestMemoryError,
    },
    /// The kernel file is not a kernel that this machine can boot.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The initrd has no content.
    #[error("the initrd is empty: build or copy it again")]
    InitrdEmpty,
    /// The initrd does not fit between the kernel and the end of the memory that it may lie in.
    #[error(
        "the initrd has {size} bytes, and {room} bytes are free behind the kernel: give the guest more memory or \
         a smaller initrd"
    )]
    InitrdTooLarge {
        /// Size of the initrd in bytes.
        size: u64,
        /// Bytes between the kernel and the highest address allowed.
        room: u64,
    },
    /// The sealed copy of a file cannot be mapped.
    #[error("cannot map {what} into guest memory")]
    MapFile {
        /// What was mapped.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not fit into guest memory.
    #[error("the kernel needs at least {needed} bytes of memory, and the guest has {available}: give it more")]
    MemoryTooSmall {
        /// Smallest memory that holds the kernel, in bytes.
        needed: u64,
        /// Memory below the 32-bit gap, in bytes.
        available: u64,
    },
    /// The kernel cannot be entered by the protocol asked for.
    #[error("the kernel has no entry by the {protocol} protocol: choose another protocol or kernel")]
    NoSuchEntry {
        /// The protocol asked for.
        protocol: Protocol,
    },
    /// A directory, device or pipe was named.
    #[error("{path} is {found}, not a regular file")]
    NotAFile {
        /// What was asked for.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// Which field named it.
        subject: Subject,
    },
    /// A file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// Which field named it.
        subject: Subject,
        /// What the kernel said.
        source: io::Error,
    },
    /// The initrd cannot be read.
    #[error("cannot read the initrd")]
    ReadInitrd(#[source] io::Error),
    /// The host has no room for a copy of the file.
    #[error("cannot keep a copy of the file in host memory")]
    Store(#[source] io::Error),
}

impl BootError {
    /// What the error is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::CmdlineNul { .. } | Self::CmdlineTooLong { .. } => Subject::CommandLine,
            Self::GuestMemory { .. } | Self::MapFile { .. } | Self::Store(_) => Subject::Host,
            Self::Image(_) | Self::NoSuchEntry { .. } => Subject::Kernel,
            Self::InitrdEmpty | Self::InitrdTooLarge { .. } | Self::ReadInitrd(_) => Subject::Initrd,
            Self::MemoryTooSmall { .. } => Subject::Memory,
            Self::FileChanged { subject } | Self::NotAFile { subject, .. } | Self::Open { subject, .. } => *subject,
        }
    }

    /// The kind that the contract gives the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CmdlineNul { .. } | Self::CmdlineTooLong { .. } => ErrorKind::InvalidSpec,
            Self::MemoryTooSmall { .. } | Self::InitrdTooLarge { .. } => ErrorKind::InvalidSpec,
            Self::Image(ImageError::Read(_)) | Self::ReadInitrd(_) => ErrorKind::HostFailure,
            Self::Image(_) | Self::NoSuchEntry { .. } | Self::NotAFile { .. } => ErrorKind::BadImage,
            Self::FileChanged { .. } | Self::InitrdEmpty => ErrorKind::BadImage,
            Self::Open { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::HostFailure,
            },
            Self::GuestMemory { .. } => ErrorKind::HostFailure,
            Self::MapFile { .. } | Self::Store(_) => ErrorKind::HostExhausted,
        }
    }
}
