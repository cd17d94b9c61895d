//! What a kernel is read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ImageError;

/// The bytes of a kernel file, each access checked against its length.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A regular file and its length in bytes.
    File(&'a File, u64),
    /// A file's content in memory.
    Bytes(&'a [u8]),
}

impl Source<'_> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File(_, len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// True when there is no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` on; `what` names the part that is read.
    pub fn read(&self, buffer: &mut [u8], offset: u64, what: &'static str) -> Result<(), ImageError> {
        let end = self.check(offset, buffer.len() as u64, what)?;
        match self {
            Self::File(file, _) => file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                // Shortened since its length was taken.
                io::ErrorKind::UnexpectedEof => self.truncated(end, what),
                _ => ImageError::Read(error),
            }),
            Self::Bytes(bytes) => {
                buffer.copy_from_slice(&bytes[offset as usize..end as usize]);
                Ok(())
            }
        }
    }

    /// The end of `[offset, offset + len)`, which must lie inside the file.
    pub fn check(&self, offset: u64, len: u64, what: &'static str) -> Result<u64, ImageError> {
        let end = offset.checked_add(len).ok_or(ImageError::Malformed {
            what: "a file offset overflows",
        })?;
        match end <= self.len() {
            true => Ok(end),
            false => Err(self.truncated(end, what)),
        }
    }

    fn truncated(&self, needed: u64, what: &'static str) -> ImageError {
        ImageError::Truncated {
            what,
            needed,
            size: self.len(),
        }
    }
}
