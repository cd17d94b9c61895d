//! Which pages of a mapping are its own, found without a look at each.
//!
//! `/proc/self/pagemap` says it of every page, touched or not, at some 30 instructions a page: 15 million for a guest of
//! 2 GiB that touched 60 MiB. So the ranges in which nothing was ever touched are found first, by `mincore`, which says
//! it of 2 MiB at a time.

use std::io;
use std::mem::MaybeUninit;

use super::extent::{self, Extent};
use super::layout::PAGE_SIZE;
use super::mapping::HostMapping;

/// What is looked at together: what one page table of the host holds, in bytes.
const BLOCK: u64 = 2 << 20;
const PAGES_PER_BLOCK: usize = (BLOCK / PAGE_SIZE) as usize;
/// Blocks per call of `mincore`, which answers with a byte per page.
const BLOCKS_PER_CALL: usize = 16;

impl HostMapping {
    /// Ranges outside of which no page is this mapping's own. What is touched meanwhile may be missing.
    pub(super) fn touched_ranges(&self) -> io::Result<Vec<Extent>> {
        let all = self.whole();
        // `mincore` does not tell a page that was swapped out from one that was never touched.
        if swap_is_in_use() {
            return Ok(vec![all]);
        }
        // Under files it would look every page up, and there the content stands anyway.
        let files = self.overlays();
        let mut touched = files.clone();
        for gap in extent::complement(&files, all.len) {
            self.touched_blocks(gap, &mut touched)?;
        }
        match swap_is_in_use() {
            true => Ok(vec![all]),
            false => Ok(extent::union(&touched, &[])),
        }
    }

    /// Adds the blocks of `range`, which is anonymous memory, in which a page is there.
    fn touched_blocks(&self, range: Extent, touched: &mut Vec<Extent>) -> io::Result<()> {
        let mut states = [0_u8; BLOCKS_PER_CALL * PAGES_PER_BLOCK];
        let step = states.len() as u64 * PAGE_SIZE;
        let mut offset = range.offset;
        while offset < range.end() {
            let len = step.min(range.end() - offset);
            // SAFETY: the range lies within this mapping, and the kernel writes a byte for each of its pages, of which
            // there are no more than the buffer has.
            let result = unsafe {
                let start = self.as_ptr().add(offset as usize);
                libc::mincore(start.cast(), len as usize, states.as_mut_ptr())
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            let pages = &states[..(len / PAGE_SIZE) as usize];
            for (index, block) in pages.chunks(PAGES_PER_BLOCK).enumerate() {
                if block.iter().fold(0, |any, page| any | page) & 1 != 0 {
                    touched.push(Extent {
                        offset: offset + index as u64 * BLOCK,
                        len: block.len() as u64 * PAGE_SIZE,
                    });
                }
            }
            offset += len;
        }
        Ok(())
    }
}

/// Whether any page of the host is swapped out, or it cannot be said.
fn swap_is_in_use() -> bool {
    let mut info = MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the kernel writes the structure, which was zeroed before.
    let (result, info) = unsafe { (libc::sysinfo(info.as_mut_ptr()), info.assume_init()) };
    result != 0 || info.freeswap != info.totalswap
}

#[cfg(test)]
mod tests {
    use super::super::HugePages;
    use super::*;

    fn touch(mapping: &HostMapping, offset: u64) {
        mapping.fill(offset, &[1; PAGE_SIZE as usize]).unwrap();
    }

    #[test]
    fn every_touched_page_is_found_and_few_blocks_besides() {
        let mapping = HostMapping::anonymous(64 << 20, HugePages::Never).unwrap();
        assert_eq!(mapping.private_pages().unwrap(), []);
        let touched = [
            0,
            BLOCK - PAGE_SIZE,
            5 * BLOCK,
            17 * BLOCK + 3 * PAGE_SIZE,
            (64 << 20) - PAGE_SIZE,
        ];
        for offset in touched {
            touch(&mapping, offset);
        }
        let page = |offset| Extent { offset, len: PAGE_SIZE };
        assert_eq!(mapping.private_pages().unwrap(), touched.map(page));
        if !swap_is_in_use() {
            assert_eq!(extent::total(&mapping.touched_ranges().unwrap()), 4 * BLOCK);
        }
        mapping.discard(5 * BLOCK, PAGE_SIZE).unwrap();
        assert_eq!(mapping.private_pages().unwrap().len(), touched.len() - 1);
    }

    #[test]
    fn an_odd_end_and_an_odd_begin_belong_to_it() {
        let len = 3 * BLOCK + 5 * PAGE_SIZE;
        let mapping = HostMapping::anonymous(len, HugePages::Never).unwrap();
        mapping.note_content(&[Extent {
            offset: 0,
            len: 7 * PAGE_SIZE,
        }]);
        touch(&mapping, len - PAGE_SIZE);
        touch(&mapping, 8 * PAGE_SIZE);
        touch(&mapping, 2 * PAGE_SIZE);
        let found = mapping.private_pages().unwrap();
        let offsets: Vec<u64> = found.iter().map(|extent| extent.offset / PAGE_SIZE).collect();
        assert_eq!(offsets, [2, 8, len / PAGE_SIZE - 1]);
    }
}
