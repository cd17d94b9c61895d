//! Which pages of guest memory a stored file fills, and where it keeps them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::boot::image::Segment;
use crate::memory::layout::PAGE_SIZE;

/// Zero bytes are looked for in blocks of this size.
pub(super) const BLOCK_SIZE: u64 = 64 << 10;
/// Shorter runs of zero blocks are kept: a further mapping costs more than they do.
const SHORTEST_HOLE: u64 = 1 << 20;

/// A range of guest memory and where its bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Address in guest memory.
    pub(super) address: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Offset into the backing.
    pub(super) offset: u64,
}

/// The pages that the segments fill, lowest first, packed one behind the other. Segments that share or touch a page
/// make one extent, hence one mapping.
pub(super) fn page_extents(segments: &[Segment]) -> Vec<Extent> {
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
pub(super) fn backing_offset(extents: &[Extent], address: u64) -> u64 {
    extents
        .iter()
        .find(|extent| (extent.address..extent.address + extent.len).contains(&address))
        .map_or(0, |extent| extent.offset + (address - extent.address))
}

/// The extents without the long runs of blocks that nothing was written to: fresh guest memory is zero by itself, and
/// the guest's first write to it needs no copy. `filled` tells of each block of the backing whether it was written.
pub(super) fn without_holes(extents: &[Extent], filled: &[bool]) -> Vec<Extent> {
    let holes = holes(filled);
    let mut kept = Vec::with_capacity(extents.len() + holes.len());
    for extent in extents {
        let end = extent.offset + extent.len;
        let mut keep = |range: Range<u64>| {
            if !range.is_empty() {
                kept.push(Extent {
                    address: extent.address + (range.start - extent.offset),
                    len: range.end - range.start,
                    offset: range.start,
                });
            }
        };
        let mut start = extent.offset;
        for hole in &holes {
            keep(start..hole.start.min(end));
            start = start.max(hole.end);
        }
        keep(start..end);
    }
    kept
}

/// The long runs of unwritten blocks, in bytes of the backing.
fn holes(filled: &[bool]) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut start = 0;
    for run in filled.chunk_by(|first, second| first == second) {
        let end = start + run.len() as u64 * BLOCK_SIZE;
        if !run[0] && end - start >= SHORTEST_HOLE {
            holes.push(start..end);
        }
        start = end;
    }
    holes
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

    fn extent(address: u64, len: u64, offset: u64) -> Extent {
        Extent { address, len, offset }
    }

    #[test]
    fn segments_that_touch_a_common_page_share_an_extent() {
        let extents = page_extents(&[
            segment(0x30_0800, 0x1000),
            segment(0x10_0010, 0x1ff0),
            segment(0x10_2000, 1),
        ]);
        assert_eq!(
            extents,
            [extent(0x10_0000, 0x3000, 0), extent(0x30_0000, 0x2000, 0x3000)]
        );
        assert_eq!(backing_offset(&extents, 0x10_0010), 0x10);
        assert_eq!(backing_offset(&extents, 0x30_0800), 0x3800);
    }

    #[test]
    fn only_long_runs_of_zero_blocks_are_left_out() {
        let mut filled = vec![true; 64];
        filled[4..8].fill(false);
        filled[16..48].fill(false);
        let whole = extent(0x100_0000, 64 * BLOCK_SIZE, 0);
        let expected = [
            extent(0x100_0000, 16 * BLOCK_SIZE, 0),
            extent(0x100_0000 + 48 * BLOCK_SIZE, 16 * BLOCK_SIZE, 48 * BLOCK_SIZE),
        ];
        assert_eq!(without_holes(&[whole], &filled), expected);
    }

    #[test]
    fn a_hole_across_two_extents_shortens_both() {
        let mut filled = vec![true; 40];
        filled[10..30].fill(false);
        let first = extent(0x100_0000, 20 * BLOCK_SIZE, 0);
        let second = extent(0x800_0000, 20 * BLOCK_SIZE - 0x1000, 20 * BLOCK_SIZE);
        let expected = [
            extent(0x100_0000, 10 * BLOCK_SIZE, 0),
            extent(0x800_0000 + 10 * BLOCK_SIZE, 10 * BLOCK_SIZE - 0x1000, 30 * BLOCK_SIZE),
        ];
        assert_eq!(without_holes(&[first, second], &filled), expected);
    }

    #[test]
    fn nothing_remains_of_zeros_alone() {
        let whole = extent(0x100_0000, 32 * BLOCK_SIZE - 0x1000, 0);
        assert_eq!(without_holes(&[whole], &[false; 32]), []);
    }
}
