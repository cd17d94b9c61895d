//! Solo5's hvt interface, version 2: what its guests are handed, and the processor's state at their entry.
//!
//! ```text
//! 0x0000   nothing is mapped here: a null pointer faults
//! 0x1000   GDT
//! 0x2000   PML4
//! 0x3000   PDPT
//! 0x4000   four page directories: 4 GiB in pages of 2 MiB
//! 0x8000   eight page tables: the first 16 MiB in pages of 4 KiB
//! 0x10000  boot information, the manifest behind it, then the command line
//! 0x100000 the image, and behind its end the guest's own
//! RSP      8 below the end of memory
//! ```
//!
//! The pages of the image have the rights of their segments, and nothing else can be executed. An image beyond 16 MiB
//! has them as far as the page tables reach.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::cmdline::CommandLine;
use super::error::BootError;
use super::image::KernelImage;
use super::image::solo5::{ATTACHED_OFFSET, Area, PROPERTIES_OFFSET, Solo5Image, entry_offset};
use super::registers::{
    CR0_NUMERIC_ERROR, CR0_PAGING, CR0_PROTECTED_MODE, CR0_WRITE_PROTECT, CR4_PHYSICAL_ADDRESS_EXTENSION,
    EFER_LONG_MODE_ACTIVE, EFER_LONG_MODE_ENABLE, LARGE_PAGE_SIZE, PAGE_LARGE, RFLAGS_RESERVED, Segments,
    TABLE_ENTRIES, TABLE_SIZE,
};
use super::{Entry, Protocol};
use crate::memory::GuestMemory;
use crate::memory::layout::{GAP_START, PAGE_SIZE};

const GDT: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const PAGE_DIRECTORIES: u64 = 0x4000;
const PAGE_DIRECTORY_COUNT: usize = 4;
const PAGE_TABLES: u64 = 0x8000;
const PAGE_TABLE_COUNT: usize = 8;
const BOOT_INFO: u64 = 0x1_0000;
const BOOT_INFO_SIZE: u64 = 56;
/// Room for the command line, in bytes.
const CMDLINE_SIZE: usize = 8192;
/// Most memory that a guest can be given: what the page directories map, less what is no RAM here.
pub const MEMORY_MAX: u64 = GAP_START;
/// `cpu_cycle_freq` in the boot information.
const TSC_FREQUENCY: u64 = BOOT_INFO + 16;

const CR4_FXSR: u64 = 1 << 9;
const CR4_SIMD_EXCEPTIONS: u64 = 1 << 10;
const EFER_NO_EXECUTE: u64 = 1 << 11;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
/// What is neither code nor constant.
const ORDINARY: u64 = PRESENT | WRITABLE | NO_EXECUTE;

/// The properties of a device, which the guest reads from its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Properties {
    /// Of a block device.
    Block {
        /// Size in bytes.
        capacity: u64,
        /// Unit of offsets and lengths, in bytes.
        block_size: u16,
    },
    /// Of a network card.
    Net {
        /// Its address.
        mac: [u8; 6],
        /// Its MTU in bytes.
        mtu: u16,
    },
}

/// Writes all that the guest is handed, but for the frequency of its time stamp counter ([`write_tsc_frequency`]), and
/// says where it is entered. `properties` has the devices of the manifest by their handles.
pub fn prepare(
    memory: &GuestMemory,
    kernel: &KernelImage,
    cmdline: &CommandLine,
    properties: &[(usize, Properties)],
) -> Result<Entry, BootError> {
    let no_entry = BootError::NoSuchEntry {
        protocol: Protocol::Hvt,
    };
    let (Some(rip), Some(image)) = (kernel.hvt_entry, &kernel.solo5) else {
        return Err(no_entry);
    };
    let end: u64 = memory.ranges().iter().map(|range| range.len).sum();
    let writer = Writer(memory);
    writer.put(
        GDT,
        &Segments::of(Protocol::Hvt).descriptor_table(),
        "the descriptor table",
    )?;
    write_page_tables(&writer, image, end)?;
    write_boot_info(&writer, kernel, image, cmdline, (end, properties))?;
    Ok(Entry {
        protocol: Protocol::Hvt,
        rip,
        rsp: end - 8,
        parameter: BOOT_INFO,
    })
}

/// Tells the guest how often its time stamp counter counts, in Hz.
pub fn write_tsc_frequency(memory: &GuestMemory, hertz: u64) -> Result<(), BootError> {
    Writer(memory).put(TSC_FREQUENCY, &hertz.to_le_bytes(), "the boot information")
}

