//! Snapshots: options, the manifest, and what a clone can rely on being its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::{Limits, RateLimit};

/// What a snapshot is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// What becomes of the sandbox.
    pub after: AfterSnapshot,
    /// Store only what changed since this snapshot; needs `track_dirty` in the spec.
    pub base: Option<PathBuf>,
    /// Store the digest of the memory file in the manifest, for [`Verify::Full`].
    pub digest: bool,
}

/// What becomes of a sandbox when its snapshot is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterSnapshot {
    /// It is as it was: running again if it ran, paused if it was paused.
    #[default]
    Resume,
    /// It has ended as [`crate::Exit::Killed`].
    Stop,
}

/// How a snapshot is brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Host resources that differ from the original's.
    pub overrides: Overrides,
    /// How memory is brought in.
    pub memory: MemoryRestore,
    /// How much of the snapshot is verified beyond its state and manifest, which always are.
    pub verify: Verify,
    /// Run at once instead of returning it paused.
    pub start: bool,
}

/// How a restored guest gets its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryRestore {
    /// A private mapping of the memory file: pages come by fault and are copied when written.
    #[default]
    Cow,
    /// All of it is read before the guest runs.
    Eager,
    /// By userfaultfd, with the recorded working set fetched ahead.
    Uffd,
}

/// How much of a memory file is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Its size and identity.
    #[default]
    Size,
    /// Its digest, which reads all of it.
    Full,
}

/// Replacements for host resources; naming one that the snapshot does not have is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Disks by id.
    pub disks: BTreeMap<String, DiskOverride>,
    /// Networks by id.
    pub networks: BTreeMap<String, NetworkOverride>,
    /// Path of the vsock's Unix socket.
    pub vsock_path: Option<PathBuf>,
    /// Limits, all of them.
    pub limits: Option<Limits>,
}

/// What replaces a disk's host side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskOverride {
    /// Another file.
    pub path: Option<PathBuf>,
    /// Whether the host side is opened read-only.
    pub read_only: Option<bool>,
    /// Other rate limits.
    pub rate_limit: Option<RateLimit>,
}

/// What replaces a network card's host side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOverride {
    /// Another tap, by name.
    pub tap: Option<String>,
    /// Another MAC address, told to guests whose dialect can be told.
    pub mac: Option<String>,
    /// Another guest address with prefix length, told likewise.
    pub address: Option<String>,
}

/// What was done so that a clone does not repeat its siblings, per aspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// The host did it, whatever the guest does.
    Applied,
    /// The guest was told.
    Notified,
    /// The guest said that it did it.
    GuestConfirmed,
    /// Nothing: the clone repeats the original.
    NotGiven,
}

/// What a restored or forked sandbox can rely on being its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uniqueness {
    /// Random numbers.
    pub entropy: Given,
    /// Machine and instance identifiers.
    pub ids: Given,
    /// Wall-clock time.
    pub clock: Given,
    /// Link and network addresses.
    pub address: Given,
}

/// The first document of a snapshot folder; written last, so that a folder without it is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the folder's format.
    pub format: u32,
    /// Version of the SDK that wrote it.
    pub sdk_version: String,
    /// Backend that wrote it, and alone can read it.
    pub backend: String,
    /// Instruction set, such as `x86_64`.
    pub architecture: String,
    /// Processor vendor, model and features that the guest saw; backend-defined text.
    pub cpu: BTreeMap<String, String>,
    /// Host kernel's release.
    pub host_kernel: String,
    /// Guest dialect, or container runtime.
    pub guest: String,
    /// Files of the folder: name, size in bytes, and checksum or digest.
    pub files: BTreeMap<String, FileRecord>,
    /// What a restore can give each clone.
    pub uniqueness: Uniqueness,
}

/// A file that belongs to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Size in bytes.
    pub size: u64,
    /// A random value stored in the file as well, so that a swapped file is noticed.
    pub identity: String,
    /// Digest of the content, where it was asked for.
    pub digest: Option<String>,
}
