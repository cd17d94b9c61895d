//! A folder that is being filled, and the way to its files: one component after the other, relative to open folders,
//! links followed by us and never by the kernel.
//!
//! A link with an absolute target is followed as inside the container, where `/` is this folder. One that climbs above
//! it is what an attack by links looks like, and is refused.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Links that may stand in one path; the kernel's own bound.
const MAX_LINKS: usize = 40;

/// Flags that open a folder and nothing else, as a place to start from.
const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::NOFOLLOW)
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Why a path cannot be walked.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// A link on the way points above the root.
    Escapes,
    /// There are too many links on the way, or the folders are too deep.
    TooLong,
    /// Something on the way is no folder.
    NotAFolder,
    /// The host failed.
    Os(io::Error),
}

impl WalkError {
    fn os(errno: Errno) -> Self {
        Self::Os(errno.into())
    }
}

/// A root folder.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    max_depth: usize,
    /// The folder that was walked to last: most entries of an archive stand beside the former one.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    made: Cell<u64>,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd, max_depth: usize) -> Self {
        Self {
            root,
            max_depth,
            last: None,
            made: Cell::new(0),
        }
    }

    /// How many folders were made because a path led through them.
    pub(crate) fn made(&self) -> u64 {
        self.made.get()
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Must be called when a folder or a link was removed, as a path may lead elsewhere then.
    pub(crate) fn forget_paths(&mut self) {
        self.last = None;
    }

    /// Opens the folder at `components` for use as a starting point. Missing folders are made if `create` says so,
    /// readable for everybody.
    pub(crate) fn folder(&mut self, components: &[&[u8]], create: bool) -> Result<BorrowedFd<'_>, WalkError> {
        let known = self.last.as_ref().is_some_and(|(path, _)| path.iter().eq(components));
        if components.is_empty() {
            return Ok(self.root.as_fd());
        }
        if !known {
            let folder = self.walk(components, create)?;
            self.last = Some((components.iter().map(|part| part.to_vec()).collect(), folder));
        }
        // Just set, or known.
        self.last
            .as_ref()
            .map(|(_, folder)| folder.as_fd())
            .ok_or(WalkError::NotAFolder)
    }

    fn walk(&self, components: &[&[u8]], create: bool) -> Result<OwnedFd, WalkError> {
        let mut pending: Vec<Vec<u8>> = components.iter().rev().map(|part| part.to_vec()).collect();
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            if component == b".." {
                way.pop().ok_or(WalkError::Escapes)?;
                continue;
            }
            if way.len() >= self.max_depth {
                return Err(WalkError::TooLong);
            }
            let here = way.last().map_or(self.root.as_fd(), |folder| folder.as_fd());
            let name = OsStr::from_bytes(&component);
            match rustix::fs::openat(here, name, FOLDER, Mode::empty()) {
                Ok(folder) => way.push(folder),
                Err(Errno::NOENT) if create => {
                    make_folder(here, name).map_err(WalkError::os)?;
                    self.made.set(self.made.get() + 1);
                    pending.push(component);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(WalkError::TooLong);
                    }
                    let target = match rustix::fs::readlinkat(here, name, Vec::new()) {
                        Ok(target) => target.into_bytes(),
                        Err(Errno::INVAL) => return Err(WalkError::NotAFolder),
                        Err(error) => return Err(WalkError::os(error)),
                    };
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    pending.extend(parts(&target).rev().map(<[u8]>::to_vec));
                }
                Err(error) => return Err(WalkError::os(error)),
            }
        }
        match way.pop() {
            Some(folder) => Ok(folder),
            None => self.root.try_clone().map_err(WalkError::Os),
        }
    }

    /// Opens the regular file at `components` for reading, links on the way and at the end followed inside the root.
    pub(crate) fn open_file(&self, components: &[&[u8]]) -> Result<OwnedFd, WalkError> {
        let mut path: Vec<Vec<u8>> = components.iter().map(|part| part.to_vec()).collect();
        for _ in 0..MAX_LINKS {
            let Some((name, folders)) = path.split_last() else {
                return Err(WalkError::NotAFolder);
            };
            let folders: Vec<&[u8]> = folders.iter().map(Vec::as_slice).collect();
            let folder = self.walk(&folders, false)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match rustix::fs::openat(&folder, OsStr::from_bytes(name), flags, Mode::empty()) {
                Ok(file) => return Ok(file),
                Err(Errno::LOOP) => {}
                Err(error) => return Err(WalkError::os(error)),
            }
            let target = rustix::fs::readlinkat(&folder, OsStr::from_bytes(name), Vec::new()).map_err(WalkError::os)?;
            let target = target.into_bytes();
            path.pop();
            if target.starts_with(b"/") {
                path.clear();
            }
            path.extend(parts(&target).map(<[u8]>::to_vec));
        }
        Err(WalkError::TooLong)
    }
}

/// The components of a path, without empty ones and `.`.
pub(crate) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

/// Makes a folder that everybody may read, whatever the process's umask is.
fn make_folder(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    // Nobody else knows this tree, so the name still means the folder that was just made.
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
}

/// Removes `name` with all that is in it, except what `keep` says of (folder's inode, name in it). Returns whether it
/// is gone. A folder that holds something kept stays.
pub(crate) fn remove(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    keep: &impl Fn(u64, &OsStr) -> bool,
) -> rustix::io::Result<bool> {
    let inode = rustix::fs::fstat(parent)?.st_ino;
    let kept = keep(inode, name);
    let folder = match rustix::fs::openat(parent, name, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(true),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            if !kept {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            }
            return Ok(!kept);
        }
        Err(error) => return Err(error),
    };
    let empty = match clear(folder.as_fd(), keep) {
        // Somebody without privileges cannot list a folder of their own that has no permissions.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            clear(folder.as_fd(), keep)?
        }
        cleared => cleared?,
    };
    if empty && !kept {
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
        return Ok(true);
    }
    Ok(false)
}

/// Removes what is in `folder`, as [`remove`] does. Returns whether it is empty then.
pub(crate) fn clear(folder: BorrowedFd<'_>, keep: &impl Fn(u64, &OsStr) -> bool) -> rustix::io::Result<bool> {
    let mut empty = true;
    for name in names(folder)? {
        empty &= remove(folder, OsStr::from_bytes(&name), keep)?;
    }
    Ok(empty)
}

/// The names in a folder that was opened as a starting point.
pub(crate) fn names(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
