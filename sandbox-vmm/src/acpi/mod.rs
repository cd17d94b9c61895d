//! ACPI tables (ACPI 6.5) that describe the machine to stock kernels: RSDP, XSDT, a hardware-reduced FADT, MADT, and a
//! DSDT with the devices.
//!
//! Hardware-reduced (§4.1) means that there is no fixed ACPI hardware (no PM timer, no PM1 registers, no SCI): events
//! come through the Generic Event Device, and power-off goes through the sleep control register.

mod dsdt;
mod fixed;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;
use crate::memory::layout::{ACPI_TABLES_START, BIOS_AREA_END, RSDP_START};

/// Where the 16 bytes of a generation identifier may lie: the last page of the BIOS area, which no memory map lists as
/// RAM (Virtual Machine Generation ID, §"Requirements").
pub const GENERATION_ID_START: u64 = BIOS_AREA_END - 0x1000;
/// The tables end here.
const TABLES_END: u64 = GENERATION_ID_START;
/// Room for the tables of a usual machine, in bytes.
const TABLES_CAPACITY: usize = 4096;
/// Tables start at multiples of this.
const TABLE_ALIGNMENT: usize = 16;

/// Identifies the maker of the tables.
const OEM_ID: [u8; 6] = *b"SANDBX";
/// Identifies this set of tables.
const OEM_TABLE_ID: [u8; 8] = *b"SANDBVMM";
const OEM_REVISION: u32 = 1;

/// Errors of writing the tables.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// Guest memory has no room where the tables go.
    #[error("cannot write the ACPI tables to guest memory")]
    Memory(#[source] GuestMemoryError),
    /// More devices than the tables have room for.
    #[error("the ACPI tables need {needed} bytes and have {room}: describe fewer devices")]
    TooLarge {
        /// Size of the tables in bytes.
        needed: u64,
        /// Bytes up to the end of the BIOS area.
        room: u64,
    },
    /// A device lies where its resource descriptor cannot say.
    #[error("the virtio-mmio window at {start:#x} does not lie below 4 GiB")]
    WindowTooHigh {
        /// Guest-physical address of the window.
        start: u64,
    },
}

/// A virtio-mmio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioNode {
    /// Guest-physical address of its registers.
    pub window: u64,
    /// Size of its registers in bytes.
    pub size: u64,
    /// Its interrupt, edge-triggered.
    pub gsi: u32,
}

/// The Generic Event Device, by which the machine tells the guest of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDevice {
    /// Its interrupt, edge-triggered.
    pub gsi: u32,
    /// Guest-physical address of the generation identifier whose change the event reports, if there is one.
    pub generation_id: Option<u64>,
    /// The interrupt of the power button, edge-triggered, if there is one. It is another one than `gsi`.
    pub power_button: Option<u32>,
}

/// What the tables describe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of processors; their local APIC identifiers count from 0.
    pub vcpus: u8,
    /// The virtio-mmio devices.
    pub virtio: Vec<VirtioNode>,
    /// Whether there is a serial port at COM1.
    pub serial: bool,
    /// Whether there is a CMOS clock. Without it kernels do not look for one.
    pub rtc: bool,
    /// Whether there is a keyboard controller, more than its reset line. Without it kernels do not look for one.
    pub keyboard_controller: bool,
    /// The Generic Event Device, if there is one.
    pub events: Option<EventDevice>,
}

/// Writes the tables to the BIOS area and returns the guest-physical address of the RSDP.
pub fn write_tables(memory: &GuestMemory, config: &AcpiConfig) -> Result<u64, AcpiError> {
    Tables::build(config)?.write(memory)
}

/// Keeps the tables that were built last: machines of one shape, started one after the other, share them.
#[derive(Debug, Default)]
pub struct TableCache {
    last: Mutex<Option<(AcpiConfig, Arc<Tables>)>>,
}

impl TableCache {
    /// Does what [`write_tables`] does.
    pub fn write(&self, memory: &GuestMemory, config: &AcpiConfig) -> Result<u64, AcpiError> {
        self.tables(config)?.write(memory)
    }

    fn tables(&self, config: &AcpiConfig) -> Result<Arc<Tables>, AcpiError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, tables)) if known == config => Ok(Arc::clone(tables)),
            _ => {
                let tables = Arc::new(Tables::build(config)?);
                *last = Some((config.clone(), Arc::clone(&tables)));
                Ok(tables)
            }
        }
    }
}

/// The tables as they stand in guest memory.
#[derive(Debug)]
struct Tables {
    rsdp: Vec<u8>,
    /// All others, one behind the other.
    bytes: Vec<u8>,
}

impl Tables {
    fn build(config: &AcpiConfig) -> Result<Self, AcpiError> {
        let mut bytes = Vec::with_capacity(TABLES_CAPACITY);
        let dsdt = append(&mut bytes, &dsdt::build(config)?);
        let fadt = append(&mut bytes, &fixed::fadt(config, dsdt));
        let madt = append(&mut bytes, &fixed::madt(config.vcpus));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = append(&mut bytes, &xsdt);
        let room = TABLES_END - ACPI_TABLES_START;
        let needed = bytes.len() as u64;
        if needed > room {
            return Err(AcpiError::TooLarge { needed, room });
        }
        let mut rsdp = Vec::with_capacity(Rsdp::len());
        Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
        Ok(Self { rsdp, bytes })
    }

    fn write(&self, memory: &GuestMemory) -> Result<u64, AcpiError> {
        memory
            .write_slice(&self.bytes, GuestAddress(ACPI_TABLES_START))
            .and_then(|()| memory.write_slice(&self.rsdp, GuestAddress(RSDP_START)))
            .map_err(AcpiError::Memory)?;
        Ok(RSDP_START)
    }
}

/// Appends a table and returns its guest-physical address.
fn append(bytes: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    let start = bytes.len().next_multiple_of(TABLE_ALIGNMENT);
    bytes.resize(start, 0);
    table.to_aml_bytes(bytes);
    ACPI_TABLES_START + start as u64
}
