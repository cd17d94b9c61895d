//! The initial RAM disk.

use super::error::BootError;
use super::image::KernelImage;
use super::load::low_memory_end;
use super::store::{Placement, StoredInitrd};
use crate::memory::GuestMemory;
use crate::memory::layout::PAGE_SIZE;

/// Where an initrd lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Guest-physical address, a multiple of the page size.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Copies or maps a stored initrd into guest memory, as high as `kernel` allows. `memory` is fresh, and no vCPU runs
/// yet.
pub fn load_stored(initrd: &StoredInitrd, kernel: &KernelImage, memory: &GuestMemory) -> Result<Initrd, BootError> {
    let place = place(initrd.size(), kernel, memory)?;
    initrd
        .content()
        .put(place.address, memory, Placement::Mapped, "the initrd")?;
    Ok(place)
}

/// The highest page below the end of low memory and the kernel's limit from which `size` bytes fit.
fn place(size: u64, kernel: &KernelImage, memory: &GuestMemory) -> Result<Initrd, BootError> {
    let end = low_memory_end(memory).min(kernel.initrd_address_max() + 1);
    let start = kernel.end.next_multiple_of(PAGE_SIZE);
    let room = end.saturating_sub(start);
    match end.checked_sub(size).map(|address| address - address % PAGE_SIZE) {
        Some(address) if address >= start => Ok(Initrd { address, size }),
        _ => Err(BootError::InitrdTooLarge { size, room }),
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::boot::image::Source;
    use crate::boot::test_support::{ElfBuilder, memory};

    fn kernel() -> KernelImage {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, b"code", 0x10_0000)
            .build();
        KernelImage::parse(Source::Bytes(&file)).unwrap()
    }

    #[test]
    fn an_initrd_lies_page_aligned_at_the_end_of_memory_whatever_its_size() {
        for size in [5000, 200_000] {
            let memory = memory(4 << 20);
            let stored = StoredInitrd::from_bytes(&vec![5; size as usize]).unwrap();
            let initrd = load_stored(&stored, &kernel(), &memory).unwrap();
            assert_eq!(initrd.size, size);
            assert_eq!(initrd.address, (4 << 20) - size.next_multiple_of(PAGE_SIZE));
            let mut loaded = vec![0; size as usize + 1];
            memory.read_slice(&mut loaded, GuestAddress(initrd.address)).unwrap();
            assert!(loaded[..size as usize].iter().all(|byte| *byte == 5));
            assert_eq!(loaded[size as usize], 0);
        }
    }

    #[test]
    fn an_initrd_stays_below_the_kernels_highest_address() {
        let initrd = place(1, &kernel(), &memory(0xb000_0000)).unwrap();
        assert_eq!(initrd.address, 0x7fff_f000);
    }

    #[test]
    fn an_initrd_that_just_fits_touches_the_kernel() {
        let memory = memory(4 << 20);
        assert_eq!(place(0x20_0000, &kernel(), &memory).unwrap().address, 0x20_0000);
        let error = place(0x20_0001, &kernel(), &memory).unwrap_err();
        assert!(
            matches!(
                error,
                BootError::InitrdTooLarge {
                    size: 0x20_0001,
                    room: 0x20_0000
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn an_initrd_larger_than_the_address_space_is_refused() {
        let error = place(u64::MAX, &kernel(), &memory(4 << 20)).unwrap_err();
        assert!(matches!(error, BootError::InitrdTooLarge { .. }), "{error}");
    }
}
