//! Snapshots, restores and forks of micro-VMs in workers.
//!
//! ```text
//! snapshot   embedder: folder, files ── worker: memory and state into them ── embedder: state checked, manifest, rename
//! restore    embedder: folder read and checked, image or files ── worker: a machine of them
//! fork       embedder: an empty file ── worker: frozen memory into it, sealed ── embedder: n workers with it
//! ```
//!
//! A worker may have been taken over by its guest. What it says of its memory and its processors is as good as what the
//! guest itself could have done with them, and is checked by what checks a snapshot's folder; what it says of its spec, by
//! which its clones would be given files and networks of the host, is not believed but must be what it was told.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sandbox_core::snapshot::{AfterSnapshot, MemoryRestore, RestoreOptions, SnapshotOptions};
use sandbox_core::{Error, ErrorKind, Fork, Manifest, Restored, Result, Sandbox, State, Verb};

use super::client::{Home, WorkerSandbox};
use super::launch::{Cargo, CloneMemory, read_state};
use super::making::{self, Order, Pending};
use super::nonsense;
use super::protocol::{Answer, Request};
use crate::devices::virtio::block::Layer;
use crate::memory::image::{ImageWriter, MemoryImage};
use crate::memory::sealed;
use crate::memory::userfault::open_device;
use crate::sandbox::clone::{Berth, Original, berths, check_fork};
use crate::sandbox::snapshot::Reopened;
use crate::snapshot::draft::Draft;
use crate::snapshot::folder::parse_state;
use crate::snapshot::pager::{self, InFolder, ListStore, parse_list};
use crate::snapshot::saved::{Origin, SavedMachine};
use crate::snapshot::section::{Identity, StateFile};

/// Bytes of guest memory that a worker copies in a second at the least: a disk that is slower than that counts as one that
/// hangs.
const SLOWEST_COPY: u64 = 16 << 20;

/// A sandbox as it stood still for its clones.
struct Still {
    saved: SavedMachine,
    /// The same for their workers.
    state: File,
    image: Arc<MemoryImage>,
    /// What it had written to its private disks, and their sizes.
    layers: Vec<(File, u64)>,
}

impl WorkerSandbox {
    /// Has the worker write its part of the folder, and then does what the options say.
    pub(super) fn write_snapshot(&self, directory: &Path, options: &SnapshotOptions) -> Result<Manifest> {
        let proxy = &self.proxy;
        let turn = proxy.turn();
        proxy.lifecycle().check(Verb::Snapshot)?;
        if self.hypercalls_only {
            let context = "a Solo5 guest cannot be saved: its disks and cards have no state that is";
            return Err(Error::unsupported("guest.unikernel.family", context));
        }
        let draft = Draft::begin(directory, &self.origin, options)?;
        // One that is to end stands still from here on.
        let held = options.after == AfterSnapshot::Stop && proxy.lifecycle().state() == State::Running;
        if held {
            proxy.ask_done(Request::Pause, "pause")?;
        }
        let written = self.fill(draft);
        match (&written, options.after) {
            (Ok(_), AfterSnapshot::Stop) => drop(proxy.end(&turn)?),
            (Err(_), AfterSnapshot::Stop) if held => proxy.ask_done(Request::Resume, "resume")?,
            _ => {}
        }
        written
    }

    /// Has the folder filled and makes it whole.
    fn fill(&self, draft: Draft) -> Result<Manifest> {
        let state = state_file()?;
        let request = Request::Snapshot {
            identity: draft.identity().0,
            base: draft.base().map(|base| base.0),
        };
        let fds = [draft.memory().as_fd(), state.as_fd()];
        match self
            .proxy
            .link
            .call_long(request, &fds, self.copying(), "write its guest's memory")?
        {
            Answer::Done => {}
            _ => return Err(nonsense(&self.proxy.link)),
        }
        let bytes = read_state(&state)?;
        let parsed = parse_state(&bytes).map_err(|error| self.disbelieve(&error))?;
        let (identity, saved, mut memory) = parsed;
        self.must_be_ours(&saved.origin)?;
        let kept = draft.identity();
        let (Some(own), 0, true) = (memory.layers.pop(), memory.layers.len(), identity == kept) else {
            return Err(nonsense(&self.proxy.link));
        };
        let manifest = draft.finish(&saved, own)?;
        if self.origin.spec.track_dirty {
            // A worker that is lost now has left a whole snapshot behind.
            let _ = self.proxy.ask_done(Request::Kept(kept.0), "note its snapshot");
        }
        Ok(manifest)
    }

