//! A kernel ready to be put into any number of guests.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::sealed;
use crate::boot::error::BootError;
use crate::boot::image::{KernelImage, Segment, Source};
use crate::memory::layout::PAGE_SIZE;

/// Kernels up to this size are kept as bytes and copied, larger ones mapped: below it the copy is cheaper than the
/// system call and the page faults of the mapping.
const COPIED_UP_TO: u64 = 32 << 10;

/// A range of guest memory and where its content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Guest-physical address.
    pub(crate) address: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Offset into the content.
    pub(crate) offset: u64,
}

/// What the extents point into.
#[derive(Debug)]
pub(crate) enum Content {
    /// The segments' bytes, one behind the other.
    Bytes(Box<[u8]>),
    /// A sealed memory file of whole pages, laid out as guest memory is: every page can be mapped, and what no segment
    /// fills is zero.
    Pages(File),
}

/// A kernel whose content nobody can change any more.
#[derive(Debug)]
pub struct StoredKernel {
    image: KernelImage,
    extents: Vec<Extent>,
    content: Content,
}

impl StoredKernel {
    /// Takes a kernel from memory, as it stands in a file: for images that are part of the program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BootError> {
        Self::read(Source::Bytes(bytes))
    }

    /// What the kernel file says about itself.
    pub fn image(&self) -> &KernelImage {
        &self.image
    }

    /// Host memory that the kernel takes, in bytes.
    pub fn stored_size(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Checks a kernel file and copies what is loaded of it.
    pub(super) fn read(source: Source<'_>) -> Result<Self, BootError> {
        let image = KernelImage::parse(source)?;
        let (extents, content) = match image.loaded_size() {
            size if size <= COPIED_UP_TO => copy_bytes(source, &image.segments)?,
            _ => copy_pages(source, &image.segments)?,
        };
        Ok(Self {
            image,
            extents,
            content,
        })
    }
}

fn copy_bytes(source: Source<'_>, segments: &[Segment]) -> Result<(Vec<Extent>, Content), BootError> {
    let mut bytes = Vec::new();
    let mut extents = Vec::with_capacity(segments.len());
    for segment in segments {
        let offset = bytes.len();
        bytes.resize(offset + segment.file_size as usize, 0);
        source.read(&mut bytes[offset..], segment.file_offset, "a segment")?;
        extents.push(Extent {
            address: segment.address,
            len: segment.file_size,
            offset: offset as u64,
        });
    }
    Ok((extents, Content::Bytes(bytes.into_boxed_slice())))
}

fn copy_pages(source: Source<'_>, segments: &[Segment]) -> Result<(Vec<Extent>, Content), BootError> {
    let extents = page_extents(segments);
    let size = extents.iter().map(|extent| extent.len).sum();
    let mut file = sealed::create(size).map_err(BootError::Store)?;
    for segment in segments {
        let offset = content_offset(&extents, segment.address);
        file.seek(SeekFrom::Start(offset)).map_err(BootError::Store)?;
        source.copy_to(&mut file, segment.file_offset, segment.file_size)?;
    }
    sealed::seal(&file).map_err(BootError::Store)?;
    Ok((extents, Content::Pages(file)))
}

/// The pages that the segments fill, lowest first. Segments that share or touch a page make one extent, hence one
/// mapping.
fn page_extents(segments: &[Segment]) -> Vec<Extent> {
    let mut sorted = segments.to_vec();
    sorted.sort_unstable_by_key(|segment| segment.address);
    let mut extents: Vec<Extent> = Vec::with_capacity(sorted.len());
    for segment in sorted {
        let start = segment.address - segment.address % PAGE_SIZE;
        let end = (segment.address + segment.file_size).next_multiple_of(PAGE_SIZE);
        let offset = match extents.last_mut() {
            Some(last) if start <= last.address + last.len => {
                last.len = last.len.max(end - last.address);
                continue;
            }
            Some(last) => last.offset + last.len,
            None => 0,
        };
        extents.push(Extent {
            address: start,
            len: end - start,
            offset,
        });
    }
    extents
}

/// Where a guest-physical address that lies in one of the extents has its content.
fn content_offset(extents: &[Extent], address: u64) -> u64 {
    extents
        .iter()
        .find(|extent| (extent.address..extent.address + extent.len).contains(&address))
        .map_or(0, |extent| extent.offset + (address - extent.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, file_size: u64) -> Segment {
        Segment {
            file_offset: 0,
            file_size,
            address,
        }
    }

    #[test]
    fn segments_that_touch_a_common_page_share_an_extent() {
        let extents = page_extents(&[
            segment(0x30_0800, 0x1000),
            segment(0x10_0010, 0x1ff0),
            segment(0x10_2000, 1),
        ]);
        let expected = [
            Extent {
                address: 0x10_0000,
                len: 0x3000,
                offset: 0,
            },
            Extent {
                address: 0x30_0000,
                len: 0x2000,
                offset: 0x3000,
            },
        ];
        assert_eq!(extents, expected);
        assert_eq!(content_offset(&extents, 0x10_0010), 0x10);
        assert_eq!(content_offset(&extents, 0x30_0800), 0x3800);
    }
}
