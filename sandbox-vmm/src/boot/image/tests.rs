use proptest::prelude::*;

use super::elf_format::{EM_386, EM_AARCH64, PT_INTERP, PT_NOTE, ProgramHeader};
use super::*;
use crate::boot::test_support::{BzImageBuilder, ElfBuilder};

const CODE: &[u8] = b"code";

fn parse(file: &[u8]) -> Result<KernelImage, ImageError> {
    KernelImage::parse(Source::Bytes(file))
}

fn elf() -> ElfBuilder {
    ElfBuilder::new(0x10_0000).segment(0x10_0000, CODE, 0x2345)
}

#[test]
fn an_elf_kernel_is_understood_by_its_physical_addresses() {
    let image = parse(&elf().segment(0x20_0000, b"", 0x800).segment(0, b"", 0).build()).unwrap();
    assert_eq!(image.format, KernelFormat::Elf);
    assert_eq!(image.segments.len(), 1);
    assert_eq!((image.segments[0].address, image.segments[0].file_size), (0x10_0000, 4));
    assert_eq!((image.linux_entry, image.pvh_entry), (Some(0x10_0000), None));
    assert_eq!(image.end, 0x20_0800);
    assert_eq!(image.cmdline_limit(), 2047);
}

#[test]
fn the_pvh_entry_is_found_in_both_sizes_and_paddings() {
    let entry = 0x10_0abcu32;
    for (description, alignment) in [
        (entry.to_le_bytes().to_vec(), 4),
        (u64::from(entry).to_le_bytes().to_vec(), 4),
        (entry.to_le_bytes().to_vec(), 8),
    ] {
        let file = elf()
            .note(b"GNU\0", 18, b"none", 4)
            .note(b"Xen\0", 17, b"none", 4)
            .note(b"Xen\0", 18, &description, alignment)
            .build();
        assert_eq!(parse(&file).unwrap().pvh_entry, Some(entry));
    }
}

#[test]
fn a_pvh_entry_outside_the_kernel_does_not_count() {
    let file = elf().note(b"Xen\0", 18, &0x90_0000u32.to_le_bytes(), 4).build();
    assert_eq!(parse(&file).unwrap().pvh_entry, None);
}

#[test]
fn notes_with_lengths_beyond_their_segment_are_ignored() {
    let mut file = elf().note(b"Xen\0", 18, &0x10_0000u32.to_le_bytes(), 4).build();
    let size = file.len();
    let note = size - 20;
    for lengths in [[u32::MAX, 4], [4, u32::MAX], [u32::MAX, u32::MAX], [4, 5]] {
        file[note..note + 4].copy_from_slice(&lengths[0].to_le_bytes());
        file[note + 4..note + 8].copy_from_slice(&lengths[1].to_le_bytes());
        assert_eq!(parse(&file).unwrap().pvh_entry, None);
    }
}

#[test]
fn a_bzimage_is_loaded_at_one_mib_and_entered_behind_its_start() {
    let mut file = BzImageBuilder::default().build();
    file.extend_from_slice(b"signature");
    let image = parse(&file).unwrap();
    let segment = Segment {
        file_offset: 2048,
        file_size: 4096,
        address: 0x10_0000,
    };
    assert_eq!(image.segments, [segment]);
    assert_eq!((image.linux_entry, image.pvh_entry), (Some(0x10_0200), None));
    assert_eq!(image.end, 0x110_0000);
    assert_eq!(image.initrd_address_max(), 0x7fff_ffff);
}

#[test]
fn a_bzimage_with_a_short_header_has_zeros_behind_it() {
    let mut builder = BzImageBuilder::default();
    // Up to and including `pref_address`.
    builder.header.jump = 0x5eeb;
    let KernelFormat::BzImage(header) = parse(&builder.build()).unwrap().format else {
        panic!("not a bzImage");
    };
    assert_eq!(({ header.pref_address }, { header.init_size }), (0x100_0000, 0));
}

