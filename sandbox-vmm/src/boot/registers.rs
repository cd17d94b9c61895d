//! The boot processor's first state: registers as plain data, and the descriptor and page tables that they point to
//! (Intel SDM volume 3, chapters 2 to 4).

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::{Entry, Protocol, hvt};
use crate::memory::GuestMemory;
use crate::memory::layout::{GDT_START, PD_START, PDPT_START, PML4_START};

pub(super) const CR0_PROTECTED_MODE: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
pub(super) const CR0_NUMERIC_ERROR: u64 = 1 << 5;
pub(super) const CR0_WRITE_PROTECT: u64 = 1 << 16;
pub(super) const CR0_PAGING: u64 = 1 << 31;
pub(super) const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
pub(super) const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
pub(super) const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// Bit 1 is always set; interrupts are off.
pub(super) const RFLAGS_RESERVED: u64 = 1 << 1;

/// Page table entry: present and writable.
const PAGE_PRESENT_WRITABLE: u64 = 0b11;
/// Page directory entry: a page of 2 MiB instead of a page table.
pub(super) const PAGE_LARGE: u64 = 1 << 7;
pub(super) const LARGE_PAGE_SIZE: u64 = 2 << 20;
pub(super) const TABLE_ENTRIES: usize = 512;
pub(super) const TABLE_SIZE: usize = 4096;

