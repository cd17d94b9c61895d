//! ELF64 executables, and the PVH note in them.

use vm_memory::ByteValued;

use super::elf_format::{
    BIG_ENDIAN, BYTE_ORDER_OFFSET, CLASS_64, CLASS_OFFSET, EM_386, EM_AARCH64, EM_ARM, EM_PPC64, EM_RISCV, EM_S390,
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader, LITTLE_ENDIAN, NoteHeader, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader,
};
use super::{
    IDENTITY_MAPPED_END, ImageError, KernelFormat, KernelImage, MAX_LOADED_SIZE, Segment, Source, check_placement,
};

/// Most program headers that are read: bounds the loop over a hostile file's table. Kernels have about five.
const MAX_PROGRAM_HEADERS: u64 = 64;
/// Most bytes of notes that are read, for the same reason. Kernels have about 500.
const MAX_NOTES_SIZE: u64 = 64 << 10;
/// Owner of the PVH note, with its NUL.
const XEN_OWNER: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// A memory range of a segment, the zero bytes behind its file content included.
struct Range {
    start: u64,
    end: u64,
}

/// Checks the headers and collects the segments and entries.
pub(super) fn parse(source: Source<'_>, head: &[u8]) -> Result<KernelImage, ImageError> {
    let header = file_header(source, head)?;
    let mut segments = Vec::new();
    let mut ranges = Vec::new();
    let mut pvh_entry = None;
    for program_header in program_headers(source, &header)? {
        match program_header.segment_type {
            PT_LOAD => load_segment(source, &program_header, &mut segments, &mut ranges)?,
            PT_NOTE => pvh_entry = pvh_entry.or(find_pvh_entry(source, &program_header)?),
            PT_INTERP => return Err(ImageError::NeedsInterpreter),
            _ => {}
        }
    }
    let size = segments.iter().map(|segment| segment.file_size).sum();
    if size == 0 {
        return Err(ImageError::NothingToLoad);
    }
    if size > MAX_LOADED_SIZE {
        return Err(ImageError::TooLarge {
            size,
            limit: MAX_LOADED_SIZE,
        });
    }
    let loaded = |address: u64| ranges.iter().any(|range| (range.start..range.end).contains(&address));
    let linux_entry = Some(header.entry).filter(|entry| loaded(*entry) && *entry < IDENTITY_MAPPED_END);
    let pvh_entry = pvh_entry.filter(|entry| loaded(u64::from(*entry)));
    if linux_entry.is_none() && pvh_entry.is_none() {
        return Err(ImageError::NoEntry { entry: header.entry });
    }
    Ok(KernelImage {
        format: KernelFormat::Elf,
        segments,
        linux_entry,
        pvh_entry,
        end: ranges.iter().map(|range| range.end).max().unwrap_or(0),
    })
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

/// Looks for the PVH entry among the notes of one segment.
fn find_pvh_entry(source: Source<'_>, header: &ProgramHeader) -> Result<Option<u32>, ImageError> {
    if header.file_size > MAX_NOTES_SIZE {
        return Err(ImageError::TooMany {
            what: "bytes of notes",
            count: header.file_size,
            limit: MAX_NOTES_SIZE,
        });
    }
    let mut notes = vec![0; header.file_size as usize];
    source.read(&mut notes, header.offset, "a note segment")?;
    // Notes are padded to 4 bytes, or to 8 where the segment says so.
    let alignment = match header.alignment {
        8 => 8,
        _ => 4,
    };
    let mut rest = notes.as_slice();
    while let Some((note, name, description)) = next_note(&mut rest, alignment) {
        if note.note_type == PHYS32_ENTRY && name == XEN_OWNER {
            return Ok(entry_address(description));
        }
    }
    Ok(None)
}

/// Splits the first note off; `None` at the end, or where the lengths leave the segment.
fn next_note<'a>(rest: &mut &'a [u8], alignment: usize) -> Option<(NoteHeader, &'a [u8], &'a [u8])> {
    let mut note = NoteHeader::default();
    let header_size = size_of::<NoteHeader>();
    note.as_mut_slice().copy_from_slice(rest.get(..header_size)?);
    let name_end = header_size.checked_add(note.name_size as usize)?;
    let description_start = name_end.checked_next_multiple_of(alignment)?;
    let description_end = description_start.checked_add(note.description_size as usize)?;
    let name = rest.get(header_size..name_end)?;
    let description = rest.get(description_start..description_end)?;
    let next = description_end.checked_next_multiple_of(alignment)?;
    *rest = rest.get(next..).unwrap_or_default();
    Some((note, name, description))
}

/// The entry is a 32-bit address, which older Linux kernels store in 8 bytes.
fn entry_address(description: &[u8]) -> Option<u32> {
    match description.len() {
        4 => description.try_into().ok().map(u32::from_le_bytes),
        8 => description.try_into().ok().map(u64::from_le_bytes)?.try_into().ok(),
        _ => None,
    }
}
