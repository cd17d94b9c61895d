//! Guest memory: one private mapping per guest, cut into vm-memory regions.

pub mod extent;
pub mod fault_server;
pub mod fill;
pub mod image;
pub mod layout;
mod mapping;
mod pieces;
pub(crate) mod sealed;
mod touched;
pub mod userfault;
mod zero;

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use extent::Extent;
use image::MemoryImage;
use layout::{PAGE_SIZE, RamRange};
pub use mapping::{HUGE_PAGE_SIZE, HostMapping, keep_pagemap_open};

/// vm-memory's view of guest RAM. The bitmap, where there is one, logs the pages that our own devices wrote, which
/// KVM's dirty log does not see.
pub type GuestRam = GuestMemoryMmap<Option<AtomicBitmap>>;

/// Errors of setting guest memory up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has no room for the mapping.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// vm-memory refused a region.
    #[error("cannot describe the guest memory at {start:#x}")]
    Region {
        /// Guest-physical start of the region.
        start: u64,
        /// What was wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How the host may back guest pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HugePages {
    /// Small pages only: a small guest's memory is not inflated to 2 MiB steps.
    Never,
    /// Transparent huge pages: fewer nested page faults for guests that touch most of their memory.
    Transparent,
}

/// A guest's RAM, shared by everything that reads or writes it; unmapped when the last holder lets go.
#[derive(Clone, Debug)]
pub struct GuestMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Declared before the mapping that the regions point into, so that they go first.
    ram: GuestRam,
    mapping: HostMapping,
    ranges: Vec<RamRange>,
    /// What it was made from, or was frozen as the last time.
    image: Mutex<Option<Arc<MemoryImage>>>,
}

impl GuestMemory {
    /// Maps `size` bytes (a multiple of the page size) in the ranges of [`layout::ram_ranges`]. Pages are zero and take
    /// no host memory before they are touched. With `track_dirty`, device writes are logged per page.
    pub fn new(size: u64, huge_pages: HugePages, track_dirty: bool) -> Result<Self, MemoryError> {
        let mapping = HostMapping::anonymous(size, huge_pages).map_err(|source| MemoryError::Map { size, source })?;
        Self::over(mapping, track_dirty)
    }

    /// The same with the content of `image`: a page is the guest's own from the first write on.
    pub fn of_image(
        size: u64,
        huge_pages: HugePages,
        track_dirty: bool,
        image: &Arc<MemoryImage>,
    ) -> Result<Self, MemoryError> {
        let mapping = HostMapping::of_pieces(size, huge_pages, &image.pieces());
        let mapping = mapping.map_err(|source| MemoryError::Map { size, source })?;
        let memory = Self::over(mapping, track_dirty)?;
        memory.set_image(image);
        Ok(memory)
    }

    fn over(mapping: HostMapping, track_dirty: bool) -> Result<Self, MemoryError> {
        let size = mapping.len() as u64;
        let ranges = layout::ram_ranges(size);
        let mut regions = Vec::with_capacity(ranges.len());
        let mut offset = 0;
        for range in &ranges {
            regions.push(region(&mapping, offset, *range, track_dirty)?);
            offset += range.len;
        }
        let ram = GuestRam::from_regions(regions).map_err(|source| MemoryError::Region {
            start: 0,
            source: source.into(),
        })?;
        Ok(Self(Arc::new(Inner {
            ram,
            mapping,
            ranges,
            image: Mutex::new(None),
        })))
    }

    /// Gives memory that is all zero the content of `image`: a page is the guest's own from the first write on.
    pub fn lay_over(&self, image: &Arc<MemoryImage>) -> Result<(), MemoryError> {
        let size = self.size();
        image
            .lay_over(self.mapping())
            .map_err(|source| MemoryError::Map { size, source })?;
        self.set_image(image);
        Ok(())
    }

