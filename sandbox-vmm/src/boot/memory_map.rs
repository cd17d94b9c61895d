//! The memory map that a guest is told of.

use linux_loader::loader::bootparam::boot_e820_entry;

use crate::memory::GuestMemory;
use crate::memory::layout::{BIOS_AREA_END, CONVENTIONAL_END, HIGH_MEMORY_START, RSDP_START};

/// Type of an e820 entry, and of a PVH memory map entry: usable RAM.
const RAM: u32 = 1;
/// Likewise: not to be used.
const RESERVED: u32 = 2;
/// End of the extended BIOS data area.
const EBDA_END: u64 = 0xa_0000;

/// Which ranges the memory map lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMap {
    /// RAM alone: some small kernels count every entry as memory.
    RamOnly,
    /// RAM, and the extended BIOS data area and the BIOS area as reserved.
    RamAndReserved,
    /// RAM alone, except `start..end`, which is not listed at all: some kernels take every range that is listed, and what
    /// their loader still has in use with it.
    RamBeside {
        /// First address that is left out.
        start: u64,
        /// First one behind it that is not.
        end: u64,
    },
}

impl MemoryMap {
    /// The entries, lowest first.
    pub(super) fn entries(self, memory: &GuestMemory) -> Vec<boot_e820_entry> {
        let mut entries = Vec::with_capacity(5);
        let mut push = |start: u64, end: u64, r#type: u32| {
            if start < end {
                entries.push(boot_e820_entry {
                    addr: start,
                    size: end - start,
                    r#type,
                });
            }
        };
        push(0, CONVENTIONAL_END, RAM);
        if self == Self::RamAndReserved {
            push(CONVENTIONAL_END, EBDA_END, RESERVED);
            push(RSDP_START, BIOS_AREA_END, RESERVED);
        }
        for range in memory.ranges() {
            let (start, end) = (range.start.max(HIGH_MEMORY_START), range.end());
            match self {
                Self::RamBeside {
                    start: hole,
                    end: behind,
                } => {
                    push(start, end.min(hole), RAM);
                    push(start.max(behind), end, RAM);
                }
                _ => push(start, end, RAM),
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::test_support::memory;

    fn entries(map: MemoryMap, size: u64) -> Vec<(u64, u64, u32)> {
        let entries = map.entries(&memory(size));
        entries
            .into_iter()
            .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
            .collect()
    }

    #[test]
    fn the_bios_area_and_the_gap_are_no_ram() {
        let expected = [
            (0, 0x9_fc00, RAM),
            (0x10_0000, 0xc000_0000, RAM),
            (0x1_0000_0000, 0x1_8000_0000, RAM),
        ];
        assert_eq!(entries(MemoryMap::RamOnly, 5 << 30), expected);
    }

    #[test]
    fn what_is_left_out_is_in_no_entry() {
        let beside = |start, end| entries(MemoryMap::RamBeside { start, end }, 16 << 20);
        let low = (0, 0x9_fc00, RAM);
        assert_eq!(
            beside(0x20_0000, 0x40_0000),
            [low, (0x10_0000, 0x20_0000, RAM), (0x40_0000, 0x100_0000, RAM)]
        );
        assert_eq!(beside(0x10_0000, 0x20_0000), [low, (0x20_0000, 0x100_0000, RAM)]);
        assert_eq!(beside(0x20_0000, 0x200_0000), [low, (0x10_0000, 0x20_0000, RAM)]);
    }

    #[test]
    fn reserved_areas_are_listed_in_order_when_asked_for() {
        let expected = [
            (0, 0x9_fc00, RAM),
            (0x9_fc00, 0xa_0000, RESERVED),
            (0xe_0000, 0x10_0000, RESERVED),
            (0x10_0000, 0x20_0000, RAM),
        ];
        assert_eq!(entries(MemoryMap::RamAndReserved, 2 << 20), expected);
    }
}
