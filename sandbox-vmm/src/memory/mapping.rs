//! The host mapping behind a guest's memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::HugePages;
use super::extent::{self, Extent};
use super::fill::{self, Fill};
use super::layout::PAGE_SIZE;
use super::zero::ZeroTest;

/// Host addresses are aligned to this, so that guest and host huge pages coincide, in bytes.
pub const HUGE_PAGE_SIZE: usize = 2 << 20;

/// This process's page map, for one that cannot open it when it needs it.
static PAGEMAP: OnceLock<File> = OnceLock::new();

/// Opens `/proc/self/pagemap` for good, before this process loses sight of it.
///
/// # Errors
/// There is no `/proc`.
pub fn keep_pagemap_open() -> io::Result<()> {
    let _ = PAGEMAP.set(File::open("/proc/self/pagemap")?);
    Ok(())
}

/// An owned, readable and writable private mapping, aligned to 2 MiB when it is at least that large.
#[derive(Debug)]
pub struct HostMapping {
    /// What mmap returned, and what munmap must be given.
    pub(super) reservation: NonNull<u8>,
    pub(super) reservation_len: usize,
    /// The aligned part that is used.
    pub(super) start: NonNull<u8>,
    pub(super) len: usize,
    pub(super) huge_pages: HugePages,
    /// Where files lie over the anonymous pages.
    pub(super) overlays: Mutex<Overlays>,
}

#[derive(Debug, Default)]
pub(super) struct Overlays {
    pub(super) extents: Vec<Extent>,
    /// Everything was replaced once; what was to come into the mapping before that must not come any more.
    pub(super) cleared: bool,
}

// SAFETY: the mapping is plain memory owned by this value; whoever reads or writes through the pointer does so with
// the care that memory shared with a running guest needs anyway (volatile accesses by vm-memory).
unsafe impl Send for HostMapping {}
// SAFETY: as above; the value itself is never changed after creation.
unsafe impl Sync for HostMapping {}

