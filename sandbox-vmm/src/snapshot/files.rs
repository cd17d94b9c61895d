//! The files of a snapshot folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sandbox_core::{Error, ErrorKind, Result};

use crate::error::kind_of;

/// Opens a regular file for reading; nothing else in its place can make us wait.
pub fn open_regular(path: &Path, name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| unreadable(name, error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(Error::new(ErrorKind::Corrupt, format!("{name} is no regular file"))),
        Err(error) => Err(unreadable(name, error)),
    }
}

/// Reads a file of at most `limit` bytes.
pub fn read_bounded(path: &Path, name: &str, limit: u64) -> Result<Vec<u8>> {
    let file = open_regular(path, name)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(name, error))?;
    match bytes.len() as u64 > limit {
        true => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} has more than {limit} bytes"),
        )),
        false => Ok(bytes),
    }
}

/// The error for a file that could not be read.
pub fn unreadable(name: &str, error: io::Error) -> Error {
    let (kind, context) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, format!("the snapshot has no {name}")),
        io::ErrorKind::UnexpectedEof => (ErrorKind::Corrupt, format!("{name} is shorter than it was")),
        _ => (kind_of(&error), format!("{name} cannot be read")),
    };
    Error::new(kind, context).with_source(error)
}
