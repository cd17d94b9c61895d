//! Writing a snapshot folder, whole or not at all.
//!
//! Everything is written into a folder beside the one that is asked for, each file is brought to the disk, the manifest
//! last, and then the folder gets its name. Whoever finds a folder of that name finds a whole snapshot, whatever
//! happened on the way: an error removes what was written, and what a killed process leaves the next snapshot into the
//! same parent folder removes (`partial`).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sandbox_core::snapshot::{FileRecord, MANIFEST_FILE};
use sandbox_core::{Error, ErrorKind, Manifest, Result};

use super::partial::{self, PartialFolder};
use super::section::Identity;
use crate::error::kind_of;

/// Name of the state file.
pub const STATE_FILE: &str = "state";

/// A folder that is being written.
pub struct FolderWriter {
    target: PathBuf,
    partial: PartialFolder,
    files: BTreeMap<String, FileRecord>,
    finished: bool,
}

impl FolderWriter {
    /// Begins the folder `target`, which must not be there, in a folder that must.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or what keeps us from writing there.
    pub fn begin(target: &Path, identity: Identity) -> Result<Self> {
        if target.symlink_metadata().is_ok() {
            let context = format!("{} is there already; name a new folder", target.display());
            return Err(Error::new(ErrorKind::AlreadyExists, context));
        }
        let Some(name) = target.file_name() else {
            let context = format!("{} names no folder", target.display());
            return Err(Error::new(ErrorKind::InvalidSpec, context));
        };
        partial::sweep(parent_of(target));
        let partial = PartialFolder::make(target, name, identity).map_err(|error| failed(target, error))?;
        Ok(Self {
            target: target.to_path_buf(),
            partial,
            files: BTreeMap::new(),
            finished: false,
        })
    }

    /// Where a file of that name is to be written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.path().join(name)
    }

    /// Brings a file that was written to the disk, and counts it in.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn add(&mut self, name: &str, file: &File, identity: Identity, digest: Option<String>) -> Result<()> {
        let synced = file.sync_all().and_then(|()| file.metadata());
        let metadata = synced.map_err(|error| failed(&self.path(name), error))?;
        let record = FileRecord {
            size: metadata.len(),
            identity: identity.to_string(),
            digest,
        };
        self.files.insert(name.to_owned(), record);
        Ok(())
    }

    /// Counts a file of an earlier snapshot in, which this one shares: a link, or a copy where the disk is another.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn share(&mut self, name: &str, original: &Path, record: &FileRecord) -> Result<()> {
        let path = self.path(name);
        if fs::hard_link(original, &path).is_err() {
            copy_with_holes(original, &path).map_err(|error| failed(&path, error))?;
        }
        self.files.insert(name.to_owned(), record.clone());
        Ok(())
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn write(&mut self, name: &str, bytes: &[u8], identity: Identity) -> Result<()> {
        let file = self
            .write_file(name, bytes)
            .map_err(|error| failed(&self.path(name), error))?;
        self.add(name, &file, identity, None)
    }

    /// The files up to now.
    pub fn files(&self) -> &BTreeMap<String, FileRecord> {
        &self.files
    }

    /// Writes the manifest and gives the folder its name.
    ///
    /// # Errors
    /// A disk that does not take it, or somebody who took the name meanwhile.
    pub fn finish(mut self, manifest: &Manifest) -> Result<()> {
        let finish = || -> io::Result<()> {
            self.write_file(MANIFEST_FILE, manifest.to_json().as_bytes())?
                .sync_all()?;
            File::open(self.partial.path())?.sync_all()?;
            rename_new(self.partial.path(), &self.target)
        };
        finish().map_err(|error| failed(&self.target, error))?;
        self.finished = true;
        // The name is the last thing to reach the disk. Without it there is no snapshot after a crash, and no half of one
        // either, so a file system that cannot sync folders is no reason to fail.
        let _ = File::open(parent_of(&self.target)).and_then(|folder| folder.sync_all());
        Ok(())
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(name))?;
        file.write_all(bytes)?;
        Ok(file)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(self.partial.path())
        {
            tracing::warn!(folder = %self.partial.path().display(), %error, "an unfinished snapshot is left behind");
        }
    }
}

/// The folder that `target` stands in.
fn parent_of(target: &Path) -> &Path {
    let named = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// Renames unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let c_path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both names are NUL-terminated strings that outlive the call.
    let result = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Copies a file without what its holes would take.
fn copy_with_holes(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    const BLOCK: usize = 64 << 10;
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut buffer = vec![0; BLOCK];
    let mut position = 0;
    while position < size {
        let count = source.read_at(&mut buffer, position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = &buffer[..count];
        if bytes.iter().any(|byte| *byte != 0) {
            target.write_all_at(bytes, position)?;
        }
        position += count as u64;
    }
    target.sync_all()
}

fn failed(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::HostExhausted,
        _ => kind_of(&error),
    };
    Error::new(kind, format!("the snapshot cannot be written to {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity([3; 16]);

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sandbox-writing-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn nothing_is_left_of_what_was_not_finished() {
        let parent = scratch("unfinished");
        let mut writer = FolderWriter::begin(&parent.join("snapshot"), IDENTITY).unwrap();
        writer.write("state", b"half", IDENTITY).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
        fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn a_name_that_is_taken_is_refused_before_anything_is_written() {
        let parent = scratch("taken");
        let error = FolderWriter::begin(&parent, IDENTITY).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn copies_keep_their_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let parent = scratch("holes");
        let original = parent.join("original");
        let file = File::create(&original).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"content", 5 << 20).unwrap();
        copy_with_holes(&original, &parent.join("copy")).unwrap();
        let copy = File::open(parent.join("copy")).unwrap();
        let mut bytes = [0; 7];
        copy.read_exact_at(&mut bytes, 5 << 20).unwrap();
        assert_eq!(&bytes, b"content");
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), 8 << 20);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        fs::remove_dir_all(&parent).unwrap();
    }
}
