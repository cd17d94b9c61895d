//! Snapshots' memory, ready to be mapped into any number of clones.
//!
//! A clone's memory could be a private mapping of the snapshot's own file; but whoever can shorten that file could then
//! kill this process, since the next access would be SIGBUS, and whoever can write it could change a running guest. So
//! clones map a sealed copy in memory, which the first restore makes of the pages that are stored, and later ones share.
//! What is mapped is what was checked, and the folder may be changed, cut or removed while clones live.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox_core::snapshot::Verify;
use sandbox_core::{Error, ErrorKind, Result};

use super::folder::Folder;
use super::memory_file::MemoryFile;
use super::section::Identity;
use crate::boot::store::FileIdentity;
use crate::memory::image::{ImageWriter, MemoryImage};

/// How much is kept for later restores. Images in use are shared and stay beyond it.
const MAX_IMAGES: usize = 8;
const MAX_BYTES: u64 = 1 << 30;

/// The images, least recently used first.
#[derive(Debug, Default)]
pub struct ImageStore {
    entries: Mutex<Vec<Entry>>,
}

/// The slot's own lock is held while the image is made: who asks for the same one waits for it.
type Slot = Arc<Mutex<Option<Stored>>>;

#[derive(Debug)]
struct Entry {
    key: Key,
    slot: Slot,
    /// Host memory in bytes; 0 while the image is made.
    size: u64,
}

#[derive(Clone, Debug)]
struct Stored {
    image: Arc<MemoryImage>,
    /// Whether the digests were verified.
    verified: bool,
}

impl Stored {
    /// Whether it was verified as is asked for.
    fn serves(&self, verify: Verify) -> bool {
        self.verified || verify == Verify::Size
    }
}

/// What tells an image from others: the snapshot, and its files as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    identity: Identity,
    files: Vec<FileIdentity>,
}

impl ImageStore {
    /// The memory of `folder`: from the store, if its files have not changed since and were verified as is asked for.
    ///
    /// # Errors
    /// Files that are not what they were, or no memory for the copy.
    pub fn open(&self, folder: &Folder, verify: Verify) -> Result<Arc<MemoryImage>> {
        let digests = folder.digests(verify)?;
        if let Some(image) = self.find(folder, verify) {
            return Ok(image);
        }
        let files = folder.memory_files()?;
        let key = Key {
            identity: folder.identity,
            files: stamps(&files)?,
        };
        let slot = self.slot(&key);
        let mut stored = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = stored.as_ref().filter(|stored| stored.serves(verify)) {
            return Ok(Arc::clone(&stored.image));
        }
        let image = read(folder, &files, &digests);
        let settled = key
            .files
            .iter()
            .all(|file| file.is_settled(std::time::SystemTime::now()));
        match image {
            Ok(image) if settled && stamps(&files)? == key.files => {
                let image = Arc::new(image);
                *stored = Some(Stored {
                    image: Arc::clone(&image),
                    verified: verify == Verify::Full,
                });
                self.keep(&key, image.size().unwrap_or(MAX_BYTES + 1));
                Ok(image)
            }
            other => {
                // Its time stamps may not tell the next change.
                self.lock().retain(|entry| entry.key != key);
                other.map(Arc::new)
            }
        }
    }

    /// The image of files that need not be opened, since they are known to be sound and have not changed.
    fn find(&self, folder: &Folder, verify: Verify) -> Option<Arc<MemoryImage>> {
        let stamp = |path: PathBuf| Some(FileIdentity::of(&path.metadata().ok()?));
        let key = Key {
            identity: folder.identity,
            files: folder.memory_paths().map(stamp).collect::<Option<_>>()?,
        };
        let mut entries = self.lock();
        let position = entries.iter().position(|entry| entry.key == key)?;
        entries[position..].rotate_left(1);
        let slot = Arc::clone(&entries.last()?.slot);
        drop(entries);
        let stored = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = stored.as_ref().filter(|stored| stored.serves(verify))?;
        Some(Arc::clone(&stored.image))
    }

    /// The slot of a snapshot, made if there is none, and the last to go.
    fn slot(&self, key: &Key) -> Slot {
        let mut entries = self.lock();
        if let Some(position) = entries.iter().position(|entry| entry.key == *key) {
            entries[position..].rotate_left(1);
        } else {
            entries.push(Entry {
                key: key.clone(),
                slot: Slot::default(),
                size: 0,
            });
        }
        entries.last().map(|entry| Arc::clone(&entry.slot)).unwrap_or_default()
    }

    /// Counts an image that was just made, and lets the least recently used ones go beyond the limits.
    fn keep(&self, key: &Key, size: u64) {
        let mut entries = self.lock();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key) {
            entry.size = size;
        }
        let mut total = entries.iter().map(|entry| entry.size).sum::<u64>();
        while entries.len() > MAX_IMAGES || total > MAX_BYTES {
            total -= entries.remove(0).size;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[MemoryFile]) -> Result<Vec<FileIdentity>> {
    let stamp = |file: &MemoryFile| {
        let metadata = file.file().metadata();
        metadata
            .map(|metadata| FileIdentity::of(&metadata))
            .map_err(|error| super::files::unreadable("memory", error))
    };
    files.iter().map(stamp).collect()
}

fn read(folder: &Folder, files: &[MemoryFile], digests: &[Option<&str>]) -> Result<MemoryImage> {
    let exhausted = |error: std::io::Error| {
        let context = "the host has no memory for the snapshot's pages";
        Error::new(ErrorKind::HostExhausted, context).with_source(error)
    };
    let writer = ImageWriter::new(&folder.memory.extents()).map_err(exhausted)?;
    for (file, digest) in files.iter().zip(digests) {
        file.read(*digest, &mut |offset, bytes| writer.write(offset, bytes))?;
    }
    writer.finish().map_err(exhausted)
}
