//! PVH, direct boot of a 32-bit entry (xen/docs/misc/pvh.pandoc): `hvm_start_info`.

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::BootParameters;
use super::error::BootError;
use crate::memory::GuestMemory;
use crate::memory::layout::{BOOT_PARAMS_START, CMDLINE_START, PVH_TABLES_START};

/// The version with the memory map.
const START_INFO_VERSION: u32 = 1;

/// Writes `hvm_start_info`, and the module list and memory map that it points to.
pub(super) fn write_start_info(memory: &GuestMemory, parameters: &BootParameters<'_>) -> Result<(), BootError> {
    let mut tables = Vec::with_capacity(256);
    if let Some(initrd) = parameters.initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.size,
            ..Default::default()
        };
        tables.extend_from_slice(module.as_slice());
    }
    let memory_map_start = PVH_TABLES_START + tables.len() as u64;
    let entries = parameters.memory_map.entries(memory);
    for entry in &entries {
        let entry = hvm_memmap_table_entry {
            addr: entry.addr,
            size: entry.size,
            type_: entry.r#type,
            reserved: 0,
        };
        tables.extend_from_slice(entry.as_slice());
    }
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        flags: 0,
        nr_modules: u32::from(parameters.initrd.is_some()),
        modlist_paddr: parameters.initrd.map_or(0, |_| PVH_TABLES_START),
        cmdline_paddr: CMDLINE_START,
        rsdp_paddr: parameters.rsdp.unwrap_or(0),
        memmap_paddr: memory_map_start,
        memmap_entries: entries.len() as u32,
        reserved: 0,
    };
    memory
        .write_slice(&tables, GuestAddress(PVH_TABLES_START))
        .and_then(|()| memory.write_obj(start_info, GuestAddress(BOOT_PARAMS_START)))
        .map_err(|source| BootError::GuestMemory {
            what: "the PVH start info",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::cmdline::CommandLine;
    use crate::boot::image::{KernelImage, Source};
    use crate::boot::initrd::Initrd;
    use crate::boot::memory_map::MemoryMap;
    use crate::boot::test_support::{ElfBuilder, memory};

    #[test]
    fn start_info_points_to_command_line_modules_and_memory_map() {
        let file = ElfBuilder::new(0x10_0000).segment(0x10_0000, b"code", 4).build();
        let memory = memory(8 << 20);
        let parameters = BootParameters {
            kernel: &KernelImage::parse(Source::Bytes(&file)).unwrap(),
            cmdline: &CommandLine::new("", &[], 2047).unwrap(),
            initrd: Some(Initrd {
                address: 0x70_0000,
                size: 77,
            }),
            rsdp: Some(0xe_0000),
            memory_map: MemoryMap::RamOnly,
        };
        write_start_info(&memory, &parameters).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(0x7000)).unwrap();
        assert_eq!((info.magic, info.version), (0x336e_c578, 1));
        assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (0x2_0000, 0xe_0000));
        assert_eq!((info.nr_modules, info.memmap_entries), (1, 2));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x70_0000, 77));
        let ram: [hvm_memmap_table_entry; 2] =
            [0, 24].map(|offset| memory.read_obj(GuestAddress(info.memmap_paddr + offset)).unwrap());
        assert_eq!((ram[0].addr, ram[0].size, ram[0].type_), (0, 0x9_fc00, 1));
        assert_eq!((ram[1].addr, ram[1].size, ram[1].type_), (0x10_0000, 0x70_0000, 1));
    }
}
