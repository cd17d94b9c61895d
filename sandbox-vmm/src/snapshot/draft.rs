//! A snapshot folder that is begun before its guest stands still, and finished with what was found in it.
//!
//! The two are apart because they can be in two processes: a worker writes its guest's memory to a file that it was
//! handed, and everything else of the folder is its embedder's.

use std::fs::File;
use std::path::Path;

use sandbox_core::snapshot::{Given, MANIFEST_FORMAT, SnapshotOptions, Uniqueness};
use sandbox_core::{Error, ErrorKind, Manifest, Result};

use super::compatibility;
use super::folder::{ARCHITECTURE, BACKEND, Folder};
use super::memory_file::{self, Layer, MAX_LAYERS, MemoryState, OWN_FILE, base_file};
use super::saved::{Origin, SavedMachine};
use super::section::Identity;
use super::writing::{FolderWriter, STATE_FILE};
use crate::random::random_bytes;
use crate::renewal::Channel;

/// A snapshot folder without its guest.
pub struct Draft {
    identity: Identity,
    base: Option<Identity>,
    digest: bool,
    writer: FolderWriter,
    /// What the bases hold.
    layers: Vec<Layer>,
    memory: File,
    memory_size: u64,
}

impl Draft {
    /// Begins the folder `directory` for a guest of this origin. Nothing of it is left when this is dropped.
    ///
    /// # Errors
    /// Options that this guest cannot have, a base that is none, or a disk that does not take it.
    pub fn begin(directory: &Path, origin: &Origin, options: &SnapshotOptions) -> Result<Self> {
        let spec = &origin.spec;
        if options.base.is_some() && !spec.track_dirty {
            let context = "a difference needs track_dirty in the sandbox's spec";
            return Err(Error::unsupported("base", context));
        }
        refuse_private_disks(origin)?;
        let base = options.base.as_deref().map(Folder::open).transpose()?;
        let identity = Identity(random_bytes().map_err(no_randomness)?);
        let mut writer = FolderWriter::begin(directory, identity)?;
        let layers = match &base {
            Some(base) => share(base, &mut writer)?,
            None => Vec::new(),
        };
        let memory = memory_file::create(&writer.path(OWN_FILE), identity, spec.memory).map_err(unwritten)?;
        Ok(Self {
            identity,
            base: base.map(|base| base.identity),
            digest: options.digest,
            writer,
            layers,
            memory,
            memory_size: spec.memory,
        })
    }

    /// What tells the snapshot from every other.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The snapshot that this one is a difference to.
    pub fn base(&self) -> Option<Identity> {
        self.base
    }

    /// Where the guest's pages go.
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// Makes it whole: the guest stood still as `saved`, and what `layer` says of its memory is written.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn finish(mut self, saved: &SavedMachine, layer: Layer) -> Result<Manifest> {
        let digest = match self.digest {
            true => Some(memory_file::digest(&self.memory, &layer.extents).map_err(unwritten)?),
            false => None,
        };
        self.writer.add(OWN_FILE, &self.memory, self.identity, digest)?;
        self.layers.push(Layer {
            identity: self.identity.0,
            ..layer
        });
        let memory = MemoryState {
            size: self.memory_size,
            layers: self.layers,
        };
        let mut state = saved.write(self.identity)?;
        state.add(&memory)?;
        self.writer.write(STATE_FILE, &state.finish(), self.identity)?;
        let manifest = manifest(self.identity, saved, &self.writer, &memory);
        self.writer.finish(&manifest)?;
        Ok(manifest)
    }
}

/// What is not written must not be missed later.
fn refuse_private_disks(origin: &Origin) -> Result<()> {
    match origin.spec.disks.iter().position(|disk| disk.private) {
        Some(index) => {
            let context = "what the guest wrote to a private disk lives in memory and cannot be stored; fork the \
                           sandbox, or give it a file of its own to write";
            Err(Error::unsupported(format!("disks[{index}].private"), context))
        }
        None => Ok(()),
    }
}

/// Takes the base's memory files in.
fn share(base: &Folder, writer: &mut FolderWriter) -> Result<Vec<Layer>> {
    if base.memory.layers.len() >= MAX_LAYERS {
        let context = format!("is a difference in {MAX_LAYERS} layers already; take a full snapshot");
        return Err(Error::invalid("base", context));
    }
    for index in 0..base.memory.layers.len() {
        let name = base.memory.file_name(index);
        let record = base
            .manifest
            .files
            .get(&name)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the base's manifest has no {name}")))?;
        writer.share(&base_file(index), &base.path_of(&name), record)?;
    }
    Ok(base.memory.layers.clone())
}

fn manifest(identity: Identity, saved: &SavedMachine, writer: &FolderWriter, memory: &MemoryState) -> Manifest {
    let bases = &memory.layers[..memory.layers.len() - 1];
    Manifest {
        format: MANIFEST_FORMAT,
        sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: BACKEND.to_owned(),
        identity: identity.to_string(),
        bases: bases.iter().map(|layer| Identity(layer.identity).to_string()).collect(),
        architecture: ARCHITECTURE.to_owned(),
        cpu: compatibility::describe(saved),
        host_kernel: host_kernel(),
        guest: saved.origin.family(),
        memory: memory.size,
        files: writer.files().clone(),
        uniqueness: possible(saved.origin.renewal),
        checksum: String::new(),
    }
}

/// What clones of a guest with this channel can be given at most.
fn possible(channel: Channel) -> Uniqueness {
    let given = match channel {
        Channel::None => Given::NotGiven,
        Channel::GenerationId => Given::Notified,
        Channel::Record => Given::GuestConfirmed,
    };
    Uniqueness {
        entropy: given,
        ids: given,
        clock: Given::Applied,
        address: match channel {
            Channel::Record => Given::GuestConfirmed,
            _ => Given::NotGiven,
        },
    }
}

/// The host kernel's release.
fn host_kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn no_randomness(error: std::io::Error) -> Error {
    let context = "the host gives no random numbers for the snapshot's identity";
    Error::new(ErrorKind::HostFailure, context).with_source(error)
}

/// The error for guest memory that could not be written.
pub fn unwritten(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            ErrorKind::HostExhausted
        }
        _ => crate::error::kind_of(&error),
    };
    let context = "the guest's memory cannot be written to the snapshot";
    Error::new(kind, context).with_source(error)
}
