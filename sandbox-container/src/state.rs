//! What stands on disk while a backend has containers: a folder per backend, held by a lock that goes with its process,
//! and in it a folder per container.
//!
//! ```text
//! /run/sandbox/3f1c07aa/lock        held by the backend's process as long as it lives
//! /run/sandbox/3f1c07aa/web/        a container: record.json, config.json, its runtime's state, its sockets
//! ```
//!
//! Whoever gets the lock of a folder knows that its process is gone, and that all in it is left over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::runtime::{Flags, Kind, OciRuntime};

const LOCK: &str = "lock";
const RECORD: &str = "record.json";

/// The folder of all backends' folders.
pub fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/sandbox");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => Path::new(&folder).join("sandbox"),
        None => std::env::temp_dir().join(format!("sandbox-{}", rustix::process::geteuid().as_raw())),
    }
}

/// A backend's folder, removed with the value.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    name: String,
    _lock: File,
}

impl Home {
    /// Makes a new one below `root`.
    pub fn create(root: &Path) -> io::Result<Self> {
        private_folder(root, true)?;
        let mut random = [0_u8; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("{:08x}", u32::from_ne_bytes(random));
        // Nobody sees it before it is locked.
        let hidden = root.join(format!(".{name}"));
        private_folder(&hidden, false)?;
        let lock = File::create(hidden.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let path = root.join(&name);
        fs::rename(&hidden, &path)?;
        Ok(Self {
            path,
            name,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, which no other has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the folder of a container.
    pub fn container(&self, id: &str) -> io::Result<PathBuf> {
        let path = self.path.join(id);
        private_folder(&path, false)?;
        Ok(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left of a container keeps it for the next sweep.
        let _ = fs::remove_file(self.path.join(LOCK)).and_then(|()| fs::remove_dir(&self.path));
    }
}

/// A folder that only its user can look into.
fn private_folder(path: &Path, and_parents: bool) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(and_parents).create(path)
}

/// What is needed to remove a container without the process that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name for the runtime.
    pub id: String,
    /// The runtime's name.
    pub runtime: String,
    /// Its program.
    pub program: PathBuf,
    /// Its folder of states.
    pub root: PathBuf,
    /// Name of the cgroup, where there is one.
    pub cgroup: Option<String>,
    /// The store that its root file system is from.
    pub store: PathBuf,
    /// Where its networks are written down, if it has any.
    pub networks: Option<PathBuf>,
}

impl Record {
    /// Writes it to a container's folder, before anything else of the container is made.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(RECORD), serde_json::to_vec(self)?)
    }

    /// Reads it again.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join(RECORD))?)?)
    }

    /// The runtime that it is about, with the flags that find the container.
    pub fn runtime(&self, folder: &Path) -> Option<(OciRuntime, Flags)> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == self.runtime)?;
        let runtime = OciRuntime {
            kind,
            program: self.program.clone(),
            version: String::new(),
        };
        let flags = Flags {
            root: self.root.clone(),
            log: folder.join("sweep.log"),
            ..Flags::default()
        };
        Some((runtime, flags))
    }
}

/// The backends' folders below `root` whose processes are gone, each locked by us.
pub fn abandoned(root: &Path) -> Vec<(PathBuf, File)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), lock_of(&entry.path())?)))
        .collect()
}

/// The lock of a backend's folder, if nobody holds it.
pub fn lock_of(folder: &Path) -> Option<File> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(lock)
}

/// The lock of a backend's folder, as soon as its process is gone; nothing if somebody else has removed the folder.
pub fn await_lock_of(folder: &Path) -> Option<File> {
    let path = folder.join(LOCK);
    let lock = File::open(&path).ok()?;
    flock(&lock, FlockOperation::LockExclusive).ok()?;
    path.exists().then_some(lock)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_abandoned_when_its_lock_is_let_go() {
        let root = std::env::temp_dir().join(format!("sandbox-state-{}", std::process::id()));
        let home = Home::create(&root).unwrap();
        assert!(abandoned(&root).is_empty());
        let container = home.container("box").unwrap();
        assert!(home.container("box").is_err(), "a name twice");
        let record = Record {
            id: "x-box".to_owned(),
            runtime: "runc".to_owned(),
            program: "/runc".into(),
            root: "/state".into(),
            cgroup: None,
            store: "/store".into(),
            networks: None,
        };
        record.write(&container).unwrap();
        assert_eq!(Record::read(&container).unwrap(), record);
        // Like a process that ended without a word.
        let (path, lock) = (home.path.clone(), home._lock.try_clone().unwrap());
        std::mem::forget(home);
        rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
        let found = abandoned(&root);
        assert_eq!(found.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [path]);
        fs::remove_dir_all(&root).unwrap();
    }
}
