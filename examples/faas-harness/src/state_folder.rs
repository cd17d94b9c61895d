//! The folder in which the platform keeps what it needs on disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::output::complain;

/// Begins the names of folders that go with their process.
const PREFIX: &str = "faas-harness-";
/// The file that its owner holds locked.
const LOCK: &str = "lock";

/// A folder that stays, or one that goes with the process. One process at a time has it.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    temporary: bool,
    /// The kernel gives the lock back however a process dies.
    _lock: File,
}

/// Why there is no such folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another platform has it.
    #[error("{0} is in use by another platform: choose another folder with --state")]
    InUse(PathBuf),
    /// It cannot be made or opened.
    #[error("cannot use the folder {0}")]
    Io(PathBuf, #[source] io::Error),
}

impl StateFolder {
    /// The folder `given`, which stays, or a new one. Removes what processes left that died with one of the latter.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let (path, temporary) = match given {
            Some(path) => (path.to_owned(), false),
            None => {
                let folder = std::env::temp_dir();
                sweep(&folder);
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let number = COUNT.fetch_add(1, Ordering::Relaxed);
                (folder.join(format!("{PREFIX}{}-{number}", std::process::id())), true)
            }
        };
        let failed = |error| StateError::Io(path.clone(), error);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = try_lock(&path).map_err(failed)?;
        Ok(Self {
            _lock: lock.ok_or_else(|| StateError::InUse(path.clone()))?,
            path,
            temporary,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the folders of processes that are gone. What cannot be removed is left to the next one.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // One without a lock's file is just being made, or is somebody else's.
        if entry.path().join(LOCK).exists()
            && let Ok(Some(_lock)) = try_lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The folder's lock; `None` if another process has it.
fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))?;
    // SAFETY: the descriptor is open for the length of the call, which touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Some(file));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        error => Err(error),
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            complain(format_args!("{} is left behind: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_process_goes_with_it_and_a_given_one_stays() {
        let temporary = StateFolder::open(None).unwrap();
        let path = temporary.path().join("given");
        let given = StateFolder::open(Some(&path)).unwrap();
        drop(given);
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());
    }

    #[test]
    fn one_at_a_time_has_a_folder() {
        let temporary = StateFolder::open(None).unwrap();
        let path = temporary.path().join("given");
        let given = StateFolder::open(Some(&path)).unwrap();
        let error = StateFolder::open(Some(&path)).unwrap_err();
        assert!(
            matches!(&error, StateError::InUse(folder) if *folder == path),
            "{error}"
        );
        drop(given);
        StateFolder::open(Some(&path)).unwrap();
    }

    #[test]
    fn what_the_dead_left_is_removed_and_what_the_living_have_is_not() {
        let temporary = StateFolder::open(None).unwrap();
        let [dead, alive, other] = ["faas-harness-1", "faas-harness-2", "else"].map(|name| temporary.path().join(name));
        for folder in [&dead, &alive, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(LOCK), "").unwrap();
        }
        let _lock = try_lock(&alive).unwrap().unwrap();
        sweep(temporary.path());
        assert_eq!(
            [&dead, &alive, &other].map(|folder| folder.exists()),
            [false, true, true]
        );
    }
}
