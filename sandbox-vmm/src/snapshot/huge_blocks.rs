//! Files in memory (tmpfs) that are written in huge pages.
//!
//! A file in memory takes its kernel 4,000 instructions for each small page that is written to it, besides the copy:
//! the page is allocated, accounted and entered in the file's index. For 2 MiB at once it does so once (`MADV_COLLAPSE`,
//! Linux 6.1 and newer). Elsewhere, and where the host has no huge page left, nothing happens and nothing is lost.
//!
//! The file is mapped for this, but nobody reads or writes by the mapping: whoever shortens the file meanwhile makes the
//! next write of it longer again, and kills no process.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use crate::memory::HUGE_PAGE_SIZE;
use crate::memory::extent::Extent;

/// What becomes one page, in bytes.
const BLOCK: u64 = HUGE_PAGE_SIZE as u64;
/// How much of a block must be written at the least: the rest takes memory all the same.
const ENOUGH: u64 = BLOCK / 8 * 7;
/// `MADV_COLLAPSE`.
const COLLAPSE: libc::c_int = 25;

/// Makes huge pages where `stored`, which is in order, fills most of them; it will be written to `file`, which has
/// `length` bytes, from `start` on. A host that does not do this is no error.
pub(super) fn prepare(file: &File, length: u64, stored: &[Extent], start: u64) -> io::Result<()> {
    let blocks = dense_blocks(stored, start);
    if blocks.is_empty() || !is_in_memory(file) {
        return Ok(());
    }
    let Some(view) = View::new(file, length) else {
        return Ok(());
    };
    for block in blocks.into_iter().filter(|block| block + BLOCK <= length) {
        // A block with nothing in it counts as cut off. Its end is written later than this, if ever.
        file.write_all_at(&[0], block + BLOCK - 1)?;
        view.collapse(block);
    }
    Ok(())
}

/// Where the blocks of the file begin that are filled enough.
fn dense_blocks(stored: &[Extent], start: u64) -> Vec<u64> {
    let mut dense = Vec::new();
    // The block that is being counted, and how much of it is stored.
    let (mut block, mut filled) = (0, 0);
    for extent in stored {
        let (mut from, end) = (start + extent.offset, start + extent.end());
        while from < end {
            let here = from - from % BLOCK;
            if here != block {
                (block, filled) = (here, 0);
            }
            let to = end.min(here + BLOCK);
            let before = filled;
            filled += to - from;
            if before < ENOUGH && filled >= ENOUGH {
                dense.push(here);
            }
            from = to;
        }
    }
    dense
}

fn is_in_memory(file: &File) -> bool {
    let mut status = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel writes the structure, which was zeroed before.
    let (result, status) = unsafe {
        (
            libc::fstatfs(file.as_raw_fd(), status.as_mut_ptr()),
            status.assume_init(),
        )
    };
    result == 0 && status.f_type == libc::TMPFS_MAGIC
}

/// The file as memory that nobody touches, so that the kernel can be spoken to of it.
struct View {
    reservation: NonNull<libc::c_void>,
    reserved: usize,
    /// How far the file's first byte is from the reservation's.
    padding: usize,
}

impl View {
    /// `None` where there is no room for it.
    fn new(file: &File, length: u64) -> Option<Self> {
        let length = usize::try_from(length).ok()?;
        let reserved = length.checked_add(HUGE_PAGE_SIZE)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let view = Self {
            reservation: NonNull::new(address)?,
            reserved,
            padding: address.cast::<u8>().align_offset(HUGE_PAGE_SIZE),
        };
        // SAFETY: the padding is less than a huge page, so that the file lies within the reservation, which it replaces
        // there and which nobody else knows.
        let mapped = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            libc::mmap(view.at(0), length, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        (mapped != libc::MAP_FAILED).then_some(view)
    }

    fn at(&self, offset: usize) -> *mut libc::c_void {
        self.reservation.as_ptr().wrapping_byte_add(self.padding + offset)
    }

    /// Has the kernel make one page of the block, which lies within the file. Linux 6.1 says that it failed where it did
    /// not, and goes on with no other block behind it: so each is asked for by itself, and what comes of it by nobody.
    fn collapse(&self, block: u64) {
        // SAFETY: the range lies within this mapping; the call changes no content, and the mapping is never looked at.
        unsafe { libc::madvise(self.at(block as usize), HUGE_PAGE_SIZE, COLLAPSE) };
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the reservation was made by this value, and nobody else knows it.
        unsafe { libc::munmap(self.reservation.as_ptr(), self.reserved) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(runs: &[(u64, u64)]) -> Vec<Extent> {
        let extent = |(first, count): &(u64, u64)| Extent {
            offset: first * 4096,
            len: count * 4096,
        };
        runs.iter().map(extent).collect()
    }

    #[test]
    fn blocks_that_are_nearly_full_are_found_however_they_are_filled() {
        let dense = |runs: &[(u64, u64)]| -> Vec<u64> { dense_blocks(&pages(runs), 4096) };
        let none: [u64; 0] = [];
        assert_eq!(dense(&[]), none);
        assert_eq!(dense(&[(0, 447)]), none);
        assert_eq!(dense(&[(0, 448)]), [0]);
        assert_eq!(dense(&[(511, 512)]), [BLOCK]);
        assert_eq!(dense(&[(100, 2000)]), [BLOCK, 2 * BLOCK, 3 * BLOCK]);
        assert_eq!(dense(&[(512, 200), (720, 250), (1200, 10)]), [BLOCK]);
        assert_eq!(dense(&[(600, 200), (1200, 300)]), none);
    }

    #[test]
    fn what_is_written_is_the_same_with_and_without() {
        let file = crate::memory::sealed::create(c"test", 4096 + 4 * BLOCK).unwrap();
        file.write_all_at(b"header", 0).unwrap();
        let stored = pages(&[(3, 1500), (1600, 1)]);
        prepare(&file, 4096 + 4 * BLOCK, &stored, 4096).unwrap();
        let mut before = vec![0; 4096 + 4 * HUGE_PAGE_SIZE];
        file.read_exact_at(&mut before, 0).unwrap();
        assert_eq!(&before[..6], b"header");
        assert!(before[6..].iter().all(|byte| *byte == 0));
        assert_eq!(file.metadata().unwrap().len(), 4096 + 4 * BLOCK);
    }
}
