//! Unpacking archives into a folder, as though each were written by an attacker.
//!
//! Layers are applied one over the other (OCI image-spec, "Image Layer Filesystem Changeset"): an entry replaces what
//! stands in its place, and a whiteout removes what former layers put there. What no sound image has is refused, with
//! the entry named, and what was unpacked so far is the caller's to throw away.

mod apply;
mod archive;
mod limits;
mod times;
pub(crate) mod tree;

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;

use super::error::ImageError;
use archive::Archive;
use times::FolderTimes;
use tree::Tree;

pub use limits::UnpackLimits;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries, whiteouts among them.
    pub entries: u64,
}

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The users that the archive names; needs `CAP_CHOWN`.
    Archive,
    /// The calling user: all that somebody without privileges can do.
    Caller,
}

/// Fills a folder from archives.
///
/// The folder must be reachable for nobody else until [`Unpacker::finish`] has returned.
#[derive(Debug)]
pub struct Unpacker {
    tree: Tree,
    limits: UnpackLimits,
    ownership: Ownership,
    done: Unpacked,
    folders: FolderTimes,
    /// What the present layer made, by inode of the folder and name: a whiteout does not touch it.
    made: HashSet<(u64, Vec<u8>)>,
    name_bytes: usize,
}

impl Unpacker {
    /// An unpacker into `root`, an open folder.
    pub fn new(root: OwnedFd, limits: UnpackLimits, ownership: Ownership) -> Self {
        Self {
            tree: Tree::new(root, limits.depth),
            limits,
            ownership,
            done: Unpacked::default(),
            folders: FolderTimes::default(),
            made: HashSet::new(),
            name_bytes: 0,
        }
    }

    /// Applies a layer over what is there: a tar archive whose names beginning with `.wh.` are whiteouts. The reader is
    /// read no further than the archive's end marker.
    ///
    /// # Errors
    /// [`ImageError::Entry`] for what no sound archive has, [`ImageError::BadArchive`] for what is none,
    /// [`ImageError::EntryFailed`] where the host fails.
    pub fn layer(&mut self, reader: impl Read) -> Result<(), ImageError> {
        self.made.clear();
        self.unpack(reader, true)
    }

    /// Unpacks an archive of a whole file system, in which no name has a special meaning.
    ///
    /// # Errors
    /// As [`Unpacker::layer`].
    pub fn archive(&mut self, reader: impl Read) -> Result<(), ImageError> {
        self.unpack(reader, false)
    }

    /// Gives the folders the modes and times that the archives say, which could not be done before.
    ///
    /// # Errors
    /// [`ImageError::EntryFailed`] where the host fails.
    pub fn finish(mut self) -> Result<Unpacked, ImageError> {
        let folders = std::mem::take(&mut self.folders);
        folders.apply(&mut self.tree)?;
        Ok(self.done)
    }

    fn unpack(&mut self, reader: impl Read, has_whiteouts: bool) -> Result<(), ImageError> {
        let limits = self.limits.clone();
        let mut archive = Archive::new(reader, &limits);
        while let Some(entry) = archive.next_entry()? {
            self.done.entries += 1;
            self.apply(&entry, &mut archive, has_whiteouts)?;
            // Folders that an entry's path implies are folders like any other.
            if self.done.entries + self.tree.made() > limits.entries {
                return Err(entry.refused(format!("is one too many: at most {} are unpacked", limits.entries)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
