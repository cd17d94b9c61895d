//! What a disk is made from, and why it cannot be made.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use sandbox_core::limits::RateLimit;

use super::{Layer, SECTOR_SIZE};
use crate::rate_limit::RateLimitError;

/// A disk.
#[derive(Debug)]
pub struct BlockConfig {
    /// A raw image file or a block device, opened for reading, and for writing unless `read_only`; see
    /// [`open_disk`](super::open_disk).
    pub file: File,
    /// Whether the driver may only read.
    pub read_only: bool,
    /// Where the driver's writes go instead of the file, which is then only read. As large as the file.
    pub layer: Option<Layer>,
    /// The serial number that the driver sees, cut off behind 20 bytes.
    pub serial: String,
    /// Limits of reads and writes together.
    pub rate_limit: RateLimit,
}

/// Why a disk cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The host does not let us at the file.
    #[error("no permission to open the disk {path}: change its owner or mode, or set read_only if it is only read")]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Smaller than a sector.
    #[error(
        "the disk has less than {SECTOR_SIZE} bytes: give the image its size first, for example with truncate -s 1G"
    )]
    Empty,
    /// Somebody else has the file open in a way that excludes ours.
    #[error(
        "the disk {path} is in use: a disk that is written belongs to one sandbox alone, so give this one a copy or set \
         read_only for all"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file's size or type cannot be told.
    #[error("cannot inspect the disk")]
    Inspect(#[source] io::Error),
    /// The host has no room for what the driver writes.
    #[error("cannot make the layer that a private disk is written to")]
    Layer(#[source] io::Error),
    /// The file system has no locks.
    #[error("cannot lock the disk {path}: put it on a file system that has file locks")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory, a pipe and so on.
    #[error("the disk is a {0}: give a raw image file or a block device")]
    NotADisk(&'static str),
    /// There is no such file.
    #[error("there is no disk {path}: create the image first")]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The descriptor cannot be read from, or not written to.
    #[error("the disk is not open for {0}: open it so, or set read_only if it is only read")]
    NotOpenFor(&'static str),
    /// Anything else.
    #[error("cannot open the disk {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A limit cannot be kept.
    #[error("rate limit of the disk")]
    RateLimit(#[source] RateLimitError),
    /// The file may be written by nobody, or lies on a read-only file system.
    #[error("the disk {path} is write-protected: set read_only, or make it writable")]
    WriteProtected {
        /// The file.
        path: PathBuf,
    },
}
