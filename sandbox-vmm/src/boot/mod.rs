//! Kernels: what kind of file one is, where it goes in guest memory, and how it is entered.
//!
//! The way of a kernel: [`store::KernelStore`] reads and checks the file once ([`image`]) and keeps what is loaded of
//! it; [`load::load`] puts it into a guest's memory, [`initrd::load_stored`] the initial RAM disk; [`prepare`] writes
//! what the boot protocol hands over (command line, memory map, tables) and returns the [`Entry`], which turns into the
//! first vCPU's registers. Nothing here calls KVM.

pub mod cmdline;
mod error;
pub mod hvt;
pub mod image;
pub mod initrd;
mod linux;
pub mod load;
pub mod loader;
mod memory_map;
mod open;
mod pvh;
pub mod registers;
pub mod store;
#[cfg(test)]
pub(crate) mod test_support;

use std::fmt;

use crate::memory::GuestMemory;
use crate::memory::layout::{BOOT_PARAMS_START, BOOT_STACK_POINTER};

use cmdline::CommandLine;
pub use error::{BootError, Subject};
use image::KernelImage;
use initrd::Initrd;
pub use memory_map::MemoryMap;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit Linux boot protocol: long mode, the first GiB mapped to itself, RSI = zero page.
    Linux64,
    /// PVH: 32-bit protected mode without paging, EBX = `hvm_start_info`.
    Pvh,
    /// Solo5's hvt interface: long mode, all memory mapped to itself, RDI = boot information ([`hvt`]).
    Hvt,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "64-bit Linux boot",
            Self::Pvh => "PVH",
            Self::Hvt => "Solo5 hvt",
        })
    }
}

/// What a guest is handed at its first instruction, whatever the protocol.
#[derive(Clone, Copy, Debug)]
pub struct BootParameters<'a> {
    /// The kernel, which [`load::load`] put into the same memory.
    pub kernel: &'a KernelImage,
    /// The command line.
    pub cmdline: &'a CommandLine,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Initrd>,
    /// Guest-physical address of the ACPI root pointer, if there are ACPI tables.
    pub rsdp: Option<u64>,
    /// What the memory map lists.
    pub memory_map: MemoryMap,
}

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The protocol, which gives the processor mode.
    pub protocol: Protocol,
    /// First instruction, guest-physical.
    pub rip: u64,
    /// First stack pointer: valid memory, also where a protocol does not promise it.
    pub rsp: u64,
    /// Guest-physical address of what the guest is handed: the zero page or `hvm_start_info`.
    pub parameter: u64,
}

/// Writes all that the protocol hands over to guest memory: command line, descriptor and page tables, and the zero page
/// or `hvm_start_info`.
pub fn prepare(memory: &GuestMemory, protocol: Protocol, parameters: &BootParameters<'_>) -> Result<Entry, BootError> {
    let rip = match protocol {
        Protocol::Linux64 => parameters.kernel.linux_entry,
        Protocol::Pvh => parameters.kernel.pvh_entry.map(u64::from),
        // Its guests are handed other things, by `hvt::prepare`.
        Protocol::Hvt => None,
    };
    let rip = rip.ok_or(BootError::NoSuchEntry { protocol })?;
    parameters.cmdline.write(memory)?;
    registers::write_tables(memory, protocol)?;
    match protocol {
        Protocol::Linux64 => linux::write_boot_params(memory, parameters)?,
        Protocol::Pvh => pvh::write_start_info(memory, parameters)?,
        Protocol::Hvt => {}
    }
    Ok(Entry {
        protocol,
        rip,
        rsp: BOOT_STACK_POINTER,
        parameter: BOOT_PARAMS_START,
    })
}
