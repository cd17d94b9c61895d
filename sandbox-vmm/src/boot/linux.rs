//! The 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst): the zero page.

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress};

use super::BootParameters;
use super::error::BootError;
use super::image::{KernelFormat, KernelImage};
use crate::memory::GuestMemory;
use crate::memory::layout::{BOOT_PARAMS_START, CMDLINE_START};

const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// The protocol version that the 64-bit entry came with.
const PROTOCOL_VERSION: u16 = 0x020c;
/// A boot loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xff;
/// What Linux is built with by default (`CONFIG_PHYSICAL_ALIGN`), in bytes.
const KERNEL_ALIGNMENT: u32 = 0x20_0000;

/// Writes the zero page.
pub(super) fn write_boot_params(memory: &GuestMemory, parameters: &BootParameters<'_>) -> Result<(), BootError> {
    let mut page = boot_params {
        hdr: setup_header(parameters),
        acpi_rsdp_addr: parameters.rsdp.unwrap_or(0),
        ..Default::default()
    };
    let mut table = page.e820_table;
    let entries = parameters.memory_map.entries(memory);
    table[..entries.len()].copy_from_slice(&entries);
    page.e820_table = table;
    page.e820_entries = entries.len() as u8;
    memory
        .write_obj(page, GuestAddress(BOOT_PARAMS_START))
        .map_err(|source| BootError::GuestMemory {
            what: "the zero page",
            source,
        })
}

fn setup_header(parameters: &BootParameters<'_>) -> setup_header {
    let mut header = match &parameters.kernel.format {
        KernelFormat::BzImage(header) => **header,
        KernelFormat::Elf => elf_header(parameters.kernel, parameters.cmdline.len()),
    };
    header.type_of_loader = UNDEFINED_LOADER;
    header.cmd_line_ptr = CMDLINE_START as u32;
    // An initrd lies below the 32-bit gap.
    header.ramdisk_image = parameters.initrd.map_or(0, |initrd| initrd.address as u32);
    header.ramdisk_size = parameters.initrd.map_or(0, |initrd| initrd.size as u32);
    header
}

/// What a kernel that has no setup header of its own finds in the zero page. Some take the command line's length from
/// `cmdline_size`, so that is its size here (0 for none) and not the kernel's limit.
fn elf_header(kernel: &KernelImage, cmdline_length: usize) -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL_VERSION,
        loadflags: LOADED_HIGH,
        initrd_addr_max: kernel.initrd_address_max() as u32,
        kernel_alignment: KERNEL_ALIGNMENT,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: match cmdline_length {
            0 => 0,
            length => length as u32 + 1,
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::cmdline::CommandLine;
    use crate::boot::image::Source;
    use crate::boot::initrd::Initrd;
    use crate::boot::memory_map::MemoryMap;
    use crate::boot::test_support::{BzImageBuilder, ElfBuilder, memory};

    fn zero_page(file: &[u8], initrd: Option<Initrd>, rsdp: Option<u64>) -> boot_params {
        let kernel = KernelImage::parse(Source::Bytes(file)).unwrap();
        let memory = memory(128 << 20);
        let parameters = BootParameters {
            kernel: &kernel,
            cmdline: &CommandLine::new("console=ttyS0", &[], 2047).unwrap(),
            initrd,
            rsdp,
            memory_map: MemoryMap::RamOnly,
        };
        write_boot_params(&memory, &parameters).unwrap();
        memory.read_obj(GuestAddress(BOOT_PARAMS_START)).unwrap()
    }

    fn elf() -> Vec<u8> {
        ElfBuilder::new(0x10_0000).segment(0x10_0000, b"code", 4).build()
    }

    #[test]
    fn an_elf_kernel_gets_a_header_it_can_check() {
        let page = zero_page(&elf(), None, None);
        let header = page.hdr;
        assert_eq!({ header.boot_flag }, 0xaa55);
        assert_eq!({ header.header }.to_le_bytes(), *b"HdrS");
        assert_eq!({ header.type_of_loader }, 0xff);
        assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
        assert_eq!({ header.cmdline_size }, 14);
        assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (0, 0));
        assert_eq!({ page.acpi_rsdp_addr }, 0);
        assert_eq!({ page.e820_entries }, 2);
        let last = page.e820_table[1];
        assert_eq!(
            ({ last.addr }, { last.size }, { last.r#type }),
            (0x10_0000, (128 << 20) - 0x10_0000, 1)
        );
    }

    #[test]
    fn initrd_and_acpi_tables_are_announced() {
        let initrd = Initrd {
            address: 0x700_0000,
            size: 12345,
        };
        let page = zero_page(&elf(), Some(initrd), Some(0xe_0000));
        assert_eq!(
            ({ page.hdr.ramdisk_image }, { page.hdr.ramdisk_size }),
            (0x700_0000, 12345)
        );
        assert_eq!({ page.acpi_rsdp_addr }, 0xe_0000);
    }

    #[test]
    fn a_bzimage_keeps_its_own_header() {
        let file = BzImageBuilder::default().build();
        let header = zero_page(&file, None, None).hdr;
        assert_eq!({ header.version }, 0x020f);
        assert_eq!({ header.cmdline_size }, 2047);
        assert_eq!({ header.pref_address }, 0x100_0000);
        assert_eq!({ header.type_of_loader }, 0xff);
        assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
    }
}