    /// Has the memory frozen, and returns all that clones are made of.
    fn freeze(&self) -> Result<Still> {
        let link = &self.proxy.link;
        let memory = self.origin.spec.memory;
        let file = ImageWriter::new_file(memory).map_err(exhausted)?;
        let state = state_file()?;
        let layer = |bytes: &u64| sealed::create(c"sandbox-disk", Layer::file_size(*bytes)).map(|file| (file, *bytes));
        let layers = self.private_disks.iter().map(layer);
        let layers: Vec<(File, u64)> = layers.collect::<std::io::Result<_>>().map_err(exhausted)?;
        let mut fds = vec![file.as_fd(), state.as_fd()];
        fds.extend(layers.iter().map(|(file, _)| file.as_fd()));
        let answer = link.call_long(Request::Freeze, &fds, self.copying(), "freeze its guest's memory")?;
        let Answer::Frozen(records) = answer else {
            return Err(nonsense(link));
        };
        let mut mirror = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = mirror.as_deref().map_or_else(Vec::new, |image| image.records().0);
        // What is not sealed can be cut under the clones, or changed.
        let is_new = |number: u8| usize::from(number) == files.len();
        if records.iter().any(|record| is_new(record.file)) && !sealed::is_sealed(&file) {
            return Err(nonsense(link));
        }
        files.push(Arc::new(file));
        let Some(image) = MemoryImage::from_records(memory, &files, &records) else {
            return Err(nonsense(link));
        };
        let image = Arc::new(image);
        *mirror = Some(Arc::clone(&image));
        drop(mirror);
        let bytes = read_state(&state)?;
        let saved = StateFile::parse(&bytes).map_err(Error::from);
        let saved = saved.and_then(|state| SavedMachine::read(&state));
        let saved = saved.map_err(|error| self.disbelieve(&error))?;
        self.must_be_ours(&saved.origin)?;
        Ok(Still {
            saved,
            state: state_of(&bytes)?,
            image,
            layers,
        })
    }

    /// A worker's word of what its machine was made by. Its clones are opened files and networks by it.
    fn must_be_ours(&self, origin: &Origin) -> Result<()> {
        match *origin == self.origin {
            true => Ok(()),
            false => Err(nonsense(&self.proxy.link)),
        }
    }

    fn disbelieve(&self, error: &Error) -> Error {
        tracing::debug!(error = error.report(), id = self.id(), "a worker's state");
        nonsense(&self.proxy.link)
    }

    /// How much longer than other calls one may take that copies the guest's memory.
    fn copying(&self) -> Duration {
        Duration::from_secs(self.origin.spec.memory / SLOWEST_COPY)
    }
}

impl Fork for WorkerSandbox {
    fn fork(&self, count: u32, options: &RestoreOptions) -> Result<Vec<Restored>> {
        check_fork(count, options)?;
        let turn = self.proxy.turn();
        self.proxy.lifecycle().check(Verb::Fork)?;
        let berths = berths(&self.home.shared, &self.origin.spec, count, options)?;
        let still = self.freeze()?;
        drop(turn);
        let Still { saved, image, .. } = &still;
        let original = Original::in_memory(saved, options);
        let memory = CloneMemory::image(image);
        let begin = |berth| {
            begin_clone(
                &self.home,
                (berth, None),
                &original,
                (&still.state, &memory, &still.layers),
            )
        };
        let pending: Vec<Pending> = berths.into_iter().map(begin).collect::<Result<_>>()?;
        let clones: Vec<Restored> = pending
            .into_iter()
            .map(|pending| complete(pending, Some(image)))
            .collect::<Result<_>>()?;
        if options.start {
            clones.iter().try_for_each(|clone| clone.sandbox.resume())?;
        }
        Ok(clones)
    }
}

