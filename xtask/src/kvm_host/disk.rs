//! Big files for the emulated host on a read-only disk, which is read only
//! where it is used, while an initial file system costs memory and time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{self, Key};
use crate::ext4;

/// Builds an image of `folder`, unless it is up to date, and returns its path.
pub(super) fn build(output: &Path, folder: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut key = Key::default();
    let mut bytes = 0;
    for file in &files {
        key = key.file(file)?;
        bytes += file.metadata()?.len();
    }
    // A tenth and some MiB more for the file system's own structures.
    let size_mib = (bytes + bytes / 10).div_ceil(1 << 20) + 8;
    cache::build(output, &key, |path| {
        ext4::make(path, folder, size_mib, &["-O", "^has_journal"])
    })?;
    Ok(output.to_path_buf())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
