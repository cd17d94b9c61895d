//! The tables of fixed form: FADT (ACPI 6.5 §5.2.9) and MADT (§5.2.12).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::memory::layout::{IOAPIC_START, LOCAL_APIC_START};

/// Command port of the keyboard controller, whose pulse resets the machine.
const RESET_PORT: u64 = 0x64;
/// The command that pulses the reset line.
const RESET_COMMAND: u8 = 0xfe;
/// Sleep control register, one byte (§4.8.3.7).
const SLEEP_CONTROL_PORT: u64 = 0x604;
/// Sleep status register, one byte.
const SLEEP_STATUS_PORT: u64 = 0x605;

/// IA-PC boot architecture flags (§5.2.9.3).
const BOOT_8042: u16 = 1 << 1;
const BOOT_VGA_NOT_PRESENT: u16 = 1 << 2;
const BOOT_MSI_NOT_SUPPORTED: u16 = 1 << 3;
const BOOT_NO_PCIE_ASPM: u16 = 1 << 4;
const BOOT_CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// The fixed description: no fixed hardware, but registers for reset and power-off.
pub(super) fn fadt(config: &AcpiConfig, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Buttons, and the clock's wake-up, are not in fixed registers.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = boot_flags(config).into();
    fadt.reset_reg = byte_port(RESET_PORT);
    fadt.reset_value = RESET_COMMAND;
    fadt.sleep_control_reg = byte_port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = byte_port(SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn boot_flags(config: &AcpiConfig) -> u16 {
    let mut flags = BOOT_VGA_NOT_PRESENT | BOOT_MSI_NOT_SUPPORTED | BOOT_NO_PCIE_ASPM;
    if !config.rtc {
        flags |= BOOT_CMOS_RTC_NOT_PRESENT;
    }
    if config.keyboard_controller {
        flags |= BOOT_8042;
    }
    flags
}

fn byte_port(port: u64) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

/// The interrupt controllers: a local APIC per processor, and one IOAPIC with all lines.
pub(super) fn madt(vcpus: u8) -> MADT {
    let local_apic = LocalInterruptController::Address(LOCAL_APIC_START as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local_apic);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    // KVM's IOAPIC has identifier 0 and serves the lines from 0 on.
    madt.add_structure(IoApic::new(0, IOAPIC_START as u32, 0));
    madt
}
