//! Putting a stored kernel into guest memory.

use super::error::BootError;
use super::store::{Placement, StoredKernel};
use crate::memory::GuestMemory;

/// Puts a kernel to its place, mapped where it is large. What it leaves out (the zero bytes of its segments) must be
/// zero already: `memory` is fresh, and no vCPU runs yet.
///
/// One system call maps each run of pages that the segments fill; Linux has two.
pub fn load(kernel: &StoredKernel, memory: &GuestMemory) -> Result<(), BootError> {
    load_with(kernel, memory, Placement::Mapped)
}

/// Puts a kernel to its place in the way asked for.
pub fn load_with(kernel: &StoredKernel, memory: &GuestMemory, placement: Placement) -> Result<(), BootError> {
    check_room(kernel, memory)?;
    kernel.content().put(0, memory, placement, "the kernel")
}

/// Refuses a kernel that does not fit.
pub(super) fn check_room(kernel: &StoredKernel, memory: &GuestMemory) -> Result<(), BootError> {
    let needed = kernel.image().end;
    let available = low_memory_end(memory);
    match needed <= available {
        true => Ok(()),
        false => Err(BootError::MemoryTooSmall { needed, available }),
    }
}

/// End of the RAM below the 32-bit gap.
pub(super) fn low_memory_end(memory: &GuestMemory) -> u64 {
    memory.ranges().first().map_or(0, |range| range.end())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

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
    }

    #[test]
    fn a_large_kernel_has_zeros_around_its_segments() {
        let code = vec![0xc3; 0x1_0123];
        let data: Vec<u8> = (0..0x2_0000u32).map(|index| index as u8).collect();
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, &code, code.len() as u64)
            .segment(0x20_0321, &data, 0x8_0000)
            .build();
        let kernel = StoredKernel::from_bytes(&file).unwrap();
        let memory = memory(4 << 20);
        load(&kernel, &memory).unwrap();
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
        let expected = BootError::MemoryTooSmall {
            needed: 0x110_0000,
            available: 0x40_0000,
        };
        assert_eq!(error.to_string(), expected.to_string());
    }
}