/// Brings back what was reopened, in a worker.
///
/// # Errors
/// Anything wrong with the snapshot's files or the host. Nothing is left behind then.
pub fn restore(home: &Home, reopened: Reopened, options: &RestoreOptions) -> Result<Restored> {
    let Reopened {
        folder,
        directory,
        berth,
    } = reopened;
    let original = Original::in_folder(&folder, options);
    let mut writer = folder.saved.write(folder.identity)?;
    let (mut mirror, mut recorded) = (None, None);
    let memory = match options.memory {
        MemoryRestore::Cow => {
            let image = home.shared.images.open(&folder, options.verify)?;
            let memory = CloneMemory::image(&image);
            mirror = Some(image);
            memory
        }
        MemoryRestore::Eager => {
            writer.add(&folder.memory)?;
            CloneMemory::files(&folder, folder.digests(options.verify)?)?
        }
        MemoryRestore::Uffd => {
            writer.add(&folder.memory)?;
            let kept = InFolder(directory);
            let size = folder.memory.size;
            let known = kept
                .read()
                .filter(|list| parse_list(list, folder.identity, size).is_some());
            let list = match &known {
                Some(known) => state_of(known)?,
                None => state_file()?,
            };
            if known.is_none() {
                recorded = Some(ListInWorker {
                    file: list.try_clone().map_err(exhausted)?,
                    kept,
                    identity: folder.identity,
                    size,
                });
            }
            CloneMemory::Paged {
                files: folder.memory_files()?,
                device: open_device().map_err(pager::refused)?,
                list,
            }
        }
    };
    let state = state_of(&writer.finish())?;
    let pending = begin_clone(home, (berth, recorded), &original, (&state, &memory, &[]))?;
    complete(pending, mirror.as_ref())
}

fn begin_clone(
    home: &Home,
    (berth, list): (Berth, Option<ListInWorker>),
    original: &Original<'_>,
    (state, memory, layers): (&File, &CloneMemory<'_>, &[(File, u64)]),
) -> Result<Pending> {
    let (readiness, identity) = berth.arrival(original)?;
    if let Some(identity) = &identity {
        berth.outlets.confirmation.expect(identity.generation());
    }
    if original.saved.ready {
        berth.outlets.ready.give();
    }
    let Berth {
        spec,
        name,
        opened,
        outlets,
    } = berth;
    let order = Order {
        name,
        origin: Origin {
            spec,
            ..original.saved.origin.clone()
        },
        hypercalls_only: false,
        readiness,
        outlets,
        list,
    };
    let cargo = Cargo::Clone {
        state,
        memory,
        layers,
        snapshot: original.snapshot,
        identity,
    };
    making::begin(home, order, &cargo, opened)
}

fn complete(pending: Pending, image: Option<&Arc<MemoryImage>>) -> Result<Restored> {
    let sandbox = pending.complete()?;
    let Some(uniqueness) = sandbox.told else {
        return Err(nonsense(&sandbox.proxy.link));
    };
    *sandbox.image.lock().unwrap_or_else(PoisonError::into_inner) = image.cloned();
    Ok(Restored {
        sandbox: Box::new(sandbox),
        uniqueness,
    })
}

/// A list of pages that a worker leaves in a file, and where it is to be kept.
pub struct ListInWorker {
    file: File,
    kept: InFolder,
    identity: Identity,
    size: u64,
}

impl ListInWorker {
    /// Keeps what the worker left, if it is a list.
    pub fn keep(&self) {
        let Ok(bytes) = read_state(&self.file) else { return };
        let is_list = bytes.len() as u64 <= pager::MAX_BYTES && parse_list(&bytes, self.identity, self.size).is_some();
        if !is_list {
            return tracing::debug!("a worker left something else than a list of pages");
        }
        if let Err(error) = self.kept.leave(&bytes) {
            tracing::debug!(%error, "the working set is not kept");
        }
    }
}

/// An empty file for a worker to leave its state in.
fn state_file() -> Result<File> {
    sealed::create(c"sandbox-state", 0).map_err(exhausted)
}

/// A file that tells clones' workers the state.
fn state_of(bytes: &[u8]) -> Result<File> {
    let file = state_file()?;
    file.write_all_at(bytes, 0)
        .and_then(|()| sealed::seal(&file))
        .map_err(exhausted)?;
    Ok(file)
}

fn exhausted(error: std::io::Error) -> Error {
    let context = "the host has no memory or descriptor left for a clone";
    Error::new(ErrorKind::HostExhausted, context).with_source(error)
}
