//! The verbs around snapshot folders.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandbox_core::snapshot::{
    AfterSnapshot, Given, MANIFEST_FORMAT, MemoryRestore, RestoreOptions, SnapshotOptions, Uniqueness, Verify,
};
use sandbox_core::{Error, ErrorKind, Manifest, Phase, Restored, Result, Verb};

use super::KvmSandbox;
use super::capture::Captured;
use super::clone::{Berth, Original};
use super::shared::Shared;
use crate::assemble::MemorySource;
use crate::memory::GuestMemory;
use crate::memory::extent::{self, Extent};
use crate::random::random_bytes;
use crate::renewal::Channel;
use crate::snapshot::folder::{ARCHITECTURE, BACKEND, Folder};
use crate::snapshot::memory_file::{self, Layer, MAX_LAYERS, MemoryState, OWN_FILE, base_file};
use crate::snapshot::pager::Pager;
use crate::snapshot::section::Identity;
use crate::snapshot::writing::{FolderWriter, STATE_FILE};
use crate::snapshot::{compatibility, overrides};

impl KvmSandbox {
    /// Writes the folder, with the guest standing still, and then does what the options say.
    pub(super) fn write_snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        self.life.lifecycle().check(Verb::Snapshot)?;
        if options.base.is_some() && !self.life.origin.spec.track_dirty {
            let context = "a difference needs track_dirty in the sandbox's spec";
            return Err(Error::unsupported("base", context));
        }
        self.refuse_private_disks()?;
        let base = options.base.as_deref().map(Folder::open).transpose()?;
        let identity = Identity(random_bytes().map_err(no_randomness)?);
        let writer = FolderWriter::begin(directory, identity)?;
        let stays = options.after == AfterSnapshot::Stop;
        let manifest = self
            .life
            .capture(Verb::Snapshot, &self.shared.host, stays, |captured| {
                let job = Job {
                    identity,
                    base: base.as_ref(),
                    digest: options.digest,
                };
                Ok(job.write(writer, &captured)?)
            })?;
        if stays {
            self.life.stop(Duration::ZERO)?;
        }
        Ok(manifest)
    }
}

impl KvmSandbox {
    /// What is not written must not be missed later.
    fn refuse_private_disks(&self) -> Result<()> {
        let disks = &self.life.origin.spec.disks;
        match disks.iter().position(|disk| disk.private) {
            Some(index) => {
                let context = "what the guest wrote to a private disk lives in memory and cannot be stored; fork the \
                               sandbox, or give it a file of its own to write";
                Err(Error::unsupported(format!("disks[{index}].private"), context))
            }
            None => Ok(()),
        }
    }
}

/// One snapshot to be written.
struct Job<'a> {
    identity: Identity,
    base: Option<&'a Folder>,
    digest: bool,
}

