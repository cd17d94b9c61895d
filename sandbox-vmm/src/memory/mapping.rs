//! The host mapping behind a guest's memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use super::HugePages;

/// Host addresses are aligned to this, so that guest and host huge pages coincide, in bytes.
const HUGE_PAGE_SIZE: usize = 2 << 20;

/// An owned, readable and writable private mapping, aligned to 2 MiB when it is at least that large.
#[derive(Debug)]
pub struct HostMapping {
    /// What mmap returned, and what munmap must be given.
    reservation: NonNull<u8>,
    reservation_len: usize,
    /// The aligned part that is used.
    start: NonNull<u8>,
    len: usize,
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
        };
        mapping.advise(huge_pages)?;
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
        let end = offset.checked_add(len).filter(|end| *end <= self.len as u64);
        if end.is_none() || !(offset | len | file_offset).is_multiple_of(super::layout::PAGE_SIZE) {
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
            _ => Ok(()),
        }
    }

    /// Gives the pages `[offset, offset + len)` back to the host; both are multiples of the page size. Their content is
    /// lost: they read as zero afterwards, or as the file that was laid over them, and take no memory until they are
    /// touched again.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len as u64);
        if end.is_none() || !(offset | len).is_multiple_of(super::layout::PAGE_SIZE) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
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
        /// `/proc/self/pagemap` has one of these per page.
        const ENTRY_SIZE: usize = 8;
        const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
        let pagemap = File::open("/proc/self/pagemap")?;
        let page_size = super::layout::PAGE_SIZE;
        let mut entries = vec![0; 4096 * ENTRY_SIZE];
        let mut offset = (self.as_ptr() as u64 / page_size) * ENTRY_SIZE as u64;
        let mut left = self.len / page_size as usize * ENTRY_SIZE;
        let mut backed = 0;
        while left > 0 {
            let size = left.min(entries.len());
            pagemap.read_exact_at(&mut entries[..size], offset)?;
            let words = entries[..size].as_chunks::<ENTRY_SIZE>().0;
            backed += words
                .iter()
                .filter(|word| u64::from_le_bytes(**word) & PRESENT_OR_SWAPPED != 0)
                .count() as u64;
            offset += size as u64;
            left -= size;
        }
        Ok(backed * page_size)
    }

    fn advise(&self, huge_pages: HugePages) -> io::Result<()> {
        let advice = match huge_pages {
            HugePages::Never => libc::MADV_NOHUGEPAGE,
            HugePages::Transparent => libc::MADV_HUGEPAGE,
        };
        // SAFETY: the range is this mapping's own; the advice changes no content.
        let result = unsafe { libc::madvise(self.as_ptr().cast(), self.len, advice) };
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
