//! The content of a file, ready to be put into any number of guests.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use vm_memory::{Bytes, GuestAddress};

use super::extents::{BLOCK_SIZE, Extent, backing_offset, page_extents, without_holes};
use crate::boot::error::BootError;
use crate::boot::image::{Segment, Source};
use crate::memory::sealed::{self, View};
use crate::memory::{GuestMemory, HostMapping};

/// Contents up to this size are kept as bytes and copied, larger ones mapped: below it the copy is cheaper than the
/// system call and the page faults of the mapping.
const COPIED_UP_TO: u64 = 32 << 10;
/// What a block without content looks like.
static ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];

/// How large contents get into guest memory. Small ones are always copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Mapped, privately: the guest shares the host memory of all that it does not write, and the first instruction
    /// comes soonest; each page costs two or three page faults when the guest touches it.
    Mapped,
    /// Copied into the guest's own memory: costs about 0.5 instructions per byte before the first instruction, and
    /// spares the guest the page faults, all the more where its memory is in huge pages.
    Copied,
}

/// What is put into guest memory, which nobody can change any more. Addresses count from a base that is given when the
/// content is put in place.
#[derive(Debug)]
pub(crate) struct Content {
    extents: Vec<Extent>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    /// The segments' bytes, one behind the other.
    Bytes(Box<[u8]>),
    /// A sealed memory file of whole pages, laid out as guest memory is: every page can be mapped, and what no segment
    /// fills is zero.
    Pages {
        file: File,
        /// The file as memory, from the first copy on.
        view: OnceLock<View>,
    },
}

/// A backing on its way to another process.
pub(super) enum HandedOver<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// A sealed file.
    Pages(&'a File),
}

/// A backing that came from another process.
pub(super) enum TakenOver {
    /// Bytes.
    Bytes(Box<[u8]>),
    /// A sealed file.
    Pages(File),
}

impl Content {
    /// What another process needs to have the same content.
    pub(super) fn hand_over(&self) -> (Vec<Extent>, HandedOver<'_>) {
        let backing = match &self.backing {
            Backing::Bytes(bytes) => HandedOver::Bytes(bytes),
            Backing::Pages { file, .. } => HandedOver::Pages(file),
        };
        (self.extents.clone(), backing)
    }

    /// The content that another process handed over.
    pub(super) fn take_over(extents: Vec<Extent>, backing: TakenOver) -> Self {
        let backing = match backing {
            TakenOver::Bytes(bytes) => Backing::Bytes(bytes),
            TakenOver::Pages(file) => Backing::Pages {
                file,
                view: OnceLock::new(),
            },
        };
        Self { extents, backing }
    }

    /// Copies segments from a file. Where two overlap, the later one stands.
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

    /// Puts the content into guest memory at `base`, a multiple of the page size. The pages around it must be fresh:
    /// where the last one is mapped, its rest becomes zero.
    pub(in crate::boot) fn put(
        &self,
        base: u64,
        memory: &GuestMemory,
        placement: Placement,
        what: &'static str,
    ) -> Result<(), BootError> {
        for extent in &self.extents {
            let address = base + extent.address;
            match &self.backing {
                Backing::Bytes(bytes) => {
                    let range = extent.offset as usize..(extent.offset + extent.len) as usize;
                    memory
                        .write_slice(&bytes[range], GuestAddress(address))
                        .map_err(|source| BootError::GuestMemory { what, source })?;
                }
                Backing::Pages { file, .. } if placement == Placement::Mapped => {
                    map(file, extent, address, memory).map_err(|source| BootError::MapFile { what, source })?;
                }
                Backing::Pages { file, view } => {
                    let bytes = view_of(file, view).map_err(BootError::Store)?.bytes();
                    let range = extent.offset as usize..(extent.offset + extent.len) as usize;
                    memory
                        .write_slice(&bytes[range], GuestAddress(address))
                        .map_err(|source| BootError::GuestMemory { what, source })?;
                }
            }
        }
        Ok(())
    }

    /// The pages that it fills, as address and length; `None` for a small one, which is always copied.
    pub(in crate::boot) fn places(&self) -> Option<impl Iterator<Item = (u64, u64)>> {
        match self.backing {
            Backing::Bytes(_) => None,
            Backing::Pages { .. } => Some(self.extents.iter().map(|extent| (extent.address, extent.len))),
        }
    }

