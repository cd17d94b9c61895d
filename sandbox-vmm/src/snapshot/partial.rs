//! The folder that a snapshot is written in until it gets its name.
//!
//! It stands beside the folder that it becomes, is called `.NAME.IDENTITY.partial`, and is locked (`flock`) for as long
//! as it is being written. The kernel gives the lock back however a process dies, so whoever can take it knows that
//! nobody writes there any more: the next snapshot into the same parent folder removes what it so finds.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::section::Identity;

const SUFFIX: &str = ".partial";
/// Hexadecimal digits of an identity.
const IDENTITY_DIGITS: usize = 32;
/// How often a folder is made that somebody removes before it is locked: each is an attempt of another process to take
/// it for one that was left behind.
const ATTEMPTS: usize = 16;

/// A folder that is being written, and whose lock is held.
#[derive(Debug)]
pub struct PartialFolder {
    path: PathBuf,
    _lock: File,
}

impl PartialFolder {
    /// Makes the one that is to become `target`, called `name`.
    ///
    /// # Errors
    /// A parent folder that does not take it.
    pub fn make(target: &Path, name: &OsStr, identity: Identity) -> io::Result<Self> {
        let mut partial_name = OsString::from(".");
        partial_name.push(name);
        partial_name.push(format!(".{identity}{SUFFIX}"));
        let path = target.with_file_name(partial_name);
        for _ in 0..ATTEMPTS {
            // What is in it is the guest's memory, with all its secrets.
            match DirBuilder::new().mode(0o700).create(&path) {
                // Whoever took the one before has not removed it yet.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            match locked(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A file system without locks, on which nobody can take it either.
                Err(_) => return open(&path).map(|lock| Self { path, _lock: lock }),
            }
            std::thread::yield_now();
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes what processes that are dead left unfinished in `parent`. What cannot be removed is no reason to fail: it is
/// somebody else's, or the next snapshot meets it again.
pub fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter(|name| is_partial(name)) {
        let path = parent.join(&name);
        if let Ok(Some(_lock)) = locked(&path) {
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(folder = %path.display(), "an unfinished snapshot of a dead process is removed")
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(folder = %path.display(), %error, "an unfinished snapshot cannot be removed");
                }
            }
        }
    }
}

/// Whether it is the name of such a folder.
fn is_partial(name: &OsStr) -> bool {
    let middle = name.as_bytes().strip_prefix(b".");
    let Some(middle) = middle.and_then(|name| name.strip_suffix(SUFFIX.as_bytes())) else {
        return false;
    };
    let Some((rest, identity)) = middle.split_at_checked(middle.len().saturating_sub(IDENTITY_DIGITS)) else {
        return false;
    };
    let digits = identity.len() == IDENTITY_DIGITS && identity.iter().all(u8::is_ascii_hexdigit);
    digits && rest.len() > 1 && rest.ends_with(b".")
}

/// The lock of the folder, if nobody else has it and the folder is this user's and still there.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let folder = open(path)?;
    // SAFETY: the call has no pointer arguments; the descriptor is open for as long as `folder`.
    if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
    }
    let (held, named) = (folder.metadata()?, path.symlink_metadata()?);
    // SAFETY: the call has no arguments and cannot fail.
    let own = held.uid() == unsafe { libc::geteuid() };
    let same = (held.dev(), held.ino()) == (named.dev(), named.ino());
    Ok((own && same).then_some(folder))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity([0xa5; 16]);

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sandbox-partial-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn left_behind(parent: &Path, name: &str) -> PathBuf {
        let partial = PartialFolder::make(&parent.join(name), OsStr::new(name), IDENTITY).unwrap();
        fs::write(partial.path().join("memory"), b"half").unwrap();
        partial.path().to_path_buf()
    }

    #[test]
    fn what_nobody_writes_any_more_is_swept_and_nothing_else() {
        let parent = scratch("sweep");
        let dead = left_behind(&parent, "dead");
        let alive = PartialFolder::make(&parent.join("alive"), OsStr::new("alive"), IDENTITY).unwrap();
        let others = [
            ".a.partial".to_owned(),
            "snapshot".to_owned(),
            format!("{IDENTITY}.partial"),
            format!(".{IDENTITY}.partial"),
            format!(".x.{}.partial", "z".repeat(IDENTITY_DIGITS)),
        ];
        for name in &others {
            fs::create_dir(parent.join(name)).unwrap();
        }
        let kept = scratch("sweep-linked");
        let link = parent.join(format!(".link.{IDENTITY}.partial"));
        std::os::unix::fs::symlink(&kept, &link).unwrap();

        sweep(&parent);

        assert!(!dead.exists());
        assert!(alive.path().exists() && kept.exists() && link.symlink_metadata().is_ok());
        assert!(others.iter().all(|name| parent.join(name).exists()));
        fs::remove_dir_all(&parent).unwrap();
        fs::remove_dir_all(&kept).unwrap();
    }

    #[test]
    fn a_folder_that_is_locked_by_name_alone_is_not_taken() {
        let parent = scratch("renamed");
        let partial = PartialFolder::make(&parent.join("a"), OsStr::new("a"), IDENTITY).unwrap();
        assert!(locked(partial.path()).unwrap().is_none());
        let moved = parent.join("a");
        fs::rename(partial.path(), &moved).unwrap();
        assert_eq!(locked(partial.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&parent).unwrap();
    }
}