/// `__BOOT_CS` of the Linux boot protocol.
const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS`.
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Two null descriptors, code, data, and a task state descriptor that is two entries long in 64-bit mode.
const GDT_ENTRIES: usize = 6;
const GDT_SIZE: usize = GDT_ENTRIES * size_of::<u64>();
/// Segment type: code, readable, accessed.
const TYPE_CODE: u8 = 0xb;
/// Segment type: data, writable, accessed.
const TYPE_DATA: u8 = 0x3;
/// System segment type: busy task state segment, without which hardware refuses to enter the guest.
const TYPE_BUSY_TASK: u8 = 0xb;
/// Last byte of a task state segment.
const TASK_LIMIT: u32 = 0x67;

/// x87 control word after `FNINIT`.
const FPU_CONTROL: u16 = 0x37f;
/// MXCSR after reset.
const MXCSR_DEFAULT: u32 = 0x1f80;

/// The page directory: the first GiB in pages of 2 MiB, each mapped to itself.
static PAGE_DIRECTORY: [u8; TABLE_SIZE] = identity_page_directory();

const fn identity_page_directory() -> [u8; TABLE_SIZE] {
    let mut directory = [0; TABLE_SIZE];
    let mut index = 0;
    while index < TABLE_ENTRIES {
        let entry = (index as u64 * LARGE_PAGE_SIZE) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
        let bytes = entry.to_le_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            directory[index * bytes.len() + byte] = bytes[byte];
            byte += 1;
        }
        index += 1;
    }
    directory
}

impl Entry {
    /// The general registers.
    pub fn regs(&self) -> kvm_regs {
        if self.protocol == Protocol::Hvt {
            return hvt::regs(self);
        }
        let mut regs = kvm_regs {
            rip: self.rip,
            rsp: self.rsp,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        };
        match self.protocol {
            Protocol::Linux64 => regs.rsi = self.parameter,
            Protocol::Pvh | Protocol::Hvt => regs.rbx = self.parameter,
        }
        regs
    }

    /// The system registers, from those of a vCPU after reset, whose local APIC base is kept.
    pub fn sregs(&self, reset: &kvm_sregs) -> kvm_sregs {
        if self.protocol == Protocol::Hvt {
            return hvt::sregs(reset);
        }
        let segments = Segments::of(self.protocol);
        let mut sregs = kvm_sregs {
            cs: segments.code,
            ds: segments.data,
            es: segments.data,
            fs: segments.data,
            gs: segments.data,
            ss: segments.data,
            tr: segments.task,
            gdt: kvm_dtable {
                base: GDT_START,
                limit: GDT_SIZE as u16 - 1,
                ..Default::default()
            },
            // Without handlers, the first exception ends in a triple fault, which the machine reports.
            idt: kvm_dtable::default(),
            cr0: CR0_PROTECTED_MODE | CR0_EXTENSION_TYPE,
            cr3: 0,
            cr4: 0,
            efer: 0,
            ..*reset
        };
        if self.protocol == Protocol::Linux64 {
            sregs.cr0 |= CR0_NUMERIC_ERROR | CR0_WRITE_PROTECT | CR0_PAGING;
            sregs.cr3 = PML4_START;
            sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
            sregs.efer = EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
        }
        sregs
    }
}

/// The floating-point state that programs expect.
pub fn fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: FPU_CONTROL,
        mxcsr: MXCSR_DEFAULT,
        ..Default::default()
    }
}

/// Writes the global descriptor table, and for the 64-bit entry the page tables.
pub(super) fn write_tables(memory: &GuestMemory, protocol: Protocol) -> Result<(), BootError> {
    let write = |bytes: &[u8], address, what| {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|source| BootError::GuestMemory { what, source })
    };
    write(
        &Segments::of(protocol).descriptor_table(),
        GDT_START,
        "the descriptor table",
    )?;
    if protocol == Protocol::Linux64 {
        let what = "the page tables";
        write(&(PDPT_START | PAGE_PRESENT_WRITABLE).to_le_bytes(), PML4_START, what)?;
        write(&(PD_START | PAGE_PRESENT_WRITABLE).to_le_bytes(), PDPT_START, what)?;
        write(&PAGE_DIRECTORY, PD_START, what)?;
    }
    Ok(())
}

/// The segments of one protocol: flat, privileged.
pub(super) struct Segments {
    pub(super) code: kvm_segment,
    pub(super) data: kvm_segment,
    pub(super) task: kvm_segment,
}

impl Segments {
    pub(super) fn of(protocol: Protocol) -> Self {
        let long_mode = protocol != Protocol::Pvh;
        let flat = |selector, type_| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Default::default()
        };
        Self {
            code: kvm_segment {
                l: u8::from(long_mode),
                db: u8::from(!long_mode),
                ..flat(CODE_SELECTOR, TYPE_CODE)
            },
            data: flat(DATA_SELECTOR, TYPE_DATA),
            task: kvm_segment {
                limit: TASK_LIMIT,
                selector: TASK_SELECTOR,
                type_: TYPE_BUSY_TASK,
                present: 1,
                ..Default::default()
            },
        }
    }

    /// The table that the selectors index, so that a guest may load them again.
    pub(super) fn descriptor_table(&self) -> [u8; GDT_SIZE] {
        let mut table = [0; GDT_SIZE];
        for segment in [&self.code, &self.data, &self.task] {
            let start = usize::from(segment.selector);
            table[start..start + size_of::<u64>()].copy_from_slice(&descriptor(segment).to_le_bytes());
        }
        table
    }
}

/// A segment as its descriptor in memory (SDM volume 3, §3.4.5); all bases are 0.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = match segment.g {
        0 => u64::from(segment.limit),
        _ => u64::from(segment.limit) >> 12,
    };
    let bit = |value: u8, position: u32| u64::from(value) << position;
    (limit & 0xffff)
        | ((limit >> 16) & 0xf) << 48
        | bit(segment.type_, 40)
        | bit(segment.s, 44)
        | bit(segment.dpl, 45)
        | bit(segment.present, 47)
        | bit(segment.avl, 52)
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::test_support::memory;

    fn entry(protocol: Protocol) -> Entry {
        Entry {
            protocol,
            rip: 0x10_0000,
            rsp: 0x8ff0,
            parameter: 0x7000,
        }
    }

    #[test]
    fn the_64_bit_entry_runs_in_long_mode_with_the_zero_page_in_rsi() {
        let reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            cr0: 0x6000_0010,
            ..Default::default()
        };
        let sregs = entry(Protocol::Linux64).sregs(&reset);
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4), (0x8001_0031, 0x9000, 0x20));
        assert_eq!(sregs.efer, 0x500);
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ss.selector), (0x18, 0x18));
        let regs = entry(Protocol::Linux64).regs();
        assert_eq!((regs.rip, regs.rsp, regs.rsi, regs.rbx), (0x10_0000, 0x8ff0, 0x7000, 0));
        assert_eq!(regs.rflags, 2);
    }

    #[test]
    fn the_pvh_entry_runs_in_protected_mode_with_the_start_info_in_ebx() {
        let sregs = entry(Protocol::Pvh).sregs(&kvm_sregs::default());
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, 0xffff_ffff));
        assert_eq!((sregs.tr.type_, sregs.tr.base, sregs.tr.limit), (0xb, 0, 0x67));
        let regs = entry(Protocol::Pvh).regs();
        assert_eq!((regs.rip, regs.rsp, regs.rsi, regs.rbx), (0x10_0000, 0x8ff0, 0, 0x7000));
    }

    #[test]
    fn descriptors_have_the_bits_of_their_segments() {
        let long_mode = Segments::of(Protocol::Linux64);
        assert_eq!(descriptor(&long_mode.code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&long_mode.data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&long_mode.task), 0x0000_8b00_0000_0067);
        assert_eq!(descriptor(&Segments::of(Protocol::Pvh).code), 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn page_tables_map_the_first_gib_to_itself() {
        let memory = memory(2 << 20);
        write_tables(&memory, Protocol::Linux64).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(read(0x9000), 0xa003);
        assert_eq!(read(0xa000), 0xb003);
        for index in 0..512 {
            assert_eq!(read(0xb000 + index * 8), index * 0x20_0000 + 0x83);
        }
        assert_eq!(read(0x510), 0x00af_9b00_0000_ffff);
    }
}
