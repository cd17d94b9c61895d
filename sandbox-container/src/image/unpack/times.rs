//! Modes and times of folders, which are set when nothing is put into the folders any more: a mode without write
//! permission would keep out somebody without privileges, and the time changes with every file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::ImageError;
use super::archive::Entry;
use super::tree::{Tree, parts};

/// Folders by path. A folder that an entry names twice has what the last one says.
#[derive(Debug, Default)]
pub(super) struct FolderTimes {
    folders: BTreeMap<Vec<u8>, (u32, (i64, i64))>,
    name_bytes: usize,
}

impl FolderTimes {
    /// Remembers a folder. Returns whether there is room.
    pub(super) fn add(&mut self, entry: &Entry, room: usize) -> bool {
        if self
            .folders
            .insert(entry.path.clone(), (entry.mode, entry.modified))
            .is_none()
        {
            self.name_bytes += entry.path.len();
        }
        self.name_bytes <= room
    }

    /// Sets them all, the deepest first: above a folder without permissions nothing is reached any more.
    pub(super) fn apply(self, tree: &mut Tree) -> Result<(), ImageError> {
        for (path, (mode, modified)) in self.folders.into_iter().rev() {
            let failed = |source: rustix::io::Errno| ImageError::EntryFailed {
                entry: String::from_utf8_lossy(&path).into_owned(),
                action: "set the mode and time of the folder",
                source: source.into(),
            };
            let components: Vec<&[u8]> = parts(&path).collect();
            let (name, parents): (&[u8], _) = match components.split_last() {
                Some((name, parents)) => (name, parents),
                None => (b".", &[][..]),
            };
            // A later layer may have removed it, or put something else in its place.
            let Ok(parent) = tree.folder(parents, false) else {
                continue;
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(folder) = rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty()) else {
                continue;
            };
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode)).map_err(failed)?;
            rustix::fs::futimens(folder.as_fd(), &timestamps(modified)).map_err(failed)?;
        }
        Ok(())
    }
}

/// Access and modification at the same time.
pub(super) fn timestamps((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