/// The general registers at the entry.
pub(super) fn regs(entry: &Entry) -> kvm_regs {
    kvm_regs {
        rip: entry.rip,
        rsp: entry.rsp,
        rdi: entry.parameter,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

/// The system registers at the entry, from those of a vCPU after reset.
pub(super) fn sregs(reset: &kvm_sregs) -> kvm_sregs {
    let Segments { code, data, task } = Segments::of(Protocol::Hvt);
    let limit = size_of_val(&Segments::of(Protocol::Hvt).descriptor_table()) as u16 - 1;
    let [ds, es, fs, gs, ss]: [kvm_segment; 5] = [data; 5];
    kvm_sregs {
        cs: code,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: task,
        gdt: kvm_dtable {
            base: GDT,
            limit,
            ..Default::default()
        },
        idt: kvm_dtable::default(),
        cr0: CR0_PROTECTED_MODE | CR0_NUMERIC_ERROR | CR0_WRITE_PROTECT | CR0_PAGING,
        cr3: PML4,
        cr4: CR4_PHYSICAL_ADDRESS_EXTENSION | CR4_FXSR | CR4_SIMD_EXCEPTIONS,
        efer: EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE | EFER_NO_EXECUTE,
        ..*reset
    }
}

fn write_page_tables(writer: &Writer<'_>, image: &Solo5Image, end: u64) -> Result<(), BootError> {
    let what = "the page tables";
    let link = |target: u64| (target | PRESENT | WRITABLE).to_le_bytes();
    writer.put(PML4, &link(PDPT), what)?;
    let large_pages = end.div_ceil(LARGE_PAGE_SIZE) as usize;
    let directories = large_pages.div_ceil(TABLE_ENTRIES).min(PAGE_DIRECTORY_COUNT);
    for directory in 0..directories {
        let address = PAGE_DIRECTORIES + (directory * TABLE_SIZE) as u64;
        writer.put(PDPT + directory as u64 * 8, &link(address), what)?;
        let first = directory * TABLE_ENTRIES;
        let entries = (first..large_pages.min(first + TABLE_ENTRIES)).map(|page| match page < PAGE_TABLE_COUNT {
            true => page_table(page) | PRESENT | WRITABLE,
            false => (page as u64 * LARGE_PAGE_SIZE) | ORDINARY | PAGE_LARGE,
        });
        writer.put(address, &table(entries), what)?;
    }
    for number in 0..large_pages.min(PAGE_TABLE_COUNT) {
        let start = number as u64 * LARGE_PAGE_SIZE;
        let pages = (0..TABLE_ENTRIES as u64).map(|page| start + page * PAGE_SIZE);
        let entries = pages.map(|page| match page {
            0 => 0,
            page if page >= end => 0,
            page => page | rights(image, page),
        });
        writer.put(page_table(number), &table(entries), what)?;
    }
    Ok(())
}

fn page_table(number: usize) -> u64 {
    PAGE_TABLES + (number * TABLE_SIZE) as u64
}

/// What may be done with the page at `page`: all that the segments in it need.
fn rights(image: &Solo5Image, page: u64) -> u64 {
    let inside = |area: &&Area| area.start < page + PAGE_SIZE && page < area.end;
    let mut areas = image.areas.iter().filter(inside).peekable();
    if areas.peek().is_none() {
        return ORDINARY;
    }
    let (writable, executable) = areas.fold((false, false), |(writable, executable), area| {
        (writable || area.writable, executable || area.executable)
    });
    PRESENT | if writable { WRITABLE } else { 0 } | if executable { 0 } else { NO_EXECUTE }
}

fn table(entries: impl Iterator<Item = u64>) -> Vec<u8> {
    entries.flat_map(u64::to_le_bytes).collect()
}

fn write_boot_info(
    writer: &Writer<'_>,
    kernel: &KernelImage,
    image: &Solo5Image,
    cmdline: &CommandLine,
    (end, properties): (u64, &[(usize, Properties)]),
) -> Result<(), BootError> {
    let manifest = manifest(image, properties);
    let manifest_start = BOOT_INFO + BOOT_INFO_SIZE;
    let cmdline_start = manifest_start + manifest.len() as u64;
    if cmdline.len() >= CMDLINE_SIZE {
        return Err(BootError::CmdlineTooLong {
            length: cmdline.len() as u64,
            limit: CMDLINE_SIZE as u64 - 1,
        });
    }
    // Memory and image; the frequency, which is not known yet; then where the rest stands, no features offered, and no
    // ring for the network.
    let fields = [end, kernel.end, 0, cmdline_start, manifest_start, 0, 0];
    writer.put(BOOT_INFO, &table(fields.into_iter()), "the boot information")?;
    writer.put(manifest_start, &manifest, "the manifest")?;
    let mut line = cmdline.as_bytes().to_vec();
    line.push(0);
    writer.put(cmdline_start, &line, "the command line")
}

/// The manifest with the devices' properties filled in.
fn manifest(image: &Solo5Image, properties: &[(usize, Properties)]) -> Vec<u8> {
    let mut manifest = image.manifest.clone();
    for (handle, properties) in properties {
        let entry = &mut manifest[entry_offset(*handle)..];
        let space = &mut entry[PROPERTIES_OFFSET..];
        match properties {
            Properties::Block { capacity, block_size } => {
                space[..8].copy_from_slice(&capacity.to_le_bytes());
                space[8..10].copy_from_slice(&block_size.to_le_bytes());
            }
            Properties::Net { mac, mtu } => {
                space[..6].copy_from_slice(mac);
                space[6..8].copy_from_slice(&mtu.to_le_bytes());
            }
        }
        entry[ATTACHED_OFFSET] = 1;
    }
    manifest
}

struct Writer<'a>(&'a GuestMemory);

impl Writer<'_> {
    fn put(&self, address: u64, bytes: &[u8], what: &'static str) -> Result<(), BootError> {
        self.0
            .write_slice(bytes, GuestAddress(address))
            .map_err(|source| BootError::GuestMemory { what, source })
    }
}
