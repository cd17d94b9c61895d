use std::process::Command;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::HugePages;
use crate::memory::layout::{MMIO_START, MMIO_WINDOW_SIZE};

/// IA-PC boot architecture flags.
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_CLOCK: u16 = 1 << 5;

fn memory() -> GuestMemory {
    GuestMemory::new(2 << 20, HugePages::Never, false).unwrap()
}

fn virtio(count: u64) -> Vec<VirtioNode> {
    (0..count)
        .map(|index| VirtioNode {
            window: MMIO_START + index * MMIO_WINDOW_SIZE,
            size: MMIO_WINDOW_SIZE,
            gsi: 5 + index as u32,
        })
        .collect()
}

fn everything() -> AcpiConfig {
    AcpiConfig {
        vcpus: 4,
        virtio: virtio(3),
        serial: true,
        rtc: true,
        keyboard_controller: true,
        events: Some(EventDevice {
            gsi: 20,
            generation_id: Some(GENERATION_ID_START),
            power_button: Some(3),
        }),
    }
}

/// Reads a table by its header's length and checks its sum.
fn table(memory: &GuestMemory, address: u64) -> Vec<u8> {
    let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
    let mut table = vec![0; length as usize];
    memory.read_slice(&mut table, GuestAddress(address)).unwrap();
    assert_eq!(sum(&table), 0, "checksum of {:?}", String::from_utf8_lossy(&table[..4]));
    table
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// FADT, MADT and DSDT, found as a kernel finds them.
fn find_tables(memory: &GuestMemory, rsdp: u64) -> [Vec<u8>; 3] {
    let mut bytes = [0; 36];
    memory.read_slice(&mut bytes, GuestAddress(rsdp)).unwrap();
    let rsdp = bytes;
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(sum(&rsdp[..20]), 0);
    assert_eq!(sum(&rsdp), 0);
    let xsdt = table(memory, u64_at(&rsdp, 24));
    assert_eq!((&xsdt[..4], xsdt.len()), (b"XSDT".as_slice(), 36 + 16));
    let fadt = table(memory, u64_at(&xsdt, 36));
    let madt = table(memory, u64_at(&xsdt, 44));
    let dsdt = table(memory, u64_at(&fadt, 140));
    assert_eq!(
        (&fadt[..4], &madt[..4], &dsdt[..4]),
        (&b"FACP"[..], &b"APIC"[..], &b"DSDT"[..])
    );
    [fadt, madt, dsdt]
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_tables_are_found_from_the_rsdp_and_their_sums_are_right() {
    let memory = memory();
    let rsdp = write_tables(&memory, &everything()).unwrap();
    assert_eq!(rsdp, 0xe_0000);
    let [fadt, madt, dsdt] = find_tables(&memory, rsdp);
    // Reset by 0xfe to port 0x64; sleep control at 0x604, status at 0x605.
    assert_eq!(
        (&fadt[116..119], u64_at(&fadt, 120), fadt[128]),
        (&[1u8, 8, 0][..], 0x64, 0xfe)
    );
    assert_eq!((u64_at(&fadt, 248), u64_at(&fadt, 260)), (0x604, 0x605));
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_eq!(madt.len(), 44 + 4 * 8 + 12);
    for name in [
        "V000", "V001", "V002", "COM1", "RTC_", "KBD_", "GED_", "VGEN", "PWRB", "_S5_",
    ] {
        assert!(contains(&dsdt, name.as_bytes()), "{name}");
    }
}

#[test]
fn what_is_not_there_is_not_described() {
    let memory = memory();
    let config = AcpiConfig {
        vcpus: 1,
        ..Default::default()
    };
    let [fadt, madt, dsdt] = find_tables(&memory, write_tables(&memory, &config).unwrap());
    let boot_flags = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot_flags & (BOOT_8042 | BOOT_NO_CLOCK), BOOT_NO_CLOCK);
    assert_eq!(madt.len(), 44 + 8 + 12);
    for name in ["V000", "COM1", "RTC_", "KBD_", "GED_", "VGEN", "PWRB"] {
        assert!(!contains(&dsdt, name.as_bytes()), "{name}");
    }
    assert!(contains(&dsdt, b"_S5_"));
}

#[test]
fn cached_tables_are_those_of_the_configuration_asked_for() {
    let cache = TableCache::default();
    let mut smaller = everything();
    smaller.vcpus = 1;
    for config in [everything(), everything(), smaller, everything()] {
        let (cached, fresh) = (memory(), memory());
        let cached_rsdp = cache.write(&cached, &config).unwrap();
        let fresh_rsdp = write_tables(&fresh, &config).unwrap();
        assert_eq!(find_tables(&cached, cached_rsdp), find_tables(&fresh, fresh_rsdp));
    }
    let tables = |config| cache.tables(config).unwrap();
    assert!(Arc::ptr_eq(&tables(&everything()), &tables(&everything())));
}

#[test]
fn more_devices_than_fit_are_refused() {
    let config = AcpiConfig {
        vcpus: 32,
        virtio: virtio(2000),
        ..Default::default()
    };
    let error = write_tables(&memory(), &config).unwrap_err();
    assert!(matches!(error, AcpiError::TooLarge { room: 0x1_e000, .. }), "{error}");
}

#[test]
fn a_window_above_four_gib_is_refused() {
    let mut config = everything();
    config.virtio[1].window = 1 << 32;
    let error = write_tables(&memory(), &config).unwrap_err();
    assert!(
        matches!(error, AcpiError::WindowTooHigh { start: 0x1_0000_0000 }),
        "{error}"
    );
}

/// Disassembles the tables and compiles them again, warnings as errors, where ACPICA's compiler is installed.
#[test]
fn iasl_has_no_complaint() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("iasl is not installed (Debian package acpica-tools): not checked");
        return;
    }
    let memory = memory();
    let tables = find_tables(&memory, write_tables(&memory, &everything()).unwrap());
    let directory = std::env::temp_dir().join(format!("sandbox-acpi-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, table) in ["facp", "apic", "dsdt"].iter().zip(tables) {
        std::fs::write(directory.join(format!("{name}.aml")), table).unwrap();
        for (option, file) in [("-d", format!("{name}.aml")), ("-we", format!("{name}.dsl"))] {
            let output = Command::new("iasl")
                .args([option, &file])
                .current_dir(&directory)
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
