//! Kernel files, temporary files and guest memory for this module's tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::image::elf_format::{EM_X86_64, ET_EXEC, FileHeader, NoteHeader, PT_LOAD, PT_NOTE, ProgramHeader};
use crate::memory::{GuestMemory, HugePages};

/// Guest memory of `size` bytes.
pub(crate) fn memory(size: u64) -> GuestMemory {
    GuestMemory::new(size, HugePages::Never, false).unwrap()
}

/// A file that is deleted at the end of the test.
pub(crate) struct TempFile(PathBuf);

impl TempFile {
    pub(crate) fn new(content: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sandbox-boot-test-{}-{number}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes ELF64 executables.
pub(crate) struct ElfBuilder {
    pub(crate) header: FileHeader,
    pub(crate) program_headers: Vec<ProgramHeader>,
    contents: Vec<Vec<u8>>,
}

impl ElfBuilder {
    pub(crate) fn new(entry: u64) -> Self {
        let mut header = FileHeader {
            file_type: ET_EXEC,
            machine: EM_X86_64,
            version: 1,
            entry,
            program_headers_offset: size_of::<FileHeader>() as u64,
            program_header_size: size_of::<ProgramHeader>() as u16,
            ..Default::default()
        };
        header.ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        Self {
            header,
            program_headers: Vec::new(),
            contents: Vec::new(),
        }
    }

    /// Adds a PT_LOAD of `memory_size` bytes, with another virtual than physical address.
    pub(crate) fn segment(self, address: u64, content: &[u8], memory_size: u64) -> Self {
        let header = ProgramHeader {
            segment_type: PT_LOAD,
            virtual_address: address.wrapping_add(0xffff_ffff_8000_0000),
            physical_address: address,
            file_size: content.len() as u64,
            memory_size,
            ..Default::default()
        };
        self.program_header(header, content)
    }

    /// Adds a PT_NOTE with one note.
    pub(crate) fn note(self, name: &[u8], note_type: u32, description: &[u8], alignment: usize) -> Self {
        let note = NoteHeader {
            name_size: name.len() as u32,
            description_size: description.len() as u32,
            note_type,
        };
        let mut content = note.as_slice().to_vec();
        for part in [name, description] {
            content.extend_from_slice(part);
            content.resize(content.len().next_multiple_of(alignment), 0);
        }
        let header = ProgramHeader {
            segment_type: PT_NOTE,
            file_size: content.len() as u64,
            alignment: alignment as u64,
            ..Default::default()
        };
        self.program_header(header, &content)
    }

    pub(crate) fn program_header(mut self, header: ProgramHeader, content: &[u8]) -> Self {
        self.program_headers.push(header);
        self.contents.push(content.to_vec());
        self
    }

    pub(crate) fn build(mut self) -> Vec<u8> {
        self.header.program_header_count = self.program_headers.len() as u16;
        let table_size = self.program_headers.len() * size_of::<ProgramHeader>();
        let mut offset = (size_of::<FileHeader>() + table_size) as u64;
        let mut file = self.header.as_slice().to_vec();
        for (header, content) in self.program_headers.iter_mut().zip(&self.contents) {
            header.offset = offset;
            offset += content.len() as u64;
            file.extend_from_slice(header.as_slice());
        }
        file.extend(self.contents.concat());
        file
    }
}

/// Writes bzImages.
pub(crate) struct BzImageBuilder {
    pub(crate) header: setup_header,
    pub(crate) code: Vec<u8>,
}

impl Default for BzImageBuilder {
    /// What Debian's kernel says, with 4 KiB of code.
    fn default() -> Self {
        Self {
            header: setup_header {
                setup_sects: 3,
                syssize: 0x100,
                boot_flag: 0xaa55,
                jump: 0x6aeb,
                header: u32::from_le_bytes(*b"HdrS"),
                version: 0x020f,
                loadflags: 1,
                initrd_addr_max: 0x7fff_ffff,
                xloadflags: 0x7f,
                cmdline_size: 2047,
                pref_address: 0x100_0000,
                init_size: 0x10_0000,
                ..Default::default()
            },
            code: vec![0x90; 0x1000],
        }
    }
}

impl BzImageBuilder {
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 0x1f1];
        file.extend_from_slice(self.header.as_slice());
        file.resize(4 * 512, 0);
        file.extend_from_slice(&self.code);
        file
    }
}
