//! A guest image around a few bytes of machine code, for measurements that need no more.

/// Where the code is loaded and entered.
const LOAD_ADDRESS: u64 = 0x10_0000;
const HEADER_SIZE: u16 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;

/// A static 64-bit ELF whose one segment is `code`.
pub(crate) fn image(code: &[u8]) -> Vec<u8> {
    let code_offset = u64::from(HEADER_SIZE + PROGRAM_HEADER_SIZE);
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_X86_64, version.
    elf.extend_from_slice(&2u16.to_le_bytes());
    elf.extend_from_slice(&62u16.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    // Entry, program headers, section headers, flags.
    elf.extend_from_slice(&LOAD_ADDRESS.to_le_bytes());
    elf.extend_from_slice(&u64::from(HEADER_SIZE).to_le_bytes());
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [HEADER_SIZE, PROGRAM_HEADER_SIZE, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, read, write and execute.
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&7u32.to_le_bytes());
    let size = code.len() as u64;
    for word in [code_offset, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}
