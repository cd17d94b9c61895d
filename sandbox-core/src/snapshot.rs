//! Snapshots: options, the manifest, and what a clone can rely on being its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{Limits, RateLimit};
use crate::spec::{HugePages, TapSpec};

/// What a snapshot is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotOptions {
    /// What becomes of the sandbox.
    pub after: AfterSnapshot,
    /// Store only what changed since this snapshot; needs `track_dirty` in the spec.
    pub base: Option<PathBuf>,
    /// Store the digest of the memory file in the manifest, for [`Verify::Full`].
    pub digest: bool,
}

/// What becomes of a sandbox when its snapshot is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterSnapshot {
    /// It is as it was: running again if it ran, paused if it was paused.
    #[default]
    Resume,
    /// It has ended as [`crate::Exit::Killed`].
    Stop,
}

/// How a snapshot is brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreOptions {
    /// Host resources that differ from the original's.
    pub overrides: Overrides,
    /// How memory is brought in.
    pub memory: MemoryRestore,
    /// How much of the snapshot is verified beyond its state and manifest, which always are.
    pub verify: Verify,
    /// Run at once instead of returning it paused.
    pub start: bool,
    /// Give the guest nothing of its own: it repeats the original's random numbers, identifiers, clock and addresses. For
    /// a guest that goes on in the original's place, and never beside it.
    pub keep_identity: bool,
}

/// How a restored guest gets its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Its size and identity.
    #[default]
    Size,
    /// Its digest, which reads all of it.
    Full,
}

/// Replacements for host resources; naming one that the snapshot does not have is an error.
///
/// What only one sandbox can hold is never taken over silently: disks that the guest may write, taps with a name, a
/// descriptor or a host address, and the vsock's socket must be named here, if only by repeating what the original had.
/// What can be shared or made anew, disks that are only read and taps that the kernel names, needs no override.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// Name of the sandbox; the original's if left out, which must then be free. For forks and containers one is made
    /// up.
    pub id: Option<String>,
    /// Disks by id.
    pub disks: BTreeMap<String, DiskOverride>,
    /// Networks by id.
    pub networks: BTreeMap<String, NetworkOverride>,
    /// Path of the vsock's Unix socket.
    pub vsock_path: Option<PathBuf>,
    /// Limits, all of them.
    pub limits: Option<Limits>,
    /// How the host backs guest memory.
    pub huge_pages: Option<HugePages>,
}

/// What replaces a disk's host side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskOverride {
    /// Another file.
    pub path: Option<PathBuf>,
    /// Whether the host side is opened read-only.
    pub read_only: Option<bool>,
    /// Keep what the guest writes to itself: the file is only read, and what is written lives in host memory and goes
    /// with the sandbox. Many clones can so share one file.
    pub private: bool,
    /// Other rate limits.
    pub rate_limit: Option<RateLimit>,
}

/// What replaces a network card's host side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkOverride {
    /// Another tap.
    pub tap: Option<TapSpec>,
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

/// Version of the manifest's own layout, and of the folder's.
pub const MANIFEST_FORMAT: u32 = 1;
/// Name of the manifest in a snapshot's folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// A manifest larger than this is refused unread, in bytes: a hostile file must not make us take memory without end.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

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
    /// A random value that tells this snapshot from every other.
    pub identity: String,
    /// Identities of the snapshots that this one is a difference to, the oldest first; empty for a full one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<String>,
    /// Instruction set, such as `x86_64`.
    pub architecture: String,
    /// Processor vendor, model and features that the guest saw; backend-defined text.
    pub cpu: BTreeMap<String, String>,
    /// Host kernel's release.
    pub host_kernel: String,
    /// Guest dialect, or container runtime.
    pub guest: String,
    /// Guest memory in bytes; 0 where it has no fixed size.
    pub memory: u64,
    /// Files of the folder: name, size in bytes, and checksum or digest.
    pub files: BTreeMap<String, FileRecord>,
    /// What a restore can give each clone.
    pub uniqueness: Uniqueness,
    /// CRC-32 of this document with an empty checksum; [`Manifest::to_json`] fills it in.
    #[serde(default)]
    pub checksum: String,
}

