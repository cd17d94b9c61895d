//! The DSDT (ACPI 6.5 §5.2.11.1): the devices that a kernel cannot find by itself, and the power-off state.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AmlStr, Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, ONE, Package, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, AcpiError, EventDevice, OEM_ID, OEM_REVISION, OEM_TABLE_ID, VirtioNode};

/// Length of a table's header in bytes.
const HEADER_SIZE: u32 = 36;
/// Room for the devices of a usual machine, in bytes.
const DEVICES_CAPACITY: usize = 2048;
/// From revision 2 on, integers have 64 bits.
const REVISION: u8 = 2;

/// Sleep type of power-off, as the sleep control register takes it.
const POWER_OFF_TYPE: u8 = 5;
/// What a generation identifier's change is announced as (Virtual Machine Generation ID, §"Notification").
const GENERATION_CHANGED: u8 = 0x80;
/// What a press of the power button is announced as (§4.8.2.2.1.2).
const BUTTON_PRESSED: u8 = 0x80;

/// Serial port COM1.
const SERIAL_PORT: u16 = 0x3f8;
const SERIAL_PORTS: u8 = 8;
const SERIAL_IRQ: u32 = 4;
/// CMOS clock: index and data.
const RTC_PORT: u16 = 0x70;
const RTC_PORTS: u8 = 2;
/// Keyboard controller: data, and command or status.
const KEYBOARD_PORTS: [u16; 2] = [0x60, 0x64];
const KEYBOARD_IRQ: u32 = 1;

/// Builds the table.
pub(super) fn build(config: &AcpiConfig) -> Result<Sdt, AcpiError> {
    let mut devices = Vec::with_capacity(DEVICES_CAPACITY);
    append_virtio(&mut devices, &config.virtio)?;
    if config.serial {
        append_serial(&mut devices);
    }
    if config.rtc {
        append_rtc(&mut devices);
    }
    if config.keyboard_controller {
        append_keyboard_controller(&mut devices);
    }
    if let Some(events) = &config.events {
        append_events(&mut devices, events);
    }
    let mut aml = Scope::raw(Path::new("\\_SB_"), devices);
    append_power_off(&mut aml);
    let mut table = Sdt::new(*b"DSDT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    Ok(table)
}

/// The virtio-mmio devices (virtio 1.3 §4.2.1 leaves the identifier to the platform; "LNRO0005" is Linux's).
fn append_virtio(devices: &mut Vec<u8>, nodes: &[VirtioNode]) -> Result<(), AcpiError> {
    let hardware_id = Name::new("_HID".into(), &("LNRO0005" as AmlStr));
    let coherent = Name::new("_CCA".into(), &ONE);
    for (index, node) in nodes.iter().enumerate() {
        let too_high = |_| AcpiError::WindowTooHigh { start: node.window };
        let window = u32::try_from(node.window).map_err(too_high)?;
        let size = u32::try_from(node.size).map_err(too_high)?;
        let resources = resources(vec![&Memory32Fixed::new(true, window, size), &edge_interrupt(node.gsi)]);
        let unique_id = Name::new("_UID".into(), &index);
        let children: Vec<&dyn Aml> = vec![&hardware_id, &unique_id, &coherent, &resources];
        Device::new(Path::new(&format!("V{index:03X}")), children).to_aml_bytes(devices);
    }
    Ok(())
}

fn append_serial(devices: &mut Vec<u8>) {
    let resources = resources(vec![
        &IO::new(SERIAL_PORT, SERIAL_PORT, 1, SERIAL_PORTS),
        &edge_interrupt(SERIAL_IRQ),
    ]);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &resources,
        ],
    )
    .to_aml_bytes(devices);
}

/// The clock can be read and has no interrupt.
fn append_rtc(devices: &mut Vec<u8>) {
    let resources = resources(vec![&IO::new(RTC_PORT, RTC_PORT, 1, RTC_PORTS)]);
    Device::new(
        "RTC_".into(),
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0B00")), &resources],
    )
    .to_aml_bytes(devices);
}

fn append_keyboard_controller(devices: &mut Vec<u8>) {
    let [data, command] = KEYBOARD_PORTS;
    let resources = resources(vec![
        &IO::new(data, data, 1, 1),
        &IO::new(command, command, 1, 1),
        &edge_interrupt(KEYBOARD_IRQ),
    ]);
    Device::new(
        "KBD_".into(),
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0303")), &resources],
    )
    .to_aml_bytes(devices);
}

/// The Generic Event Device (§5.6.9), and what its events are about.
fn append_events(devices: &mut Vec<u8>, events: &EventDevice) {
    let (generation_id, power_button) = (Path::new("\\_SB_.VGEN"), Path::new("\\_SB_.PWRB"));
    let changed = Notify::new(&generation_id, &GENERATION_CHANGED);
    let pressed = Notify::new(&power_button, &BUTTON_PRESSED);
    let button_gsi = events.power_button.unwrap_or_default();
    let (is_change, is_press) = (Equal::new(&Arg(0), &events.gsi), Equal::new(&Arg(0), &button_gsi));
    let (on_change, on_press) = (If::new(&is_change, vec![&changed]), If::new(&is_press, vec![&pressed]));
    let (interrupt, button_interrupt) = (edge_interrupt(events.gsi), edge_interrupt(button_gsi));
    let mut interrupts: Vec<&dyn Aml> = vec![&interrupt];
    let mut actions: Vec<&dyn Aml> = Vec::new();
    if let Some(address) = events.generation_id {
        append_generation_id(devices, address);
        actions.push(&on_change);
    }
    if events.power_button.is_some() {
        append_power_button(devices);
        interrupts.push(&button_interrupt);
        actions.push(&on_press);
    }
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &("ACPI0013" as AmlStr)),
            &Name::new("_UID".into(), &ZERO),
            &resources(interrupts),
            &Method::new("_EVT".into(), 1, true, actions),
        ],
    )
    .to_aml_bytes(devices);
}

/// The power button as a device of its own (§4.8.2.2.1.2), since there are no registers for one.
fn append_power_button(devices: &mut Vec<u8>) {
    Device::new(
        "PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
    .to_aml_bytes(devices);
}

/// The generation identifier at a guest-physical address, given as two halves.
fn append_generation_id(devices: &mut Vec<u8>, address: u64) {
    let (low, high) = (address as u32, (address >> 32) as u32);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &("SNBX0001" as AmlStr)),
            &Name::new("_CID".into(), &("VM_Gen_Counter" as AmlStr)),
            &Name::new("_DDN".into(), &("VM_Gen_Counter" as AmlStr)),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(devices);
}

/// The one sleeping state (§7.4.2.6).
fn append_power_off(aml: &mut Vec<u8>) {
    let types = Package::new(vec![&POWER_OFF_TYPE, &POWER_OFF_TYPE, &ZERO, &ZERO]);
    Name::new("\\_S5_".into(), &types).to_aml_bytes(aml);
}

/// The resources of a device.
fn resources(descriptors: Vec<&dyn Aml>) -> Name {
    Name::new("_CRS".into(), &ResourceTemplate::new(descriptors))
}

/// An interrupt that only this device raises, by edges.
fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}
