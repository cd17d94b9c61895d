//! What is written down about networks, so that the next process knows what a dead one left.
//!
//! A record is a file that its owner holds locked (flock(2)) as long as it lives: the kernel gives the lock back when a
//! process dies, however it dies. A record that can be locked is garbage, and says what else is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::NetError;

/// Longest name of a sandbox in bytes, such that file names have room for something behind it.
const MAX_NAME: usize = 200;

/// A file that is held locked.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits until the file can be locked, and makes it where there is none.
    pub(crate) fn wait(path: &Path) -> Result<Self, NetError> {
        loop {
            if let Some(lock) = Self::attempt(path, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Locks the file unless a living process has it locked.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, NetError> {
        match Self::attempt(path, FlockOperation::NonBlockingLockExclusive) {
            Err(NetError::State { source, .. }) if source.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(None),
            result => result,
        }
    }

    /// Locks the file; nothing if it was removed or replaced meanwhile, so that others would lock another one.
    fn attempt(path: &Path, operation: FlockOperation) -> Result<Option<Self>, NetError> {
        let failed = |error: io::Error| NetError::state(path, "lock it", error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        let locked = file.metadata().map_err(failed)?;
        let is_there = fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino()));
        Ok(is_there.then(|| Self {
            path: path.to_owned(),
            _file: file,
        }))
    }

    /// Writes a document into the file.
    pub(crate) fn write(&self, document: &impl Serialize) -> Result<(), NetError> {
        let failed = |error: io::Error| NetError::state(&self.path, "write it", error);
        let bytes = serde_json::to_vec(document).map_err(|error| failed(error.into()))?;
        fs::write(&self.path, bytes).map_err(failed)
    }

    /// Removes the file, and with it the lock.
    pub(crate) fn remove(self) -> Result<(), NetError> {
        remove_file(&self.path)
    }
}

/// Reads a document; nothing if there is none, or a writer died in the middle of it.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NetError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NetError::state(path, "read it", error)),
    }
}

/// Refuses a name that cannot be a file's in the folder of records.
pub(crate) fn check_name(name: &str) -> Result<(), NetError> {
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    match is_plain && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(NetError::state(name, "use the name for a sandbox", Errno::INVAL)),
    }
}

/// Makes a folder and those above it, for the owner alone.
pub(crate) fn make_folder(path: &Path) -> Result<(), NetError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| NetError::state(path, "make the folder", error))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), NetError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetError::state(path, "remove it", error)),
        _ => Ok(()),
    }
}

/// The names in a folder; none if it is not there.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, NetError> {
    let failed = |error: io::Error| NetError::state(folder, "list it", error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_one_owner_until_it_is_removed() {
        let path = std::env::temp_dir().join(format!("sandbox-record-{}", std::process::id()));
        let lock = Lock::wait(&path).unwrap();
        lock.write(&vec![1, 2]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        assert!(Lock::try_take(&path).unwrap().is_none());

        drop(lock);
        let lock = Lock::try_take(&path).unwrap().unwrap();
        lock.remove().unwrap();

        assert!(!path.exists());
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), None);
    }
}
