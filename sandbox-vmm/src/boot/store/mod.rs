//! The store: kernels and initrds that were read once and are put into guests many times.
//!
//! A kernel of 50 MB is not copied into each guest but mapped, privately, from the host's page cache. Mapping the file
//! itself would put this process at the mercy of whoever may truncate it: the next access would be SIGBUS. So the
//! store maps a sealed copy in memory, laid out by guest-physical address, which costs one copy at the first use and
//! one `stat` at every later one.

mod content;
mod extents;
mod handover;
mod identity;
mod initrd;
mod kernel;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::error::{BootError, Subject};
use super::image::Source;
use super::open;
pub use content::Placement;
pub use handover::{InitrdParts, KernelParts};
pub use identity::FileIdentity;
pub use initrd::StoredInitrd;
pub use kernel::StoredKernel;

/// What a store keeps: the content of a file, checked and copied.
pub trait Stored: Sized {
    /// What errors about the file are about.
    const SUBJECT: Subject;

    /// Checks a file and copies what guests need of it.
    fn read(source: Source<'_>) -> Result<Self, BootError>;

    /// Host memory taken, in bytes.
    fn stored_size(&self) -> u64;
}

/// Keeps kernels.
pub type KernelStore = FileStore<StoredKernel>;
/// Keeps initial RAM disks.
pub type InitrdStore = FileStore<StoredInitrd>;

/// How much a store keeps for later use. Files in use are shared and stay beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Number of files.
    pub files: usize,
    /// Host memory in bytes.
    pub bytes: u64,
}

impl Default for StoreLimits {
    /// 8 files in 512 MiB.
    fn default() -> Self {
        Self {
            files: 8,
            bytes: 512 << 20,
        }
    }
}

/// Files by their identity, the least recently used leaving first.
#[derive(Debug)]
pub struct FileStore<T> {
    limits: StoreLimits,
    /// The time that files' time stamps are compared with.
    clock: fn() -> SystemTime,
    /// Least recently used first.
    entries: Mutex<Vec<Entry<T>>>,
}

/// The slot's own lock is held while the file is read: who asks for the same file waits for it instead of reading
/// the file as well, and who asks for another one does not wait.
type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

#[derive(Debug)]
struct Entry<T> {
    identity: FileIdentity,
    slot: Slot<T>,
    /// Host memory in bytes; 0 while the file is read.
    size: u64,
}

impl<T: Stored> Default for FileStore<T> {
    /// An empty store with the default limits.
    fn default() -> Self {
        Self::new(StoreLimits::default())
    }
}

impl<T: Stored> FileStore<T> {
    /// An empty store that keeps as much as `limits` says.
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            clock: SystemTime::now,
            entries: Mutex::new(Vec::new()),
        }
    }

    /// The content of the file `path`, from the store when the file has not changed since. A file that changed just now
    /// (within 100 ms, or 2 s where the file system keeps whole seconds) is read anew at each call, since its time
    /// stamps may not tell the next change.
    pub fn open(&self, path: &Path) -> Result<Arc<T>, BootError> {
        let metadata = open::metadata(path, T::SUBJECT)?;
        if let Some(stored) = self.find(FileIdentity::of(&metadata)) {
            return Ok(stored);
        }
        let file = open::regular_file(path, T::SUBJECT)?;
        self.read(&file, path)
    }

    /// The content of an open file, whose position does not matter and is not moved.
    pub fn from_file(&self, file: &File) -> Result<Arc<T>, BootError> {
        self.read(file, Path::new("the file descriptor"))
    }

    /// Number of files kept.
    pub fn len(&self) -> usize {
        self.lock_entries().len()
    }

    /// True when no file is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self, file: &File, path: &Path) -> Result<Arc<T>, BootError> {
        let metadata = file.metadata().map_err(|source| BootError::Open {
            path: path.to_path_buf(),
            subject: T::SUBJECT,
            source,
        })?;
        open::check_regular(&metadata, path, T::SUBJECT)?;
        let identity = FileIdentity::of(&metadata);
        let settled = identity.is_settled((self.clock)());
        let slot = self.slot(identity);
        let mut content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = &*content {
            return Ok(Arc::clone(stored));
        }
        match read_unchanged::<T>(file, identity) {
            Ok(stored) if settled => {
                let stored = Arc::new(stored);
                *content = Some(Arc::clone(&stored));
                self.keep(identity, stored.stored_size());
                Ok(stored)
            }
            other => {
                self.remove(identity);
                other.map(Arc::new)
            }
        }
    }

    /// What was read before.
    fn find(&self, identity: FileIdentity) -> Option<Arc<T>> {
        let slot = {
            let mut entries = self.lock_entries();
            let position = entries.iter().position(|entry| entry.identity == identity)?;
            entries[position..].rotate_left(1);
            Arc::clone(&entries.last()?.slot)
        };
        let content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        content.clone()
    }

    /// The slot of a file, made if there is none.
    fn slot(&self, identity: FileIdentity) -> Slot<T> {
        let mut entries = self.lock_entries();
        if let Some(entry) = entries.iter().find(|entry| entry.identity == identity) {
            return Arc::clone(&entry.slot);
        }
        let slot = Slot::<T>::default();
        entries.push(Entry {
            identity,
            slot: Arc::clone(&slot),
            size: 0,
        });
        slot
    }

    /// Counts a file that was just read, and lets the least recently used ones go beyond the limits.
    fn keep(&self, identity: FileIdentity, size: u64) {
        let mut entries = self.lock_entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.identity == identity) {
            entry.size = size;
        }
        let mut total = entries.iter().map(|entry| entry.size).sum::<u64>();
        while entries.len() > self.limits.files || total > self.limits.bytes {
            total -= entries.remove(0).size;
        }
    }

    fn remove(&self, identity: FileIdentity) {
        self.lock_entries().retain(|entry| entry.identity != identity);
    }

    fn lock_entries(&self) -> MutexGuard<'_, Vec<Entry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file, and notices when it is not the same file any more behind it.
fn read_unchanged<T: Stored>(file: &File, identity: FileIdentity) -> Result<T, BootError> {
    let stored = T::read(Source::File(file, identity.size()));
    match file.metadata() {
        Ok(metadata) if FileIdentity::of(&metadata) == identity => stored,
        _ => Err(BootError::FileChanged { subject: T::SUBJECT }),
    }
}