impl Job<'_> {
    fn write(&self, mut writer: FolderWriter, captured: &Captured<'_>) -> Result<Manifest> {
        let vm = &captured.machine.vm;
        let mut layers = self.share_base(&mut writer, captured)?;
        let tracked = match captured.saved.origin.spec.track_dirty {
            true => Some(vm.dirty_pages()?),
            false => None,
        };
        let counting = match (self.base, tracked) {
            (Some(_), Some(dirty)) => dirty,
            _ => content(captured.memory())?,
        };
        let mapping = captured.memory().mapping();
        let stored = mapping.without_zero_pages(&counting);
        let written = memory_file::write(&writer.path(OWN_FILE), self.identity, mapping, &stored);
        let failed = |error: std::io::Error| {
            let context = "the guest's memory cannot be written to the snapshot";
            Error::new(kind_of_write(&error), context).with_source(error)
        };
        let file = written.map_err(failed)?;
        // In a full snapshot what is zero need not count: everything that does not count is zero.
        let extents = if self.base.is_some() { counting } else { stored };
        let digest = match self.digest {
            true => Some(memory_file::digest(&file, &extents).map_err(failed)?),
            false => None,
        };
        writer.add(OWN_FILE, &file, self.identity, digest)?;
        layers.push(Layer {
            identity: self.identity.0,
            extents,
        });
        let memory = MemoryState {
            size: captured.memory().size(),
            layers,
        };
        let mut state = captured.saved.write(self.identity)?;
        state.add(&memory)?;
        writer.write(STATE_FILE, &state.finish(), self.identity)?;
        let manifest = self.manifest(captured, &writer, &memory);
        writer.finish(&manifest)?;
        if captured.saved.origin.spec.track_dirty {
            vm.dirty().begin(self.identity);
        }
        Ok(manifest)
    }

    /// Takes the base's memory files in; without a base there are none.
    fn share_base(&self, writer: &mut FolderWriter, captured: &Captured<'_>) -> Result<Vec<Layer>> {
        let Some(base) = self.base else {
            return Ok(Vec::new());
        };
        if captured.machine.vm.dirty().since() != Some(base.identity) {
            let context = "is not the last snapshot of this sandbox, nor the one that it was restored from; what was \
                           written since is not known";
            return Err(Error::invalid("base", context));
        }
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

    fn manifest(&self, captured: &Captured<'_>, writer: &FolderWriter, memory: &MemoryState) -> Manifest {
        let bases = &memory.layers[..memory.layers.len() - 1];
        Manifest {
            format: MANIFEST_FORMAT,
            sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: BACKEND.to_owned(),
            identity: self.identity.to_string(),
            bases: bases.iter().map(|layer| Identity(layer.identity).to_string()).collect(),
            architecture: ARCHITECTURE.to_owned(),
            cpu: compatibility::describe(&captured.saved),
            host_kernel: host_kernel(),
            guest: captured.saved.origin.family(),
            memory: memory.size,
            files: writer.files().clone(),
            uniqueness: possible(captured.saved.origin.renewal),
            checksum: String::new(),
        }
    }
}

/// The pages that a guest's memory may have content in.
fn content(memory: &GuestMemory) -> Result<Vec<Extent>> {
    let private = memory.private_pages().map_err(|error| {
        let context = "cannot read the memory map of this process";
        Error::new(ErrorKind::HostFailure, context).with_source(error)
    })?;
    Ok(extent::union(&memory.mapping().overlays(), &private))
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

fn kind_of_write(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            ErrorKind::HostExhausted
        }
        _ => crate::error::kind_of(error),
    }
}

/// Brings back what is in the folder `directory`.
pub fn restore(shared: &Arc<Shared>, directory: &Path, options: &RestoreOptions) -> Result<Restored> {
    let recorder = shared.recorder();
    let folder = Folder::open(directory)?;
    compatibility::check(&shared.host, &folder.saved)?;
    let spec = overrides::apply(&folder.saved.origin.spec, &options.overrides)?;
    let berth = Berth::take(shared, spec, recorder)?;
    berth.recorder().record(Phase::SnapshotChecked);
    let original = Original {
        saved: &folder.saved,
        snapshot: Some(folder.identity),
        renewed: !options.keep_identity,
    };
    let restored = match options.memory {
        MemoryRestore::Cow => {
            let image = shared.images.open(&folder, options.verify)?;
            berth.fill(shared, &original, &MemorySource::Image(&image))?
        }
        MemoryRestore::Eager => {
            let files = folder.memory_files()?;
            let digests = folder.digests(options.verify)?;
            let fill = |memory: &GuestMemory| {
                let mut sink = |offset: u64, bytes: &[u8]| memory.mapping().fill(offset, bytes);
                let mut layers = files.iter().zip(&digests);
                layers.try_for_each(|(file, digest)| file.read(*digest, &mut sink))
            };
            berth.fill(shared, &original, &MemorySource::Filled(&fill))?
        }
        MemoryRestore::Uffd => {
            if options.verify == Verify::Full {
                let context = "a digest reads all of the memory, which demand paging is to spare; give cow or eager";
                return Err(Error::unsupported("verify", context));
            }
            let page = |memory: &GuestMemory| {
                Pager::start(memory, folder.memory_files()?, directory.to_path_buf(), folder.identity)
            };
            berth.fill(shared, &original, &MemorySource::Paged(&page))?
        }
    };
    if options.start {
        restored.sandbox.resume()?;
    }
    Ok(restored)
}
