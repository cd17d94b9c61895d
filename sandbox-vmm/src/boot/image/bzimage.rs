//! bzImage files (Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use super::origin::Origin;
use super::{ImageError, KernelFormat, KernelImage, MAX_LOADED_SIZE, Segment, Source, check_placement};
use crate::memory::layout::HIGH_MEMORY_START;

/// Offset of the setup header in the file and in the zero page.
const HEADER_OFFSET: usize = 0x1f1;
const BOOT_FLAG_OFFSET: usize = 0x1fe;
const BOOT_FLAG: &[u8] = &[0x55, 0xaa];
/// Offset of the jump instruction whose operand gives the end of the setup header.
const JUMP_OFFSET: usize = 0x200;
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// First version with `xloadflags`, which tells of the 64-bit entry.
const VERSION_WITH_64_BIT_ENTRY: u16 = 0x020c;
/// Where the 64-bit entry lies behind the start of the protected-mode code.
const ENTRY_64_OFFSET: u64 = 0x200;
const SECTOR_SIZE: u64 = 512;
/// Sectors of real-mode code where the header says 0.
const DEFAULT_SETUP_SECTORS: u64 = 4;
/// The unit of `syssize`, in bytes.
const PARAGRAPH_SIZE: u64 = 16;

/// Tells a bzImage by its boot flag and magic number.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..offset + bytes.len()) == Some(bytes);
    at(BOOT_FLAG_OFFSET, BOOT_FLAG) && at(MAGIC_OFFSET, MAGIC)
}

/// Reads the setup header and finds the protected-mode code.
pub(super) fn parse(source: Source<'_>, head: &[u8]) -> Result<KernelImage, ImageError> {
    let header = setup_header(source, head)?;
    let setup_sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => u64::from(sectors),
    };
    let file_offset = (setup_sectors + 1) * SECTOR_SIZE;
    // What follows the code, a signature for instance, is not loaded.
    let file_size = u64::from(header.syssize) * PARAGRAPH_SIZE;
    if file_size <= ENTRY_64_OFFSET {
        return Err(ImageError::NothingToLoad);
    }
    if file_size > MAX_LOADED_SIZE {
        return Err(ImageError::TooLarge {
            size: file_size,
            limit: MAX_LOADED_SIZE,
        });
    }
    source.check(file_offset, file_size, "the protected-mode code")?;
    let code_end = check_placement(HIGH_MEMORY_START, file_size)?;
    // The decompressor moves itself to the preferred address and works in `init_size` bytes there.
    let work_end = check_placement(header.pref_address, u64::from(header.init_size))?;
    Ok(KernelImage {
        format: KernelFormat::BzImage(Box::new(header)),
        segments: vec![Segment {
            file_offset,
            file_size,
            address: HIGH_MEMORY_START,
        }],
        linux_entry: Some(HIGH_MEMORY_START + ENTRY_64_OFFSET),
        pvh_entry: None,
        end: code_end.max(work_end),
        origin: Origin::LINUX_HEADER,
        hvt_entry: None,
        solo5: None,
    })
}

/// The setup header as far as this kernel has one: fields of later protocol versions stay zero.
fn setup_header(source: Source<'_>, head: &[u8]) -> Result<setup_header, ImageError> {
    let mut header = setup_header::default();
    let end = MAGIC_OFFSET + usize::from(head[JUMP_OFFSET + 1]);
    let size = header.as_slice().len().min(end - HEADER_OFFSET);
    source.check(HEADER_OFFSET as u64, size as u64, "the setup header")?;
    header.as_mut_slice()[..size].copy_from_slice(&head[HEADER_OFFSET..HEADER_OFFSET + size]);
    if header.version < VERSION_WITH_64_BIT_ENTRY {
        return Err(ImageError::BootProtocolTooOld {
            version: header.version,
        });
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::LinuxIs32Bit);
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(ImageError::Malformed {
            what: "a 64-bit kernel that does not load at 1 MiB",
        });
    }
    Ok(header)
}
