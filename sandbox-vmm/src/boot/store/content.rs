//! The content of a file, ready to be put into any number of guests.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;

use vm_memory::{Bytes, GuestAddress};

use super::sealed;
use crate::boot::error::BootError;
use crate::boot::image::{Segment, Source};
use crate::memory::GuestMemory;
use crate::memory::layout::PAGE_SIZE;

/// Contents up to this size are kept as bytes and copied, larger ones mapped: below it the copy is cheaper than the
/// system call and the page faults of the mapping.
const COPIED_UP_TO: u64 = 64 << 10;

/// What is put into guest memory, which nobody can change any more. Addresses count from a base that is given when the
/// content is put in place.
#[derive(Debug)]
pub(crate) struct Content {
    extents: Vec<Extent>,
    backing: Backing,
}

/// A range of guest memory and where its bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// Address in guest memory.
    address: u64,
    /// Length in bytes.
    len: u64,
    /// Offset into the backing.
    offset: u64,
}

#[derive(Debug)]
enum Backing {
    /// The segments' bytes, one behind the other.
    Bytes(Box<[u8]>),
    /// A sealed memory file of whole pages, laid out as guest memory is: every page can be mapped, and what no segment
    /// fills is zero.
    Pages(File),
}

impl Content {
    /// Copies segments from a file.
    pub(super) fn read(source: Source<'_>, segments: &[Segment]) -> Result<Self, BootError> {
        let size: u64 = segments.iter().map(|segment| segment.file_size).sum();
        match size <= COPIED_UP_TO {
            true => Self::read_bytes(source, segments),
            false => Self::read_pages(source, segments),
        }
    }

    /// Host memory taken, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Copies or maps the content into guest memory at `base`, a multiple of the page size. The pages around it must be
    /// fresh: where the last one is mapped, its rest becomes zero.
    pub(in crate::boot) fn put(&self, base: u64, memory: &GuestMemory, what: &'static str) -> Result<(), BootError> {
        for extent in &self.extents {
            let address = base + extent.address;
            match &self.backing {
                Backing::Bytes(bytes) => {
                    let range = extent.offset as usize..(extent.offset + extent.len) as usize;
                    memory
                        .write_slice(&bytes[range], GuestAddress(address))
                        .map_err(|source| BootError::GuestMemory { what, source })?;
                }
                Backing::Pages(file) => {
                    let failed = |source| BootError::MapFile { what, source };
                    let offset = memory
                        .mapping_offset(address, extent.len)
                        .ok_or_else(|| failed(std::io::Error::from_raw_os_error(libc::EFAULT)))?;
                    memory
                        .mapping()
                        .overlay_file(offset, extent.len, file.as_fd(), extent.offset)
                        .map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    fn read_bytes(source: Source<'_>, segments: &[Segment]) -> Result<Self, BootError> {
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
        Ok(Self {
            extents,
            backing: Backing::Bytes(bytes.into_boxed_slice()),
        })
    }

    fn read_pages(source: Source<'_>, segments: &[Segment]) -> Result<Self, BootError> {
        let extents = page_extents(segments);
        let size = extents.iter().map(|extent| extent.len).sum();
        let mut file = sealed::create(size).map_err(BootError::Store)?;
        for segment in segments {
            let offset = backing_offset(&extents, segment.address);
            file.seek(SeekFrom::Start(offset)).map_err(BootError::Store)?;
            source.copy_to(&mut file, segment.file_offset, segment.file_size)?;
        }
        sealed::seal(&file).map_err(BootError::Store)?;
        Ok(Self {
            extents,
            backing: Backing::Pages(file),
        })
    }
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

/// Where an address that lies in one of the extents has its bytes.
fn backing_offset(extents: &[Extent], address: u64) -> u64 {
    extents
        .iter()
        .find(|extent| (extent.address..extent.address + extent.len).contains(&address))
        .map_or(0, |extent| extent.offset + (address - extent.address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::test_support::memory;

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
        assert_eq!(backing_offset(&extents, 0x10_0010), 0x10);
        assert_eq!(backing_offset(&extents, 0x30_0800), 0x3800);
    }

    #[test]
    fn small_contents_are_copied_and_large_ones_mapped_at_their_base() {
        for size in [COPIED_UP_TO, COPIED_UP_TO + 1] {
            let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
            let content = Content::read(Source::Bytes(&bytes), &[segment(0, size)]).unwrap();
            assert_eq!(matches!(content.backing, Backing::Pages(_)), size > COPIED_UP_TO);
            let memory = memory(4 << 20);
            content.put(0x20_0000, &memory, "the content").unwrap();
            let mut loaded = vec![0; size as usize + 1];
            memory.read_slice(&mut loaded, GuestAddress(0x20_0000)).unwrap();
            assert_eq!(loaded[..size as usize], bytes);
            assert_eq!(loaded[size as usize], 0);
        }
    }

    #[test]
    fn content_that_reaches_beyond_memory_is_an_error() {
        for size in [COPIED_UP_TO, COPIED_UP_TO + 1] {
            let bytes = vec![1; size as usize];
            let content = Content::read(Source::Bytes(&bytes), &[segment(0, size)]).unwrap();
            assert!(
                content
                    .put((4 << 20) - 0x1000, &memory(4 << 20), "the content")
                    .is_err()
            );
        }
    }
}
