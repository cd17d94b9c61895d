//! Opening a disk by its path, so that nobody else writes what we use.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::config::BlockError;
use super::disk::inspect;

/// Opens the raw image or block device at `path` and locks it: exclusively if it is to be written, else shared with
/// others that only read. The lock is the open file's own (`F_OFD_SETLK`): it counts within this process as between
/// processes, QEMU's among them, and lasts until the last duplicate of the descriptor is closed.
///
/// A file that nobody has the permission to write is not opened for writing, not even by root, who needs none.
pub fn open_disk(path: &Path, read_only: bool) -> Result<File, BlockError> {
    // O_NONBLOCK: opening a pipe would wait for somebody at its other end before it could be refused. Files and block
    // devices do not know it.
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| open_error(path, read_only, error))?;
    let inspection = inspect(&file)?;
    if !read_only && inspection.is_file && inspection.mode & 0o222 == 0 {
        return Err(BlockError::WriteProtected { path: path.into() });
    }
    lock(&file, read_only).map_err(|source| match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => BlockError::InUse { path: path.into() },
        _ => BlockError::Lock {
            path: path.into(),
            source,
        },
    })?;
    Ok(file)
}

fn open_error(path: &Path, read_only: bool, source: io::Error) -> BlockError {
    let path = path.into();
    match source.kind() {
        ErrorKind::NotFound => BlockError::NotFound { path },
        ErrorKind::IsADirectory => BlockError::NotADisk("directory"),
        ErrorKind::ReadOnlyFilesystem if !read_only => BlockError::WriteProtected { path },
        ErrorKind::PermissionDenied => BlockError::Denied { path, source },
        _ => BlockError::Open { path, source },
    }
}

fn lock(file: &File, shared: bool) -> io::Result<()> {
    let whole_file = libc::flock {
        l_type: if shared { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the kernel only reads the structure, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &whole_file) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