/// Each kind of bad file, with the words that its error must have.
#[test]
fn bad_files_are_refused_with_what_is_wrong() {
    let bzimage = |change: &dyn Fn(&mut setup_header)| {
        let mut builder = BzImageBuilder::default();
        change(&mut builder.header);
        builder.build()
    };
    let elf_with = |change: &dyn Fn(&mut ElfBuilder)| {
        let mut builder = elf();
        change(&mut builder);
        builder.build()
    };
    let program_header = |header: ProgramHeader| elf().program_header(header, b"").build();
    let mut disk_image = vec![0; 0x400];
    disk_image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    let mut arm64_image = vec![0; 0x400];
    arm64_image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "empty"),
        (b"x".to_vec(), "unknown content"),
        (b"\x1f\x8b\x08".to_vec(), "gzip"),
        (disk_image, "boot sector"),
        (arm64_image, "arm64"),
        (elf().build()[..40].to_vec(), "ends after 40 bytes, and the ELF header"),
        (elf().build()[..80].to_vec(), "the program header table"),
        (elf().build()[..122].to_vec(), "a segment reaches byte 124"),
        (elf_with(&|elf| elf.header.machine = EM_AARCH64), "built for arm64"),
        (elf_with(&|elf| elf.header.machine = EM_386), "32-bit x86"),
        (elf_with(&|elf| elf.header.ident[4] = 1), "32-bit mode"),
        (elf_with(&|elf| elf.header.ident[5] = 2), "big-endian"),
        (elf_with(&|elf| elf.header.ident[5] = 0), "byte order"),
        (elf_with(&|elf| elf.header.file_type = 1), "type 1"),
        (
            elf_with(&|elf| elf.header.program_headers_offset = u64::MAX),
            "overflows",
        ),
        (elf_with(&|elf| elf.header.program_header_size = 32), "unknown size"),
        (elf_with(&|elf| elf.header.entry = 0x4020_0000), "no usable entry"),
        (
            elf_with(&|elf| elf.program_headers[0].physical_address = 0xf_f000),
            "below 1 MiB",
        ),
        (
            elf_with(&|elf| elf.program_headers[0].physical_address = u64::MAX - 5),
            "overflows",
        ),
        (
            elf_with(&|elf| elf.program_headers[0].memory_size = 3 << 30),
            "ends at 0xc0000000",
        ),
        (
            elf_with(&|elf| elf.program_headers[0].memory_size = 2),
            "more bytes in the file",
        ),
        (
            elf_with(&|elf| elf.program_headers[0].segment_type = 0),
            "no segment to load",
        ),
        (
            elf_with(&|elf| elf.program_headers = vec![Default::default(); 65]),
            "65 program headers",
        ),
        (
            program_header(ProgramHeader {
                segment_type: PT_INTERP,
                ..Default::default()
            }),
            "dynamically linked",
        ),
        (
            program_header(ProgramHeader {
                segment_type: PT_NOTE,
                file_size: 1 << 20,
                ..Default::default()
            }),
            "bytes of notes",
        ),
        (BzImageBuilder::default().build()[..0x210].to_vec(), "the setup header"),
        (
            BzImageBuilder::default().build()[..5000].to_vec(),
            "the protected-mode code reaches byte 6144",
        ),
        (bzimage(&|header| header.version = 0x020b), "boot protocol 2.11"),
        (bzimage(&|header| header.xloadflags = 0), "32-bit Linux"),
        (bzimage(&|header| header.loadflags = 0), "damaged"),
        (bzimage(&|header| header.syssize = 0), "no segment"),
        (bzimage(&|header| header.syssize = u32::MAX), "more than 536870912"),
        (bzimage(&|header| header.pref_address = u64::MAX), "overflows"),
        (bzimage(&|header| header.init_size = u32::MAX), "ends at 0xc0000000"),
        (bzimage(&|header| header.pref_address = 0), "below 1 MiB"),
    ];
    for (file, expected) in cases {
        let message = parse(&file).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}

/// Whatever a parsed image says must be safe to act on.
fn check_invariants(file: &[u8]) {
    let Ok(image) = parse(file) else { return };
    assert!(image.linux_entry.is_some() || image.pvh_entry.is_some());
    assert!(image.end <= GAP_START);
    for segment in &image.segments {
        assert!(segment.address >= HIGH_MEMORY_START);
        assert!(segment.address + segment.file_size <= image.end);
        assert!(segment.file_offset + segment.file_size <= file.len() as u64);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        check_invariants(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_an_elf_magic_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        check_invariants(&[b"\x7fELF\x02\x01\x01".as_slice(), &bytes].concat());
    }

    #[test]
    fn mutated_elf_headers_never_panic(
        changes in proptest::collection::vec((0usize..260, any::<u8>()), 1..8),
        cut in 0usize..300,
    ) {
        let mut file = elf().note(b"Xen\0", 18, &0x10_0000u32.to_le_bytes(), 4).build();
        for (position, byte) in changes {
            if let Some(target) = file.get_mut(position) {
                *target = byte;
            }
        }
        check_invariants(&file);
        file.truncate(cut);
        check_invariants(&file);
    }

    #[test]
    fn mutated_setup_headers_never_panic(
        changes in proptest::collection::vec((0x1f1usize..0x280, any::<u8>()), 1..8),
        cut in 0usize..7000,
    ) {
        let mut file = BzImageBuilder::default().build();
        for (position, byte) in changes {
            file[position] = byte;
        }
        check_invariants(&file);
        file.truncate(cut);
        check_invariants(&file);
    }
}
