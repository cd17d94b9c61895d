//! The kernel store: kernels that were read once and are put into guests many times.
//!
//! A kernel of 50 MB is not copied into each guest but mapped, privately, from the host's page cache. Mapping the file
//! itself would put this process at the mercy of whoever may truncate it: the next access would be SIGBUS. So the
//! store maps a sealed copy in memory, laid out by guest-physical address, which costs one copy at the first use and
//! one `stat` at every later one.

mod identity;
mod sealed;
mod stored;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::error::{BootError, Subject};
use super::image::Source;
use super::open;
use identity::Identity;
pub use stored::StoredKernel;
pub(crate) use stored::{Content, Extent};

/// How much a store keeps for later use. Kernels in use are shared and stay beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Number of kernels.
    pub kernels: usize,
    /// Host memory in bytes.
    pub bytes: u64,
}

impl Default for StoreLimits {
    /// 8 kernels in 512 MiB.
    fn default() -> Self {
        Self {
            kernels: 8,
            bytes: 512 << 20,
        }
    }
}

/// Kernels by the identity of their files, the least recently used leaving first.
#[derive(Debug)]
pub struct KernelStore {
    limits: StoreLimits,
    /// The time that files' time stamps are compared with.
    clock: fn() -> SystemTime,
    /// Least recently used first.
    entries: Mutex<Vec<Entry>>,
}

/// The slot's own lock is held while the file is read: who asks for the same kernel waits for it instead of reading
/// the file as well, and who asks for another one does not wait.
type Slot = Arc<Mutex<Option<Arc<StoredKernel>>>>;

#[derive(Debug)]
struct Entry {
    identity: Identity,
    slot: Slot,
    /// Host memory in bytes; 0 while the file is read.
    size: u64,
}

impl Default for KernelStore {
    /// An empty store with the default limits.
    fn default() -> Self {
        Self::new(StoreLimits::default())
    }
}

impl KernelStore {
    /// An empty store that keeps as much as `limits` says.
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            clock: SystemTime::now,
            entries: Mutex::default(),
        }
    }

    /// The kernel in the file `path`, from the store when the file has not changed since. A file that changed just now
    /// (within 100 ms, or 2 s where the file system keeps whole seconds) is read anew at each call, since its time
    /// stamps may not tell the next change.
    pub fn open(&self, path: &Path) -> Result<Arc<StoredKernel>, BootError> {
        let metadata = open::metadata(path, Subject::Kernel)?;
        if let Some(kernel) = self.find(Identity::of(&metadata)) {
            return Ok(kernel);
        }
        let file = open::regular_file(path, Subject::Kernel)?;
        self.read(&file, path)
    }

    /// The kernel in an open file, which is only read, and whose position may be moved.
    pub fn from_file(&self, file: &File) -> Result<Arc<StoredKernel>, BootError> {
        self.read(file, Path::new("the file descriptor"))
    }

    /// Number of kernels kept.
    pub fn len(&self) -> usize {
        self.lock_entries().len()
    }

    /// True when no kernel is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self, file: &File, path: &Path) -> Result<Arc<StoredKernel>, BootError> {
        let metadata = file.metadata().map_err(|source| BootError::Open {
            path: path.to_path_buf(),
            subject: Subject::Kernel,
            source,
        })?;
        open::check_regular(&metadata, path, Subject::Kernel)?;
        let identity = Identity::of(&metadata);
        let settled = identity.is_settled((self.clock)());
        let slot = self.slot(identity);
        let mut content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = &*content {
            return Ok(Arc::clone(kernel));
        }
        match read_unchanged(file, identity) {
            Ok(kernel) if settled => {
                let kernel = Arc::new(kernel);
                *content = Some(Arc::clone(&kernel));
                self.keep(identity, kernel.stored_size());
                Ok(kernel)
            }
            other => {
                self.remove(identity);
                other.map(Arc::new)
            }
        }
    }

    /// A kernel that was read before.
    fn find(&self, identity: Identity) -> Option<Arc<StoredKernel>> {
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
    fn slot(&self, identity: Identity) -> Slot {
        let mut entries = self.lock_entries();
        if let Some(entry) = entries.iter().find(|entry| entry.identity == identity) {
            return Arc::clone(&entry.slot);
        }
        let slot = Slot::default();
        entries.push(Entry {
            identity,
            slot: Arc::clone(&slot),
            size: 0,
        });
        slot
    }

    /// Counts a kernel that was just read, and lets the least recently used ones go beyond the limits.
    fn keep(&self, identity: Identity, size: u64) {
        let mut entries = self.lock_entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.identity == identity) {
            entry.size = size;
        }
        let mut total = entries.iter().map(|entry| entry.size).sum::<u64>();
        while entries.len() > self.limits.kernels || total > self.limits.bytes {
            total -= entries.remove(0).size;
        }
    }

    fn remove(&self, identity: Identity) {
        self.lock_entries().retain(|entry| entry.identity != identity);
    }

    fn lock_entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a kernel file, and notices when it is not the same file any more behind it.
fn read_unchanged(file: &File, identity: Identity) -> Result<StoredKernel, BootError> {
    let kernel = StoredKernel::read(Source::File(file, identity.size()));
    match file.metadata() {
        Ok(metadata) if Identity::of(&metadata) == identity => kernel,
        _ => Err(BootError::KernelChanged),
    }
}
