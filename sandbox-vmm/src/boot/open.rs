//! Opening the files that a spec names: kernels and initrds.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::{BootError, Subject};

/// The metadata of what `path` names, which must be a regular file.
pub(super) fn metadata(path: &Path, subject: Subject) -> Result<Metadata, BootError> {
    let metadata = std::fs::metadata(path).map_err(|source| open_error(path, subject, source))?;
    check_regular(&metadata, path, subject)?;
    Ok(metadata)
}

/// Opens the regular file `path` for reading.
pub(super) fn regular_file(path: &Path, subject: Subject) -> Result<File, BootError> {
    OpenOptions::new()
        .read(true)
        // Whoever puts a pipe in the file's place must not make the open wait for a writer.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| open_error(path, subject, source))
}

/// Refuses directories, devices, pipes and sockets: only a regular file has a content of known length.
pub(super) fn check_regular(metadata: &Metadata, path: &Path, subject: Subject) -> Result<(), BootError> {
    let file_type = metadata.file_type();
    if file_type.is_file() {
        return Ok(());
    }
    let found = if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(BootError::NotAFile {
        path: path.to_path_buf(),
        found,
        subject,
    })
}

fn open_error(path: &Path, subject: Subject, source: io::Error) -> BootError {
    BootError::Open {
        path: path.to_path_buf(),
        subject,
        source,
    }
}
