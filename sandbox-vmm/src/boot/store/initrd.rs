//! An initrd in the store.

use super::Stored;
use super::content::Content;
use crate::boot::error::{BootError, Subject};
use crate::boot::image::{ImageError, Segment, Source};
use crate::memory::layout::GAP_START;

/// An initial RAM disk, ready to be put into any number of guests by [`load`](crate::boot::initrd::load_stored).
#[derive(Debug)]
pub struct StoredInitrd {
    size: u64,
    content: Content,
}

impl StoredInitrd {
    /// Takes an initrd from memory: for images that are part of the program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BootError> {
        Self::read(Source::Bytes(bytes))
    }

    pub(super) fn from_parts(size: u64, content: Content) -> Self {
        Self { size, content }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(in crate::boot) fn content(&self) -> &Content {
        &self.content
    }
}

impl Stored for StoredInitrd {
    const SUBJECT: Subject = Subject::Initrd;

    fn read(source: Source<'_>) -> Result<Self, BootError> {
        let size = source.len();
        match size {
            0 => return Err(BootError::InitrdEmpty),
            // No guest has room for it, and the store shall not either.
            size if size > GAP_START => return Err(BootError::InitrdTooLarge { size, room: GAP_START }),
            _ => {}
        }
        let whole_file = Segment {
            file_offset: 0,
            file_size: size,
            address: 0,
        };
        let content = Content::read(source, &[whole_file]).map_err(|error| match error {
            BootError::Image(ImageError::Read(source)) => BootError::ReadInitrd(source),
            // Nothing of an initrd is interpreted: it can only have become shorter.
            BootError::Image(_) => BootError::FileChanged {
                subject: Subject::Initrd,
            },
            other => other,
        })?;
        Ok(Self { size, content })
    }

    fn stored_size(&self) -> u64 {
        self.content.size()
    }
}
