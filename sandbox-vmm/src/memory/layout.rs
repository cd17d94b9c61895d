//! The guest-physical address map, x86_64.
//!
//! ```text
//! 0x0000_0500  GDT for the boot processor
//! 0x0000_7000  boot_params ("zero page") or hvm_start_info
//! 0x0000_8ff0  first stack pointer
//! 0x0000_9000  page tables: PML4, PDPT, PD (3 pages)
//! 0x0002_0000  command line
//! 0x0009_fc00  end of conventional memory (EBDA: nothing is put there)
//! 0x000e_0000  ACPI tables, found by the RSDP scan of 0xe0000-0xfffff
//! 0x0010_0000  start of extended memory: kernels load here or above
//! 0xc000_0000  32-bit gap: no RAM up to 4 GiB
//! 0xd000_0000  virtio-mmio windows, 4 KiB each
//! 0xfec0_0000  IOAPIC
//! 0xfee0_0000  local APIC
//! 0x1_0000_0000 the RAM that did not fit below the gap
//! ```
//!
//! The low layout is the one that every guest family was seen to accept: it leaves page 0 and pages 1 and 2 alone
//! (some guests unmap the first, some overwrite the others) and lies wholly within the first e820 entry.

/// A page, and the unit of every region's alignment, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Global descriptor table of the boot processor.
pub const GDT_START: u64 = 0x500;
/// `boot_params` of the Linux boot protocol, or `hvm_start_info` of PVH.
pub const BOOT_PARAMS_START: u64 = 0x7000;
/// Initial stack pointer: PVH guests that `call` before they set one need it valid.
pub const BOOT_STACK_POINTER: u64 = 0x8ff0;
/// Page-map level 4 of the 64-bit boot protocol.
pub const PML4_START: u64 = 0x9000;
/// Page-directory-pointer table.
pub const PDPT_START: u64 = 0xa000;
/// Page directory: 512 pages of 2 MiB, the first GiB mapped to itself.
pub const PD_START: u64 = 0xb000;
/// PVH memory map and module list, behind `hvm_start_info`'s own page tables' place.
pub const PVH_TABLES_START: u64 = 0xc000;
/// Command line, NUL-terminated.
pub const CMDLINE_START: u64 = 0x2_0000;
/// Room for the command line including its NUL, in bytes (the largest `cmdline_size` a kernel can state fits).
pub const CMDLINE_MAX_SIZE: u64 = 0x1_0000;
/// End of conventional memory: the top KiB below 640 KiB belongs to the EBDA.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where the RSDP lies, inside the BIOS area that ACPI 6.5 §5.2.5.1 has searched.
pub const RSDP_START: u64 = 0xe_0000;
/// The other ACPI tables follow the RSDP.
pub const ACPI_TABLES_START: u64 = 0xe_1000;
/// End of the BIOS area.
pub const BIOS_AREA_END: u64 = 0x10_0000;
/// Start of extended memory.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// First address of the 32-bit gap.
pub const GAP_START: u64 = 0xc000_0000;
/// First address behind the 32-bit gap.
pub const GAP_END: u64 = 0x1_0000_0000;
/// First virtio-mmio window.
pub const MMIO_START: u64 = 0xd000_0000;
/// Size of one virtio-mmio window, in bytes.
pub const MMIO_WINDOW_SIZE: u64 = 0x1000;
/// IOAPIC registers (in the kernel).
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Local APIC registers (in the kernel).
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// Three pages that KVM on Intel hosts keeps its task state segment in (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS_START: u64 = 0xfffb_d000;
/// One page that KVM on Intel hosts keeps its identity map in (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP_START: u64 = 0xfffb_c000;

/// One range of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl RamRange {
    /// First address behind the range.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The RAM ranges of a guest with `size` bytes: one below the 32-bit gap, and a second above it when one is not enough.
pub fn ram_ranges(size: u64) -> Vec<RamRange> {
    let low = RamRange {
        start: 0,
        len: size.min(GAP_START),
    };
    match size - low.len {
        0 => vec![low],
        rest => vec![
            low,
            RamRange {
                start: GAP_END,
                len: rest,
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_up_to_the_gap_is_one_range() {
        let whole_gap = RamRange {
            start: 0,
            len: GAP_START,
        };
        assert_eq!(ram_ranges(GAP_START), vec![whole_gap]);
    }

    #[test]
    fn memory_beyond_the_gap_continues_at_four_gib() {
        let ranges = ram_ranges(5 << 30);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].end(), GAP_START);
        assert_eq!(ranges[1].start, GAP_END);
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), 5 << 30);
    }
}