    /// Copies what stands from `address` on to the start of `target`, and as much as that takes.
    pub(in crate::boot) fn copy_to(&self, address: u64, target: &HostMapping) -> io::Result<()> {
        let bytes = self.bytes()?;
        let end = address + target.len() as u64;
        for extent in &self.extents {
            let from = extent.address.max(address);
            let to = (extent.address + extent.len).min(end);
            if from < to {
                let start = extent.offset + (from - extent.address);
                target.fill(from - address, &bytes[start as usize..(start + (to - from)) as usize])?;
            }
        }
        Ok(())
    }

    /// The bytes of all extents, by their offsets. Mapped by the first call.
    pub(in crate::boot) fn bytes(&self) -> io::Result<&[u8]> {
        match &self.backing {
            Backing::Bytes(bytes) => Ok(bytes),
            Backing::Pages { file, view } => Ok(view_of(file, view)?.bytes()),
        }
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
        let size: u64 = extents.iter().map(|extent| extent.len).sum();
        let file = sealed::create(c"sandbox-kernel", size).map_err(BootError::Store)?;
        let mut filled = vec![false; size.div_ceil(BLOCK_SIZE) as usize];
        for segment in segments {
            let offset = backing_offset(&extents, segment.address);
            copy_blocks(source, segment, &file, offset, &mut filled)?;
        }
        sealed::seal(&file).map_err(BootError::Store)?;
        Ok(Self {
            extents: without_holes(&extents, &filled),
            backing: Backing::Pages {
                file,
                view: OnceLock::new(),
            },
        })
    }
}

fn map(file: &File, extent: &Extent, address: u64, memory: &GuestMemory) -> io::Result<()> {
    let outside = || io::Error::from_raw_os_error(libc::EFAULT);
    let offset = memory.mapping_offset(address, extent.len).ok_or_else(outside)?;
    memory
        .mapping()
        .overlay_file(offset, extent.len, file.as_fd(), extent.offset)
}

/// The file as memory. Where two threads are the first, the later one's view is dropped.
fn view_of<'a>(file: &File, view: &'a OnceLock<View>) -> io::Result<&'a View> {
    match view.get() {
        Some(view) => Ok(view),
        None => {
            let made = View::new(file)?;
            Ok(view.get_or_init(|| made))
        }
    }
}

