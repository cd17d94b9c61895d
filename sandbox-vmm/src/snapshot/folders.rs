//! Folders that were found sound, so that the next restore from one has nothing to read.
//!
//! Manifest and state are under checksums, are decoded and are compared with the host at every restore; of a folder
//! that has not changed since, all that would come out as before. Whether it has is told by the files' own stamps, as
//! for the memory files ([`super::images`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sandbox_core::Result;
use sandbox_core::snapshot::MANIFEST_FILE;

use super::folder::Folder;
use super::writing::STATE_FILE;
use crate::boot::store::FileIdentity;

/// How many are kept: each may be as large as the largest state file, and is 100 KB as a rule.
const MAX_FOLDERS: usize = 8;

/// The folders, least recently used first.
#[derive(Debug, Default)]
pub struct FolderStore {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    files: [FileIdentity; 2],
    folder: Arc<Folder>,
}

impl FolderStore {
    /// The folder at `path`: as it was read before, if its manifest and state have not changed since, or read now and
    /// found good by `check`, whose word must depend on the folder and the host alone.
    ///
    /// # Errors
    /// Those of [`Folder::open`] and of `check`.
    pub fn open(&self, path: &Path, check: impl FnOnce(&Folder) -> Result<()>) -> Result<Arc<Folder>> {
        let files = stamps(path);
        if let Some(folder) = files.and_then(|files| self.find(path, files)) {
            return Ok(folder);
        }
        let folder = Arc::new(Folder::open(path)?);
        check(&folder)?;
        let now = SystemTime::now();
        if let Some(files) = files
            && files.iter().all(|file| file.is_settled(now))
            && stamps(path) == Some(files)
        {
            self.keep(path, files, &folder);
        }
        Ok(folder)
    }

    fn find(&self, path: &Path, files: [FileIdentity; 2]) -> Option<Arc<Folder>> {
        let mut entries = self.lock();
        let same = |entry: &Entry| entry.path == path && entry.files == files;
        let position = entries.iter().position(same)?;
        entries[position..].rotate_left(1);
        entries.last().map(|entry| Arc::clone(&entry.folder))
    }

    fn keep(&self, path: &Path, files: [FileIdentity; 2], folder: &Arc<Folder>) {
        let mut entries = self.lock();
        entries.retain(|entry| entry.path != path);
        entries.push(Entry {
            path: path.to_path_buf(),
            files,
            folder: Arc::clone(folder),
        });
        if entries.len() > MAX_FOLDERS {
            entries.remove(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells manifest and state from what they were; `None` if one is not there, which reading it says better.
fn stamps(path: &Path) -> Option<[FileIdentity; 2]> {
    let stamp = |name: &str| Some(FileIdentity::of(&path.join(name).metadata().ok()?));
    Some([stamp(MANIFEST_FILE)?, stamp(STATE_FILE)?])
}
