//! Every guest image is what a loader needs, and nothing that a KVM which emulates each instruction cannot run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::process::Command;

use sandbox_guests::{SECTOR_BYTES, all, disk_pattern, write_to};

/// The lowest address that a guest may be loaded at.
const FIRST_ADDRESS: u64 = 0x10_0000;

/// So small that loading costs nothing beside the machine's own set-up, and that 2 MiB of memory hold the largest.
const FILE_BYTES_MAXIMUM: usize = 32 * 1024;
const LAST_ADDRESS: u64 = 0x20_0000;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// A program header (System V ABI, ELF-64).
#[derive(Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
}

impl Segment {
    fn parse(header: &[u8]) -> Segment {
        Segment {
            kind: u32_at(header, 0),
            offset: u64_at(header, 8),
            virtual_address: u64_at(header, 16),
            physical_address: u64_at(header, 24),
            file_size: u64_at(header, 32),
            memory_size: u64_at(header, 40),
        }
    }

    /// Whether bytes of the file are loaded at an address.
    fn holds_code_at(&self, address: u64) -> bool {
        self.kind == SEGMENT_LOAD && (self.physical_address..self.physical_address + self.file_size).contains(&address)
    }
}

fn segments(image: &[u8]) -> Vec<Segment> {
    let start = usize::try_from(u64_at(image, 32)).unwrap();
    let count = usize::from(u16_at(image, 56));
    assert_eq!(usize::from(u16_at(image, 54)), PROGRAM_HEADER_BYTES);
    image[start..]
        .chunks_exact(PROGRAM_HEADER_BYTES)
        .take(count)
        .map(Segment::parse)
        .collect()
}

fn entry(image: &[u8]) -> u64 {
    u64_at(image, 24)
}

/// The address in the PVH note, where the note segment begins with one.
fn pvh_entry(image: &[u8], segments: &[Segment]) -> Option<u64> {
    const PHYS32_ENTRY: u32 = 18;

    let segment = segments.iter().find(|segment| segment.kind == SEGMENT_NOTE)?;
    let note = &image[usize::try_from(segment.offset).unwrap()..];
    let is_pvh = u32_at(note, 0) == 4 && u32_at(note, 8) == PHYS32_ENTRY && &note[12..16] == b"Xen\0";
    (is_pvh && u32_at(note, 4) == 8).then(|| u64_at(note, 16))
}

#[test]
fn every_image_is_a_static_elf64_for_x86_64() {
    for (name, image) in all() {
        assert!(
            image.len() > HEADER_BYTES && image.len() <= FILE_BYTES_MAXIMUM,
            "{name}: {} bytes",
            image.len()
        );
        assert_eq!(&image[..6], b"\x7fELF\x02\x01", "{name}: ELF64, little-endian");
        assert_eq!(u16_at(image, 16), 2, "{name}: an executable at fixed addresses");
        assert_eq!(u16_at(image, 18), 62, "{name}: x86-64");
    }
}

#[test]
fn every_image_loads_between_one_and_two_mib() {
    for (name, image) in all() {
        for segment in segments(image).iter().filter(|segment| segment.kind == SEGMENT_LOAD) {
            let end = segment.physical_address + segment.memory_size;
            assert_eq!(
                segment.physical_address, segment.virtual_address,
                "{name}: {segment:x?}"
            );
            assert!(
                segment.physical_address >= FIRST_ADDRESS && end <= LAST_ADDRESS,
                "{name}: {segment:x?}"
            );
            assert!(segment.file_size <= segment.memory_size, "{name}: {segment:x?}");
            assert!(
                segment.offset + segment.file_size <= image.len() as u64,
                "{name}: {segment:x?}"
            );
        }
    }
}

#[test]
fn hvt_guests_begin_inside_loaded_code() {
    for (name, image) in all().iter().filter(|(name, _)| name.starts_with("hvt-")) {
        let entry = entry(image);
        assert!(
            segments(image).iter().any(|segment| segment.holds_code_at(entry)),
            "{name}"
        );
    }
}

#[test]
fn every_image_has_both_entries_inside_loaded_code() {
    // Guests of the hvt interface have one entry, which is not for kernels.
    let kernels = all().iter().filter(|(name, _)| !name.starts_with("hvt-"));
    for (name, image) in kernels {
        let segments = segments(image);
        let pvh = pvh_entry(image, &segments).unwrap_or_else(|| panic!("{name}: no PVH note"));
        for entry in [entry(image), pvh] {
            assert!(
                segments.iter().any(|segment| segment.holds_code_at(entry)),
                "{name}: entry {entry:#x}"
            );
        }
    }
}

/// Whether a disassembled instruction is one that a KVM which emulates instructions does not know: anything of x87,
/// MMX, SSE and AVX, and the wide compare-and-exchange.
fn is_beyond_emulation(instruction: &str) -> bool {
    let mnemonic = instruction.split_whitespace().next().unwrap_or_default();
    let has_vector_register = ["%xmm", "%ymm", "%zmm", "%mm", "%st"]
        .iter()
        .any(|prefix| instruction.contains(prefix));
    has_vector_register || mnemonic.starts_with('f') || mnemonic.starts_with("xsave") || mnemonic == "cmpxchg16b"
}

/// The instructions of an image as objdump prints them, or `None` where there is no objdump.
fn disassemble(path: &std::path::Path) -> Option<Vec<String>> {
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn"])
        .arg(path)
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "objdump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let instructions = text
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .map(|(_, rest)| rest.to_owned());
    Some(instructions.collect())
}

#[test]
fn no_image_has_an_instruction_that_a_software_kvm_lacks() {
    let directory = std::env::temp_dir().join(format!("sandbox-guests-{}", std::process::id()));
    write_to(&directory).unwrap();
    for (name, _) in all() {
        let Some(instructions) = disassemble(&directory.join(name)) else {
            eprintln!("skipped: objdump is not installed");
            break;
        };
        let found: Vec<_> = instructions
            .iter()
            .filter(|instruction| is_beyond_emulation(instruction))
            .collect();
        // `endings` has the one on purpose by which a host's report of a failed emulation is tested.
        let allowed = usize::from(*name == "endings");
        assert!(
            instructions.len() > 50,
            "{name}: only {} instructions",
            instructions.len()
        );
        assert_eq!(found.len(), allowed, "{name}: {found:?}");
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn written_files_are_the_images() {
    let directory = std::env::temp_dir().join(format!("sandbox-guests-written-{}", std::process::id()));
    write_to(&directory).unwrap();
    for (name, image) in all() {
        assert_eq!(fs::read(directory.join(name)).unwrap(), *image, "{name}");
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn disk_pattern_has_the_documented_words() {
    let pattern = disk_pattern(3);
    let word = |index: usize| u64_at(&pattern, index * 8);
    assert_eq!(word(0), (3 * 64_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert_eq!(word(63), (3 * 64 + 63_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert_eq!(pattern.len(), SECTOR_BYTES);
    assert_ne!(disk_pattern(4), pattern);
}
