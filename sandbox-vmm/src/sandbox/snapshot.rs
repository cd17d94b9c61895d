//! The verbs around snapshot folders.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox_core::snapshot::{AfterSnapshot, MemoryRestore, RestoreOptions, SnapshotOptions, Verify};
use sandbox_core::{Error, ErrorKind, Manifest, Phase, Restored, Result, Verb};

use super::KvmSandbox;
use super::capture::Captured;
use super::clone::{Berth, Original};
use super::shared::Shared;
use crate::assemble::MemorySource;
use crate::memory::GuestMemory;
use crate::memory::extent::{self, Extent};
use crate::memory::userfault::Userfault;
use crate::snapshot::draft::{Draft, unwritten};
use crate::snapshot::folder::Folder;
use crate::snapshot::memory_file::Layer;
use crate::snapshot::pager::{self, InFolder, Pager, Paging};
use crate::snapshot::section::Identity;
use crate::snapshot::{compatibility, memory_file, overrides};

impl KvmSandbox {
    /// Writes the folder, with the guest standing still, and then does what the options say.
    pub(super) fn write_snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        self.life.lifecycle().check(Verb::Snapshot)?;
        let draft = Draft::begin(directory, &self.life.origin, options)?;
        let stays = options.after == AfterSnapshot::Stop;
        let manifest = self
            .life
            .capture(Verb::Snapshot, &self.shared.host, stays, |captured| {
                let identity = draft.identity();
                let layer = store(&captured, identity, draft.base(), draft.memory())?;
                let manifest = draft.finish(&captured.saved, layer)?;
                is_kept(&captured, identity);
                Ok(manifest)
            })?;
        if stays {
            self.life.stop(Duration::ZERO)?;
        }
        Ok(manifest)
    }
}

/// Writes the memory of a guest that stands still to the file of snapshot `identity`, without what it shares with `base`.
pub fn store(captured: &Captured<'_>, identity: Identity, base: Option<Identity>, file: &File) -> Result<Layer> {
    let vm = &captured.machine.vm;
    if base.is_some() && vm.dirty().since() != base {
        let context = "is not the last snapshot of this sandbox, nor the one that it was restored from; what was \
                       written since is not known";
        return Err(Error::invalid("base", context));
    }
    let tracked = match captured.saved.origin.spec.track_dirty {
        true => Some(vm.dirty_pages()?),
        false => None,
    };
    let counting = match (base, tracked) {
        (Some(_), Some(dirty)) => dirty,
        _ => content(captured.memory())?,
    };
    let mapping = captured.memory().mapping();
    let (stored, fills) = mapping.sort_pages(&counting);
    memory_file::write(file, mapping, &stored).map_err(unwritten)?;
    let filled: Vec<Extent> = fills.iter().map(|fill| fill.extent).collect();
    Ok(Layer {
        identity: identity.0,
        // In a full snapshot what is zero need not count: everything that does not count is zero.
        extents: match base {
            Some(_) => counting,
            None => extent::union(&stored, &filled),
        },
        fills,
    })
}

/// The snapshot of this identity is safe on the disk: the next one can be a difference to it.
pub fn is_kept(captured: &Captured<'_>, identity: Identity) {
    if captured.saved.origin.spec.track_dirty {
        captured.machine.vm.dirty().begin(identity);
    }
}

/// The pages that a guest's memory may have content in.
fn content(memory: &GuestMemory) -> Result<Vec<Extent>> {
    memory.content().map_err(|error| {
        let context = "cannot read the memory map of this process";
        Error::new(ErrorKind::HostFailure, context).with_source(error)
    })
}

/// A snapshot folder that was found fit to be restored here, and what its clone has of its own.
pub struct Reopened {
    /// The folder.
    pub folder: Arc<Folder>,
    /// Where it is.
    pub directory: PathBuf,
    /// The clone's own.
    pub berth: Berth,
}

impl Reopened {
    /// Reads and checks what is in the folder `directory`, and opens what its clone by `options` needs.
    ///
    /// # Errors
    /// Anything wrong with the snapshot, the options or the host.
    pub fn open(shared: &Shared, directory: &Path, options: &RestoreOptions) -> Result<Self> {
        let recorder = shared.recorder();
        let check = |folder: &Folder| compatibility::check(&shared.host, &folder.saved);
        let folder = shared.folders.open(directory, check)?;
        let spec = overrides::apply(&folder.saved.origin.spec, &options.overrides)?;
        let berth = Berth::take(shared, spec, recorder)?;
        berth.recorder().record(Phase::SnapshotChecked);
        if options.memory == MemoryRestore::Uffd && options.verify == Verify::Full {
            let context = "a digest reads all of the memory, which demand paging is to spare; give cow or eager";
            return Err(Error::unsupported("verify", context));
        }
        Ok(Self {
            folder,
            directory: directory.to_path_buf(),
            berth,
        })
    }
}

/// Brings back what was reopened, in this process.
pub fn restore(shared: &Arc<Shared>, reopened: Reopened, options: &RestoreOptions) -> Result<Restored> {
    let Reopened {
        folder,
        directory,
        berth,
    } = reopened;
    let original = Original::in_folder(&folder, options);
    match options.memory {
        MemoryRestore::Cow => {
            let image = shared.images.open(&folder, options.verify)?;
            berth.fill(shared, &original, &MemorySource::Image(&image))
        }
        MemoryRestore::Eager => {
            let files = folder.memory_files()?;
            let digests = folder.digests(options.verify)?;
            let fill = |memory: &GuestMemory| memory_file::read_all(&files, &digests, memory);
            berth.fill(shared, &original, &MemorySource::Filled(&fill))
        }
        MemoryRestore::Uffd => {
            let page = |memory: &GuestMemory| {
                let userfault = Userfault::register(None, memory.mapping()).map_err(pager::refused)?;
                let paging = Paging {
                    identity: folder.identity,
                    files: folder.memory_files()?,
                    list: Box::new(InFolder(directory.clone())),
                };
                Pager::start(memory, userfault, paging, || {})
            };
            berth.fill(shared, &original, &MemorySource::Paged(&page))
        }
    }
}
