//! The structures of an ELF64 file (System V ABI, gABI chapters 4 and 5), little-endian.

use vm_memory::ByteValued;

/// First bytes of every ELF file.
pub(crate) const MAGIC: &[u8] = b"\x7fELF";
/// Offset of the class in `e_ident`.
pub(crate) const CLASS_OFFSET: usize = 4;
/// The class of 64-bit files.
pub(crate) const CLASS_64: u8 = 2;
/// Offset of the byte order in `e_ident`.
pub(crate) const BYTE_ORDER_OFFSET: usize = 5;
/// The byte order of x86_64.
pub(crate) const LITTLE_ENDIAN: u8 = 1;
/// The other byte order.
pub(crate) const BIG_ENDIAN: u8 = 2;

/// `e_type`: an executable.
pub(crate) const ET_EXEC: u16 = 2;
/// `e_type`: a position-independent executable, or a shared library.
pub(crate) const ET_DYN: u16 = 3;

/// `e_machine` of the machines that kernels are commonly built for.
pub(crate) const EM_386: u16 = 3;
pub(crate) const EM_PPC64: u16 = 21;
pub(crate) const EM_S390: u16 = 22;
pub(crate) const EM_ARM: u16 = 40;
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const EM_AARCH64: u16 = 183;
pub(crate) const EM_RISCV: u16 = 243;

/// `p_type`: a segment to load.
pub(crate) const PT_LOAD: u32 = 1;
/// `p_type`: the path of the dynamic linker.
pub(crate) const PT_INTERP: u32 = 3;
/// `p_type`: notes.
pub(crate) const PT_NOTE: u32 = 4;

/// `p_flags`: executed.
pub(crate) const PF_X: u32 = 1;
/// `p_flags`: written.
pub(crate) const PF_W: u32 = 2;

/// `Elf64_Ehdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileHeader {
    pub(crate) ident: [u8; 16],
    pub(crate) file_type: u16,
    pub(crate) machine: u16,
    pub(crate) version: u32,
    pub(crate) entry: u64,
    pub(crate) program_headers_offset: u64,
    pub(crate) section_headers_offset: u64,
    pub(crate) flags: u32,
    pub(crate) header_size: u16,
    pub(crate) program_header_size: u16,
    pub(crate) program_header_count: u16,
    pub(crate) section_header_size: u16,
    pub(crate) section_header_count: u16,
    pub(crate) section_names_index: u16,
}

/// `Elf64_Phdr`; sizes and offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProgramHeader {
    pub(crate) segment_type: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) virtual_address: u64,
    pub(crate) physical_address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) alignment: u64,
}

/// `Elf64_Nhdr`; sizes in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoteHeader {
    pub(crate) name_size: u32,
    pub(crate) description_size: u32,
    pub(crate) note_type: u32,
}

// SAFETY: the structure holds integers only and has no padding.
unsafe impl ByteValued for FileHeader {}
// SAFETY: the structure holds integers only and has no padding.
unsafe impl ByteValued for ProgramHeader {}
// SAFETY: the structure holds integers only and has no padding.
unsafe impl ByteValued for NoteHeader {}
