//! A kernel in the store.

use super::Stored;
use super::content::Content;
use crate::boot::error::{BootError, Subject};
use crate::boot::image::{KernelImage, Source};

/// A checked kernel, ready to be put into any number of guests by [`load`](crate::boot::load::load).
#[derive(Debug)]
pub struct StoredKernel {
    image: KernelImage,
    content: Content,
}

impl StoredKernel {
    /// Takes a kernel from memory, as it stands in a file: for images that are part of the program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BootError> {
        Self::read(Source::Bytes(bytes))
    }

    pub(super) fn from_parts(image: KernelImage, content: Content) -> Self {
        Self { image, content }
    }

    /// What the kernel file says about itself.
    pub fn image(&self) -> &KernelImage {
        &self.image
    }

    pub(in crate::boot) fn content(&self) -> &Content {
        &self.content
    }
}

impl Stored for StoredKernel {
    const SUBJECT: Subject = Subject::Kernel;

    fn read(source: Source<'_>) -> Result<Self, BootError> {
        let image = KernelImage::parse(source)?;
        let content = Content::read(source, &image.segments)?;
        Ok(Self { image, content })
    }

    fn stored_size(&self) -> u64 {
        self.content.size()
    }
}