    /// What it was made from, or was frozen as the last time.
    pub fn image(&self) -> Option<Arc<MemoryImage>> {
        self.0.image.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pages that are this guest's own, beside its image.
    pub fn private_pages(&self) -> io::Result<Vec<Extent>> {
        self.mapping().private_pages()
    }

    /// Where there is content that nobody has touched yet: of the image, or of files that lie over the memory.
    fn untouched_content(&self) -> io::Result<Vec<Extent>> {
        match self.image() {
            Some(image) => image.content(),
            None => Ok(self.mapping().overlays()),
        }
    }

    /// The pages that may have content. Nothing may touch them meanwhile.
    pub fn content(&self) -> io::Result<Vec<Extent>> {
        Ok(extent::union(&self.untouched_content()?, &self.private_pages()?))
    }

    /// Gives the guest's own pages up for the same content in `image`.
    fn rebase(&self, image: &Arc<MemoryImage>) -> io::Result<()> {
        self.mapping().clear()?;
        image.lay_over(self.mapping())?;
        self.set_image(image);
        Ok(())
    }

    fn set_image(&self, image: &Arc<MemoryImage>) {
        *self.0.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(image));
    }

    /// The RAM ranges, lowest first.
    pub fn ranges(&self) -> &[RamRange] {
        &self.0.ranges
    }

    /// The host mapping that backs all ranges, one behind the other.
    pub fn mapping(&self) -> &HostMapping {
        &self.0.mapping
    }

    /// Total size in bytes.
    pub fn size(&self) -> u64 {
        self.0.ranges.iter().map(|range| range.len).sum()
    }

    /// Offset into the host mapping of a guest-physical range that lies wholly within one RAM range.
    pub fn mapping_offset(&self, start: u64, len: u64) -> Option<u64> {
        let mut offset = 0;
        for range in &self.0.ranges {
            if start >= range.start && start.checked_add(len)? <= range.end() {
                return Some(offset + (start - range.start));
            }
            offset += range.len;
        }
        None
    }
}

impl Deref for GuestMemory {
    type Target = GuestRam;

    fn deref(&self) -> &GuestRam {
        &self.0.ram
    }
}

fn region(
    mapping: &HostMapping,
    offset: u64,
    range: RamRange,
    track_dirty: bool,
) -> Result<GuestRegionMmap<Option<AtomicBitmap>>, MemoryError> {
    let size = range.len as usize;
    let failed = |source| MemoryError::Region {
        start: range.start,
        source,
    };
    let page_size = std::num::NonZeroUsize::MIN.saturating_add(PAGE_SIZE as usize - 1);
    let bitmap = track_dirty.then(|| AtomicBitmap::new(size, page_size));
    let builder = MmapRegionBuilder::new_with_bitmap(size, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: the pointer is `offset` bytes into a mapping of at least `offset + size` bytes that is readable and
    // writable, and `Inner` keeps the mapping for as long as the region.
    let builder = unsafe { builder.with_raw_mmap_pointer(mapping.as_ptr().add(offset as usize)) };
    let region = builder.build().map_err(|source| failed(source.into()))?;
    GuestRegionMmap::new(region, GuestAddress(range.start))
        .ok_or_else(|| failed("its end lies beyond the address space".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    #[test]
    fn both_sides_of_the_gap_are_writable_and_the_gap_is_not() {
        let memory = GuestMemory::new(layout::GAP_START + (1 << 20), HugePages::Never, false).unwrap();
        memory.write_obj(7u64, GuestAddress(0x1000)).unwrap();
        memory.write_obj(8u64, GuestAddress(layout::GAP_END)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 7);
        assert!(memory.write_obj(9u64, GuestAddress(layout::GAP_START)).is_err());
        assert!(memory.check_range(GuestAddress(layout::GAP_END), 1 << 20));
        assert_eq!(
            memory.mapping_offset(layout::GAP_END + 4096, 4096),
            Some(layout::GAP_START + 4096)
        );
        assert_eq!(memory.mapping_offset(layout::GAP_START - 4096, 8192), None);
    }

    #[test]
    fn device_writes_are_logged_when_asked_for() {
        use vm_memory::bitmap::Bitmap;
        use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
        let memory = GuestMemory::new(1 << 20, HugePages::Never, true).unwrap();
        memory.write_obj(1u8, GuestAddress(0x3000)).unwrap();
        let region = memory.find_region(GuestAddress(0)).unwrap();
        assert!(region.bitmap().dirty_at(0x3000));
        assert!(!region.bitmap().dirty_at(0x4000));
    }
}