impl HostMapping {
    /// Reserves `len` bytes of zero pages; none of them is backed before it is touched.
    pub fn anonymous(len: u64, huge_pages: HugePages) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::ENOMEM);
        let len = usize::try_from(len).map_err(|_| too_large())?;
        let slack = if len >= HUGE_PAGE_SIZE { HUGE_PAGE_SIZE } else { 0 };
        let reservation_len = len.checked_add(slack).ok_or_else(too_large)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reservation_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reservation = NonNull::new(address.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let padding = match slack {
            0 => 0,
            _ => reservation.as_ptr().align_offset(HUGE_PAGE_SIZE),
        };
        // SAFETY: `padding` is below `slack`, so the result stays inside the reservation.
        let start = unsafe { reservation.add(padding) };
        let mapping = Self {
            reservation,
            reservation_len,
            start,
            len,
            huge_pages,
            overlays: Mutex::default(),
        };
        mapping.advise()?;
        Ok(mapping)
    }

    /// Where the mapping starts in this process.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of it.
    pub(super) fn whole(&self) -> Extent {
        Extent {
            offset: 0,
            len: self.len as u64,
        }
    }

    /// True for a mapping of no bytes, which cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Replaces the pages `[offset, offset + len)` by a private view of `file` from `file_offset`; all three are
    /// multiples of the page size. Writes stay private to this mapping.
    ///
    /// `file` must never be shortened while the mapping lives (a sealed memfd): reading a page behind its end would
    /// kill the process with SIGBUS.
    pub fn overlay_file(&self, offset: u64, len: u64, file: BorrowedFd<'_>, file_offset: u64) -> io::Result<()> {
        self.check(offset, len)?;
        if !file_offset.is_multiple_of(PAGE_SIZE) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the range was checked to lie inside this mapping, which is private memory of the guest; MAP_FIXED
        // replaces exactly that range. No Rust reference into guest memory exists (vm-memory uses raw accesses).
        let address = unsafe {
            libc::mmap(
                self.as_ptr().add(offset as usize).cast(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                file_offset as libc::off_t,
            )
        };
        match address {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => {
                self.note_content(&[Extent { offset, len }]);
                Ok(())
            }
        }
    }

    /// Where there is content that nobody needs to have touched: files lie over the anonymous pages, or pages come when
    /// they are asked for.
    pub fn overlays(&self) -> Vec<Extent> {
        self.lock_overlays().extents.clone()
    }

    /// Has these pages count as content though nobody has touched them: they come when they are.
    pub fn note_content(&self, extents: &[Extent]) {
        let mut overlays = self.lock_overlays();
        overlays.extents = extent::union(&overlays.extents, extents);
    }

    fn lock_overlays(&self) -> MutexGuard<'_, Overlays> {
        self.overlays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the pages of `source`, which has zero pages afterwards, to `offset`, a multiple of the huge page's size.
    /// For whoever looks it happens at once. Nothing happens to a mapping that was cleared.
    pub fn take_pages(&self, offset: u64, source: &HostMapping) -> io::Result<()> {
        self.check(offset, source.len as u64)?;
        let overlays = self.lock_overlays();
        if overlays.cleared {
            return Ok(());
        }
        // SAFETY: both ranges belong to these mappings, the target as was checked; the source stays mapped, and what the
        // target had is replaced. No Rust reference into either exists.
        let address = unsafe {
            libc::mremap(
                source.as_ptr().cast(),
                source.len,
                source.len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
                self.as_ptr().add(offset as usize),
            )
        };
        drop(overlays);
        match address {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Has these pages be small ones, whatever the rest is; a hint.
    pub fn advise_small_pages(&self, extent: Extent) -> io::Result<()> {
        self.check(extent.offset, extent.len)?;
        // SAFETY: the range was checked to lie inside this mapping; the advice changes no content, and may be refused.
        unsafe {
            let start = self.as_ptr().add(extent.offset as usize);
            libc::madvise(start.cast(), extent.len as usize, libc::MADV_NOHUGEPAGE);
        }
        Ok(())
    }

    /// Replaces everything by fresh zero pages.
    pub fn clear(&self) -> io::Result<()> {
        let mut overlays = self.lock_overlays();
        // SAFETY: the range is this mapping's own; MAP_FIXED replaces exactly that. No Rust reference into guest memory
        // exists (vm-memory uses raw accesses).
        let address = unsafe {
            libc::mmap(
                self.as_ptr().cast(),
                self.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        overlays.extents.clear();
        overlays.cleared = true;
        drop(overlays);
        self.advise()
    }

    /// Writes pages of guest memory to `file` from `position` on.
    pub fn write_to_file(&self, extent: Extent, file: &File, position: u64) -> io::Result<()> {
        self.check(extent.offset, extent.len)?;
        let mut done = 0;
        while done < extent.len {
            // SAFETY: the range was checked to lie inside this mapping; the kernel copies from it.
            let count = unsafe {
                libc::pwrite(
                    file.as_raw_fd(),
                    self.as_ptr().add((extent.offset + done) as usize).cast(),
                    (extent.len - done) as usize,
                    (position + done) as libc::off_t,
                )
            };
            done += transferred(count, io::ErrorKind::WriteZero)?;
        }
        Ok(())
    }

    /// Fills pages of guest memory, as their content from the start: dirty tracking does not see it.
    pub fn fill(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len() as u64)?;
        // SAFETY: the range was checked to lie inside this mapping, to which no Rust reference exists, so that the two
        // do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_ptr().add(offset as usize), bytes.len()) };
        Ok(())
    }

    /// What is left of `extents` without the pages that are zero throughout. Nothing may write to them meanwhile.
    pub fn without_zero_pages(&self, extents: &[Extent]) -> Vec<Extent> {
        let test = ZeroTest::new();
        let mut left = Vec::new();
        for extent in extents {
            if self.check(extent.offset, extent.len).is_err() {
                continue;
            }
            for offset in (extent.offset..extent.end()).step_by(PAGE_SIZE as usize) {
                // SAFETY: the page was checked to lie inside this mapping, which is readable and starts at a page.
                if !unsafe { test.is_zero(self.start.add(offset as usize)) } {
                    extent::push_page(&mut left, offset);
                }
            }
        }
        left
    }

    /// The pages of `extents`, which are in order, that are of several words, and those that are one word over and over,
    /// the zero ones left out. Nothing may write to them meanwhile.
    pub fn sort_pages(&self, extents: &[Extent]) -> (Vec<Extent>, Vec<Fill>) {
        let test = ZeroTest::new();
        let (mut mixed, mut fills) = (Vec::new(), Vec::new());
        for extent in extents {
            if self.check(extent.offset, extent.len).is_err() {
                continue;
            }
            for offset in (extent.offset..extent.end()).step_by(PAGE_SIZE as usize) {
                // SAFETY: the page was checked to lie inside this mapping, which is readable and starts at a page.
                match unsafe { test.word(self.start.add(offset as usize)) } {
                    Some(0) => {}
                    Some(word) => fill::push_page(&mut fills, offset, word),
                    None => extent::push_page(&mut mixed, offset),
                }
            }
        }
        (mixed, fills)
    }

    /// Whether a range of whole pages lies inside.
    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len as u64);
        match end.is_some() && (offset | len).is_multiple_of(PAGE_SIZE) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// Gives the pages `[offset, offset + len)` back to the host; both are multiples of the page size. Their content is
    /// lost: they read as zero afterwards, or as the file that was laid over them, and take no memory until they are
    /// touched again.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        // SAFETY: the range was checked to lie inside this mapping. The memory stays mapped, and no Rust reference into
        // guest memory exists that could see it change.
        let result = unsafe {
            let start = self.as_ptr().add(offset as usize);
            libc::madvise(start.cast(), len as usize, libc::MADV_DONTNEED)
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many bytes of the mapping are backed by host memory now, swapped-out pages included.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let mut backed = 0;
        let ranges = self.touched_ranges()?;
        self.for_each_page(&ranges, |_, page| {
            backed += u64::from(page & (PAGE_PRESENT | PAGE_SWAPPED) != 0)
        })?;
        Ok(backed * PAGE_SIZE)
    }

    /// The pages that are this mapping's own: written, or at least touched where no file lies over them. Nothing may
    /// touch it meanwhile.
    pub fn private_pages(&self) -> io::Result<Vec<Extent>> {
        let mut private = Vec::new();
        let ranges = self.touched_ranges()?;
        self.for_each_page(&ranges, |offset, page| {
            let own = page & PAGE_SWAPPED != 0 || page & (PAGE_PRESENT | PAGE_OF_FILE) == PAGE_PRESENT;
            if own {
                extent::push_page(&mut private, offset);
            }
        })?;
        Ok(private)
    }

    /// Gives what `/proc/self/pagemap` says of each page of `ranges`, which lie within, with the page's offset.
    fn for_each_page(&self, ranges: &[Extent], mut look: impl FnMut(u64, u64)) -> io::Result<()> {
        /// It has one of these per page.
        const ENTRY_SIZE: usize = 8;
        let pagemap = match PAGEMAP.get() {
            Some(pagemap) => pagemap,
            None => &File::open("/proc/self/pagemap")?,
        };
        let mut entries = vec![0; 4096 * ENTRY_SIZE];
        let first = self.as_ptr() as u64 / PAGE_SIZE;
        for range in ranges {
            let mut offset = range.offset;
            while offset < range.end() {
                let pages = (range.end() - offset) / PAGE_SIZE;
                let size = (pages as usize * ENTRY_SIZE).min(entries.len());
                let position = (first + offset / PAGE_SIZE) * ENTRY_SIZE as u64;
                pagemap.read_exact_at(&mut entries[..size], position)?;
                for word in entries[..size].as_chunks::<ENTRY_SIZE>().0 {
                    look(offset, u64::from_le_bytes(*word));
                    offset += PAGE_SIZE;
                }
            }
        }
        Ok(())
    }

    fn advise(&self) -> io::Result<()> {
        self.advise_range(0, self.len)
    }

    /// Says how the host may back `len` bytes from `offset` on, which are anonymous memory.
    pub(super) fn advise_range(&self, offset: usize, len: usize) -> io::Result<()> {
        let advice = match self.huge_pages {
            HugePages::Never => libc::MADV_NOHUGEPAGE,
            HugePages::Transparent => libc::MADV_HUGEPAGE,
        };
        // SAFETY: the range is this mapping's own; the advice changes no content.
        let result = unsafe { libc::madvise(self.as_ptr().add(offset).cast(), len, advice) };
        match (result, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            // A kernel without transparent huge pages has nothing to be advised of.
            (_, error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            (_, error) => Err(error),
        }
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: the reservation was made by this value and nothing uses it any more.
        unsafe { libc::munmap(self.reservation.as_ptr().cast(), self.reservation_len) };
    }
}

/// Bits of an entry of `/proc/self/pagemap` (kernel documentation, admin-guide/mm/pagemap.rst).
const PAGE_PRESENT: u64 = 1 << 63;
const PAGE_SWAPPED: u64 = 1 << 62;
const PAGE_OF_FILE: u64 = 1 << 61;

/// What a read or write returned: bytes, or an error. None at all would go on for ever, and is `nothing`.
fn transferred(count: isize, nothing: io::ErrorKind) -> io::Result<u64> {
    match u64::try_from(count) {
        Ok(0) => Err(nothing.into()),
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}
