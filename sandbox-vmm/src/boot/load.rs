//! Putting a stored kernel into guest memory.

use std::os::fd::AsFd;

use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::image::KernelImage;
use super::store::{Content, Extent, StoredKernel};
use crate::memory::GuestMemory;

/// Copies or maps a kernel to its place. What it leaves out (the zero bytes of its segments) must be zero already:
/// `memory` is fresh, and no vCPU runs yet.
///
/// One system call maps each run of pages that the segments fill; Linux has two.
pub fn load(kernel: &StoredKernel, memory: &GuestMemory) -> Result<(), BootError> {
    check_fits(kernel.image(), memory)?;
    for extent in kernel.extents() {
        match kernel.content() {
            Content::Bytes(bytes) => {
                let range = extent.offset as usize..(extent.offset + extent.len) as usize;
                memory
                    .write_slice(&bytes[range], GuestAddress(extent.address))
                    .map_err(|source| BootError::GuestMemory {
                        what: "the kernel",
                        source,
                    })?;
            }
            Content::Pages(file) => map(extent, file, memory)?,
        }
    }
    Ok(())
}

fn map(extent: &Extent, file: &impl AsFd, memory: &GuestMemory) -> Result<(), BootError> {
    let offset = memory
        .mapping_offset(extent.address, extent.len)
        .ok_or_else(|| too_small(extent.address + extent.len, memory))?;
    memory
        .mapping()
        .overlay_file(offset, extent.len, file.as_fd(), extent.offset)
        .map_err(BootError::MapKernel)
}

fn check_fits(image: &KernelImage, memory: &GuestMemory) -> Result<(), BootError> {
    match image.end <= low_memory_end(memory) {
        true => Ok(()),
        false => Err(too_small(image.end, memory)),
    }
}

fn too_small(needed: u64, memory: &GuestMemory) -> BootError {
    BootError::MemoryTooSmall {
        needed,
        available: low_memory_end(memory),
    }
}

/// End of the RAM below the 32-bit gap.
pub(super) fn low_memory_end(memory: &GuestMemory) -> u64 {
    memory.ranges().first().map_or(0, |range| range.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::test_support::{ElfBuilder, memory};

    #[test]
    fn a_small_kernel_is_copied_to_its_physical_address() {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, b"code", 4)
            .segment(0x20_0010, b"data", 0x100)
            .build();
        let kernel = StoredKernel::from_bytes(&file).unwrap();
        let memory = memory(4 << 20);
        load(&kernel, &memory).unwrap();
        assert_eq!(&memory.read_obj::<[u8; 4]>(GuestAddress(0x10_0000)).unwrap(), b"code");
        assert_eq!(&memory.read_obj::<[u8; 4]>(GuestAddress(0x20_0010)).unwrap(), b"data");
        assert!(matches!(kernel.content(), Content::Bytes(_)));
    }

    #[test]
    fn a_large_kernel_is_mapped_page_by_page_with_zeros_around_it() {
        let code = vec![0xc3; 0x1_0123];
        let data: Vec<u8> = (0..0x2_0000u32).map(|index| index as u8).collect();
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, &code, code.len() as u64)
            .segment(0x20_0321, &data, 0x8_0000)
            .build();
        let kernel = StoredKernel::from_bytes(&file).unwrap();
        let memory = memory(4 << 20);
        load(&kernel, &memory).unwrap();
        assert!(matches!(kernel.content(), Content::Pages(_)));
        let mut loaded = vec![0; 0x2_0000 + 0x642];
        memory.read_slice(&mut loaded, GuestAddress(0x20_0000)).unwrap();
        assert!(loaded[..0x321].iter().all(|byte| *byte == 0));
        assert_eq!(loaded[0x321..0x2_0321], data);
        assert!(loaded[0x2_0321..].iter().all(|byte| *byte == 0));
        let mut tail = vec![1; 0x1000];
        memory.read_slice(&mut tail, GuestAddress(0x11_0000)).unwrap();
        assert_eq!(tail[..0x123], code[..0x123]);
        assert!(tail[0x123..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn guests_of_one_stored_kernel_do_not_see_each_others_writes() {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, &[7; 0x2_0000], 0x2_0000)
            .build();
        let kernel = StoredKernel::from_bytes(&file).unwrap();
        let (first, second) = (memory(4 << 20), memory(4 << 20));
        load(&kernel, &first).unwrap();
        load(&kernel, &second).unwrap();
        first.write_obj(1u8, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(first.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 1);
        assert_eq!(second.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 7);
    }

    #[test]
    fn a_kernel_that_reaches_beyond_memory_names_what_it_needs() {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, b"code", 0x100_0000)
            .build();
        let kernel = StoredKernel::from_bytes(&file).unwrap();
        let error = load(&kernel, &memory(4 << 20)).unwrap_err();
        assert!(
            matches!(
                error,
                BootError::MemoryTooSmall {
                    needed: 0x110_0000,
                    available: 0x40_0000
                }
            ),
            "{error}"
        );
    }
}
