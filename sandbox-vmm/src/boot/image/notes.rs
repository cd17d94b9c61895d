//! The notes of an ELF file: who owns one, of what type it is, what it says (System V ABI, chapter 5, "Note section").

use vm_memory::ByteValued;

use super::elf_format::{NoteHeader, ProgramHeader};
use super::{ImageError, Source};

/// Most bytes of notes that are read from one segment: bounds the memory that a hostile file claims. Kernels have about
/// 500, and the largest manifest of a Solo5 image is 7 KiB.
const MAX_NOTES_SIZE: u64 = 64 << 10;

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note<'a> {
    /// Its owner's name, with its NUL.
    pub(super) owner: &'a [u8],
    /// Its type, which has a meaning for that owner only.
    pub(super) note_type: u32,
    /// What it says.
    pub(super) description: &'a [u8],
}

/// The bytes of a note segment and how its notes are padded.
pub(super) struct Notes {
    bytes: Vec<u8>,
    alignment: usize,
}

impl Notes {
    /// Reads the segment.
    pub(super) fn read(source: Source<'_>, header: &ProgramHeader) -> Result<Self, ImageError> {
        if header.file_size > MAX_NOTES_SIZE {
            return Err(ImageError::TooMany {
                what: "bytes of notes",
                count: header.file_size,
                limit: MAX_NOTES_SIZE,
            });
        }
        let mut bytes = vec![0; header.file_size as usize];
        source.read(&mut bytes, header.offset, "a note segment")?;
        // Notes are padded to 4 bytes, or to 8 where the segment says so.
        let alignment = match header.alignment {
            8 => 8,
            _ => 4,
        };
        Ok(Self { bytes, alignment })
    }

    /// The notes, up to the first whose lengths leave the segment.
    pub(super) fn iter(&self) -> impl Iterator<Item = Note<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || next(&mut rest, self.alignment))
    }
}

/// Splits the first note off; `None` at the end, or where the lengths leave the segment.
fn next<'a>(rest: &mut &'a [u8], alignment: usize) -> Option<Note<'a>> {
    let mut header = NoteHeader::default();
    let header_size = size_of::<NoteHeader>();
    header.as_mut_slice().copy_from_slice(rest.get(..header_size)?);
    let owner_end = header_size.checked_add(header.name_size as usize)?;
    let description_start = owner_end.checked_next_multiple_of(alignment)?;
    let description_end = description_start.checked_add(header.description_size as usize)?;
    let note = Note {
        owner: rest.get(header_size..owner_end)?,
        note_type: header.note_type,
        description: rest.get(description_start..description_end)?,
    };
    let end = description_end.checked_next_multiple_of(alignment)?;
    *rest = rest.get(end..).unwrap_or_default();
    Some(note)
}