/// A file that belongs to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Size in bytes.
    pub size: u64,
    /// A random value stored in the file as well, so that a swapped file is noticed.
    pub identity: String,
    /// SHA-256 of the content in hexadecimal digits, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Manifest {
    /// The document with its checksum, as it is written.
    pub fn to_json(&self) -> String {
        let sealed = Self {
            checksum: self.computed_checksum(),
            ..self.clone()
        };
        // String keys throughout and no fallible serializer: this cannot fail.
        serde_json::to_string_pretty(&sealed).unwrap_or_default()
    }

    /// Reads a document and checks that it is as it was written.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] for one of a newer format, [`ErrorKind::Corrupt`] for everything else.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let corrupt = |context: String| Error::new(ErrorKind::Corrupt, context);
        if json.len() > MAX_MANIFEST_BYTES {
            let context = format!(
                "the manifest has {} bytes; at most {MAX_MANIFEST_BYTES} are read",
                json.len()
            );
            return Err(corrupt(context));
        }
        /// All that is known of a format yet to come.
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let version: Versioned = serde_json::from_slice(json)
            .map_err(|error| corrupt("the manifest cannot be read".to_owned()).with_source(error))?;
        if version.format > MANIFEST_FORMAT {
            let context = format!(
                "the snapshot has format {}, and this SDK reads up to {MANIFEST_FORMAT}; use a newer one",
                version.format
            );
            return Err(Error::new(ErrorKind::Incompatible, context));
        }
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| corrupt("the manifest cannot be read".to_owned()).with_source(error))?;
        match manifest.checksum == manifest.computed_checksum() {
            true => Ok(manifest),
            false => Err(corrupt("the manifest's checksum does not match".to_owned())),
        }
    }

    /// Reads the document of the snapshot `folder`. What stands there in a file's place keeps nobody waiting.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], one of the host's for a file that cannot be read, and those of [`Manifest::from_json`].
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let unreadable = |error: io::Error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::HostFailure,
            };
            Error::new(kind, format!("{} cannot be read", path.display())).with_source(error)
        };
        // Asked before it is opened: to open a pipe would wait for somebody at its other end.
        if !path.metadata().map_err(unreadable)?.is_file() {
            let context = format!("{} is no regular file", path.display());
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let mut json = Vec::new();
        let file = File::open(&path).map_err(unreadable)?;
        // One byte more shows that there is more.
        file.take(MAX_MANIFEST_BYTES as u64 + 1)
            .read_to_end(&mut json)
            .map_err(unreadable)?;
        Self::from_json(&json)
    }

    fn computed_checksum(&self) -> String {
        let unsealed = Self {
            checksum: String::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&unsealed).unwrap_or_default();
        format!("{:08x}", crc32fast::hash(&json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let record = FileRecord {
            size: 4096,
            identity: "00ff".to_owned(),
            digest: None,
        };
        Manifest {
            format: MANIFEST_FORMAT,
            sdk_version: "0.1.0".to_owned(),
            backend: "kvm".to_owned(),
            identity: "00ff".to_owned(),
            bases: Vec::new(),
            architecture: "x86_64".to_owned(),
            cpu: BTreeMap::from([("vendor".to_owned(), "GenuineIntel".to_owned())]),
            host_kernel: "6.1.0".to_owned(),
            guest: "linux".to_owned(),
            memory: 1 << 20,
            files: BTreeMap::from([("memory".to_owned(), record)]),
            uniqueness: Uniqueness {
                entropy: Given::Notified,
                ids: Given::NotGiven,
                clock: Given::Applied,
                address: Given::NotGiven,
            },
            checksum: String::new(),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let read = Manifest::from_json(manifest().to_json().as_bytes()).unwrap();
        assert_eq!(
            Manifest {
                checksum: String::new(),
                ..read
            },
            manifest()
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let json = manifest().to_json().into_bytes();
        for bit in 0..json.len() * 8 {
            let mut flipped = json.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::from_json(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..json.len() {
            assert!(Manifest::from_json(&json[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_incompatible_and_not_damaged() {
        let newer = br#"{"format": 2, "unheard": "of"}"#;
        assert_eq!(Manifest::from_json(newer).unwrap_err().kind(), ErrorKind::Incompatible);
    }
}
