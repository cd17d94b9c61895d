//! ELF64 executables, and the PVH note in them.

use vm_memory::ByteValued;

use super::elf_format::{
    BIG_ENDIAN, BYTE_ORDER_OFFSET, CLASS_64, CLASS_OFFSET, EM_386, EM_AARCH64, EM_ARM, EM_PPC64, EM_RISCV, EM_S390,
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader, LITTLE_ENDIAN, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader,
};
use super::notes::{Note, Notes};
use super::origin::{Maker, Origin};
use super::solo5::{Area, Solo5Image, Solo5Notes};
use super::{
    IDENTITY_MAPPED_END, ImageError, KernelFormat, KernelImage, MAX_LOADED_SIZE, Segment, Source, check_placement,
};

/// Most program headers that are read: bounds the loop over a hostile file's table. Kernels have about five.
const MAX_PROGRAM_HEADERS: u64 = 64;
/// Owner of the PVH note, with its NUL.
const XEN_OWNER: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// A memory range of a segment, the zero bytes behind its file content included.
struct Range {
    start: u64,
    end: u64,
    /// `p_flags`.
    flags: u32,
}

/// What the notes of all segments say.
#[derive(Default)]
struct Told {
    pvh_entry: Option<u32>,
    maker: Option<(Maker, &'static str)>,
    solo5: Solo5Notes,
}

impl Told {
    fn take(&mut self, note: &Note<'_>) {
        if note.note_type == PHYS32_ENTRY && note.owner == XEN_OWNER && self.pvh_entry.is_none() {
            self.pvh_entry = entry_address(note.description);
        }
        self.maker = self.maker.or(Origin::of_note(note));
        self.solo5.take(note);
    }
}

/// Checks the headers and collects the segments and entries.
pub(super) fn parse(source: Source<'_>, head: &[u8]) -> Result<KernelImage, ImageError> {
    let header = match file_header(source, head) {
        Err(error @ ImageError::WrongArchitecture { .. }) => return Err(other_build(source).unwrap_or(error)),
        header => header?,
    };
    let mut segments = Vec::new();
    let mut ranges = Vec::new();
    let mut told = Told::default();
    let mut interpreter = false;
    for program_header in program_headers(source, &header)? {
        match program_header.segment_type {
            PT_LOAD => load_segment(source, &program_header, &mut segments, &mut ranges)?,
            PT_NOTE => Notes::read(source, &program_header)?
                .iter()
                .for_each(|note| told.take(&note)),
            PT_INTERP => interpreter = true,
            _ => {}
        }
    }
    let areas = ranges.iter().map(|range| Area {
        start: range.start,
        end: range.end,
        writable: range.flags & PF_W != 0,
        executable: range.flags & PF_X != 0,
    });
    let solo5 = told.solo5.image(areas.collect())?.map(Box::new);
    // Solo5 images name an interpreter that nobody has, so that they are not started as programs.
    if interpreter && solo5.is_none() {
        return Err(ImageError::NeedsInterpreter);
    }
    check_size(&segments)?;
    let loaded = |address: u64| ranges.iter().any(|range| (range.start..range.end).contains(&address));
    let entry = Some(header.entry).filter(|entry| loaded(*entry) && *entry < IDENTITY_MAPPED_END);
    let pvh_entry = told.pvh_entry.filter(|entry| loaded(u64::from(*entry)));
    if entry.is_none() && pvh_entry.is_none() {
        return Err(ImageError::NoEntry { entry: header.entry });
    }
    let lowest = ranges.iter().map(|range| range.start).min().unwrap_or(0);
    Ok(KernelImage {
        format: KernelFormat::Elf,
        segments,
        linux_entry: entry.filter(|_| solo5.is_none()),
        pvh_entry,
        end: ranges.iter().map(|range| range.end).max().unwrap_or(0),
        origin: origin(source, told.maker, solo5.as_deref(), lowest)?,
        hvt_entry: entry.filter(|_| solo5.is_some()),
        solo5,
    })
}

fn origin(
    source: Source<'_>,
    maker: Option<(Maker, &'static str)>,
    solo5: Option<&Solo5Image>,
    lowest: u64,
) -> Result<Origin, ImageError> {
    let maker = match solo5 {
        Some(_) => Some((Maker::Solo5, "it has Solo5's ELF notes of interface and manifest")),
        None => maker,
    };
    match maker {
        Some(_) => Ok(Origin {
            maker,
            ..Origin::default()
        }),
        None => Origin::of_words(source, lowest),
    }
}

/// A build for another kind of machine, of a project whose build for this one would run.
fn other_build(source: Source<'_>) -> Option<ImageError> {
    let origin = Origin::of_words(source, 0).ok()?;
    match origin.maker? {
        (Maker::Unikraft, _) => Some(ImageError::OtherBuild {
            what: "a Unikraft image for QEMU, in 32-bit Multiboot format and with devices on a PCI bus".to_owned(),
            instead: "build it for Firecracker (the target fc, KVM_VMM_FIRECRACKER)",
        }),
        _ => None,
    }
}

fn check_size(segments: &[Segment]) -> Result<(), ImageError> {
    match segments.iter().map(|segment| segment.file_size).sum() {
        0 => Err(ImageError::NothingToLoad),
        size if size > MAX_LOADED_SIZE => Err(ImageError::TooLarge {
            size,
            limit: MAX_LOADED_SIZE,
        }),
        _ => Ok(()),
    }
}

fn file_header(source: Source<'_>, head: &[u8]) -> Result<FileHeader, ImageError> {
    let mut header = FileHeader::default();
    let size = header.as_slice().len();
    source.check(0, size as u64, "the ELF header")?;
    match head[BYTE_ORDER_OFFSET] {
        LITTLE_ENDIAN => {}
        BIG_ENDIAN => {
            return Err(ImageError::WrongArchitecture {
                architecture: "a big-endian processor",
            });
        }
        _ => {
            return Err(ImageError::Malformed {
                what: "an ELF file of unknown byte order",
            });
        }
    }
    header.as_mut_slice().copy_from_slice(&head[..size]);
    // The machine stands at the same place in both classes, and says more than the class does.
    if header.machine != EM_X86_64 {
        return Err(ImageError::WrongArchitecture {
            architecture: architecture_name(header.machine),
        });
    }
    if head[CLASS_OFFSET] != CLASS_64 {
        return Err(ImageError::WrongArchitecture {
            architecture: "32-bit mode of x86_64",
        });
    }
    match header.file_type {
        ET_EXEC | ET_DYN => Ok(header),
        elf_type => Err(ImageError::NotExecutable { elf_type }),
    }
}

fn architecture_name(machine: u16) -> &'static str {
    match machine {
        EM_386 => "32-bit x86",
        EM_ARM => "32-bit ARM",
        EM_AARCH64 => "arm64",
        EM_RISCV => "RISC-V",
        EM_PPC64 => "64-bit PowerPC",
        EM_S390 => "S/390",
        _ => "another architecture",
    }
}

fn program_headers(source: Source<'_>, header: &FileHeader) -> Result<Vec<ProgramHeader>, ImageError> {
    let count = u64::from(header.program_header_count);
    if count > MAX_PROGRAM_HEADERS {
        return Err(ImageError::TooMany {
            what: "program headers",
            count,
            limit: MAX_PROGRAM_HEADERS,
        });
    }
    if count > 0 && usize::from(header.program_header_size) != size_of::<ProgramHeader>() {
        return Err(ImageError::Malformed {
            what: "program headers of unknown size",
        });
    }
    let mut table = vec![ProgramHeader::default(); count as usize];
    let mut bytes = vec![0; count as usize * size_of::<ProgramHeader>()];
    source.read(&mut bytes, header.program_headers_offset, "the program header table")?;
    for (entry, entry_bytes) in table.iter_mut().zip(bytes.chunks_exact(size_of::<ProgramHeader>())) {
        entry.as_mut_slice().copy_from_slice(entry_bytes);
    }
    Ok(table)
}

fn load_segment(
    source: Source<'_>,
    header: &ProgramHeader,
    segments: &mut Vec<Segment>,
    ranges: &mut Vec<Range>,
) -> Result<(), ImageError> {
    if header.file_size > header.memory_size {
        return Err(ImageError::Malformed {
            what: "a segment with more bytes in the file than in memory",
        });
    }
    // Linkers leave empty segments behind, with whatever address.
    if header.memory_size == 0 {
        return Ok(());
    }
    let end = check_placement(header.physical_address, header.memory_size)?;
    ranges.push(Range {
        start: header.physical_address,
        end,
        flags: header.flags,
    });
    if header.file_size > 0 {
        source.check(header.offset, header.file_size, "a segment")?;
        segments.push(Segment {
            file_offset: header.offset,
            file_size: header.file_size,
            address: header.physical_address,
        });
    }
    Ok(())
}

/// The entry is a 32-bit address, which older Linux kernels store in 8 bytes.
fn entry_address(description: &[u8]) -> Option<u32> {
    match description.len() {
        4 => description.try_into().ok().map(u32::from_le_bytes),
        8 => description.try_into().ok().map(u64::from_le_bytes)?.try_into().ok(),
        _ => None,
    }
}