/// Copies a segment to `offset` of the backing, and leaves the blocks out that are zero there and in the segment.
fn copy_blocks(
    source: Source<'_>,
    segment: &Segment,
    backing: &File,
    offset: u64,
    filled: &mut [bool],
) -> Result<(), BootError> {
    let mut buffer = ZEROS.to_vec();
    let mut done = 0;
    while done < segment.file_size {
        let position = offset + done;
        let block = position / BLOCK_SIZE;
        let len = ((block + 1) * BLOCK_SIZE - position).min(segment.file_size - done);
        let bytes = &mut buffer[..len as usize];
        source.read(bytes, segment.file_offset + done, "a segment")?;
        let filled = &mut filled[block as usize];
        if *filled || *bytes != ZEROS[..len as usize] {
            backing.write_all_at(bytes, position).map_err(BootError::Store)?;
            *filled = true;
        }
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    use super::*;
    use crate::boot::test_support::memory;
    use crate::memory::HugePages;

    fn segment(file_offset: u64, address: u64, file_size: u64) -> Segment {
        Segment {
            file_offset,
            file_size,
            address,
        }
    }

    #[test]
    fn contents_of_every_size_and_placement_arrive_whole() {
        for (size, placement) in [
            (COPIED_UP_TO, Placement::Mapped),
            (COPIED_UP_TO + 1, Placement::Mapped),
            (COPIED_UP_TO + 1, Placement::Copied),
        ] {
            let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
            let content = Content::read(Source::Bytes(&bytes), &[segment(0, 0, size)]).unwrap();
            assert_eq!(matches!(content.backing, Backing::Pages { .. }), size > COPIED_UP_TO);
            let memory = memory(4 << 20);
            content.put(0x20_0000, &memory, placement, "the content").unwrap();
            let mut loaded = vec![0; size as usize + 1];
            memory.read_slice(&mut loaded, GuestAddress(0x20_0000)).unwrap();
            assert_eq!(loaded[..size as usize], bytes);
            assert_eq!(loaded[size as usize], 0);
        }
    }

    #[test]
    fn content_that_reaches_beyond_memory_is_an_error() {
        let end = 4 << 20;
        for size in [COPIED_UP_TO, COPIED_UP_TO + 1] {
            let bytes = vec![1; size as usize];
            let content = Content::read(Source::Bytes(&bytes), &[segment(0, 0, size)]).unwrap();
            for placement in [Placement::Mapped, Placement::Copied] {
                assert!(
                    content
                        .put(end - 0x1000, &memory(end), placement, "the content")
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn copied_content_counts_as_written_by_the_machine() {
        let content = Content::read(Source::Bytes(&[1; 0x2_0000]), &[segment(0, 0, 0x2_0000)]).unwrap();
        let memory = GuestMemory::new(4 << 20, HugePages::Never, true).unwrap();
        content
            .put(0x10_0000, &memory, Placement::Copied, "the content")
            .unwrap();
        let region = memory.find_region(GuestAddress(0)).unwrap();
        assert!(region.bitmap().dirty_at(0x11_f000));
        assert!(!region.bitmap().dirty_at(0x12_0000));
    }

    #[test]
    fn long_runs_of_zeros_take_no_host_memory() {
        let mut bytes = vec![0; 3 << 20];
        bytes[0] = 1;
        bytes[(3 << 20) - 1] = 2;
        let content = Content::read(Source::Bytes(&bytes), &[segment(0, 0, 3 << 20)]).unwrap();
        assert_eq!(content.size(), 2 * BLOCK_SIZE);
        let memory = memory(8 << 20);
        content
            .put(0x10_0000, &memory, Placement::Mapped, "the content")
            .unwrap();
        let mut loaded = vec![9; 3 << 20];
        memory.read_slice(&mut loaded, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(loaded, bytes);
    }

    #[test]
    fn of_overlapping_segments_the_later_one_stands_even_where_it_is_zero() {
        let size = 4 * BLOCK_SIZE;
        let bytes = [vec![7; size as usize], vec![0; size as usize]].concat();
        let segments = [segment(0, 0, size), segment(size, BLOCK_SIZE, BLOCK_SIZE)];
        let content = Content::read(Source::Bytes(&bytes), &segments).unwrap();
        let memory = memory(4 << 20);
        content
            .put(0x10_0000, &memory, Placement::Mapped, "the content")
            .unwrap();
        let byte = |offset| memory.read_obj::<u8>(GuestAddress(0x10_0000 + offset)).unwrap();
        assert_eq!(
            [
                byte(BLOCK_SIZE - 1),
                byte(BLOCK_SIZE),
                byte(2 * BLOCK_SIZE - 1),
                byte(2 * BLOCK_SIZE)
            ],
            [7, 0, 0, 7]
        );
    }

    /// Up to four segments of a mostly empty file, for memory from 1 MiB on.
    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        let one = (0..FILE_SIZE, 0..MEMORY_SIZE, 1..MEMORY_SIZE).prop_map(|(file_offset, address, size)| {
            let size = size.min(FILE_SIZE - file_offset).min(MEMORY_SIZE - address);
            segment(file_offset, address, size)
        });
        proptest::collection::vec(one, 1..5)
    }

    const FILE_SIZE: u64 = 4 << 20;
    const MEMORY_SIZE: u64 = 6 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn content_is_what_the_segments_say(
            segments in segments(),
            written in proptest::collection::vec((0..FILE_SIZE, 1u8..), 0..20),
        ) {
            let mut file = vec![0; FILE_SIZE as usize];
            for (position, byte) in written {
                file[position as usize] = byte;
            }
            let mut expected = vec![0; MEMORY_SIZE as usize];
            for segment in &segments {
                let target = segment.address as usize..(segment.address + segment.file_size) as usize;
                let source = segment.file_offset as usize..(segment.file_offset + segment.file_size) as usize;
                expected[target].copy_from_slice(&file[source]);
            }
            let content = Content::read(Source::Bytes(&file), &segments).unwrap();
            for placement in [Placement::Mapped, Placement::Copied] {
                let memory = memory(8 << 20);
                content.put(1 << 20, &memory, placement, "the content").unwrap();
                let mut loaded = vec![0; MEMORY_SIZE as usize];
                memory.read_slice(&mut loaded, GuestAddress(1 << 20)).unwrap();
                prop_assert!(loaded == expected);
            }
        }
    }
}
