//! The initial RAM disk.

use std::fs::File;
use std::io::Seek;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::error::{BootError, Subject};
use super::image::KernelImage;
use super::load::low_memory_end;
use super::open;
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

/// Opens an initrd, which must be a regular file.
pub fn open(path: &Path) -> Result<File, BootError> {
    open::metadata(path, Subject::Initrd)?;
    open::regular_file(path, Subject::Initrd)
}

/// Reads an initrd from its start into guest memory, as high as `kernel` allows. Moves the position of `file`.
pub fn load(file: &File, kernel: &KernelImage, memory: &GuestMemory) -> Result<Initrd, BootError> {
    let metadata = file.metadata().map_err(BootError::ReadInitrd)?;
    open::check_regular(&metadata, Path::new("the initrd"), Subject::Initrd)?;
    let initrd = place(metadata.len(), kernel, memory)?;
    read(file, initrd, memory)?;
    Ok(initrd)
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
    if size == 0 {
        return Err(BootError::InitrdEmpty);
    }
    let end = low_memory_end(memory).min(kernel.initrd_address_max() + 1);
    let start = kernel.end.next_multiple_of(PAGE_SIZE);
    let room = end.saturating_sub(start);
    match end.checked_sub(size).map(|address| address - address % PAGE_SIZE) {
        Some(address) if address >= start => Ok(Initrd { address, size }),
        _ => Err(BootError::InitrdTooLarge { size, room }),
    }
}

/// One `read` is enough up to 2 GiB, where the kernel cuts it short.
fn read(mut file: &File, initrd: Initrd, memory: &GuestMemory) -> Result<(), BootError> {
    file.rewind().map_err(BootError::ReadInitrd)?;
    let mut done = 0;
    while done < initrd.size {
        let address = GuestAddress(initrd.address + done);
        let rest = initrd.size - done;
        let count = memory
            .read_volatile_from(address, &mut file, rest as usize)
            .map_err(|source| BootError::GuestMemory {
                what: "the initrd",
                source,
            })?;
        if count == 0 {
            return Err(BootError::FileChanged {
                subject: Subject::Initrd,
            });
        }
        done += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::boot::image::Source;
    use crate::boot::test_support::{ElfBuilder, TempFile, memory};

    fn kernel() -> KernelImage {
        let file = ElfBuilder::new(0x10_0000)
            .segment(0x10_0000, b"code", 0x10_0000)
            .build();
        KernelImage::parse(Source::Bytes(&file)).unwrap()
    }

    #[test]
    fn an_initrd_lies_page_aligned_at_the_end_of_memory() {
        let file = TempFile::new(&[5; 5000]);
        let memory = memory(4 << 20);
        let initrd = load(&open(file.path()).unwrap(), &kernel(), &memory).unwrap();
        assert_eq!(initrd.address, (4 << 20) - 0x2000);
        assert_eq!(initrd.size, 5000);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(initrd.address + 4999)).unwrap(), 5);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(initrd.address + 5000)).unwrap(), 0);
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

    #[test]
    fn an_open_file_is_read_from_its_start() {
        let content = TempFile::new(b"");
        let mut file = File::options().read(true).write(true).open(content.path()).unwrap();
        file.write_all(b"archive").unwrap();
        let memory = memory(4 << 20);
        let initrd = load(&file, &kernel(), &memory).unwrap();
        assert_eq!(
            &memory.read_obj::<[u8; 8]>(GuestAddress(initrd.address)).unwrap(),
            b"archive\0"
        );
    }

    #[test]
    fn a_stored_initrd_is_put_into_place_whatever_its_size() {
        let memory = memory(4 << 20);
        for size in [5000, 200_000] {
            let stored = StoredInitrd::from_bytes(&vec![5; size as usize]).unwrap();
            let initrd = load_stored(&stored, &kernel(), &memory).unwrap();
            assert_eq!(initrd.size, size);
            assert_eq!(initrd.address, (4 << 20) - size.next_multiple_of(PAGE_SIZE));
            let mut loaded = vec![0; size as usize];
            memory.read_slice(&mut loaded, GuestAddress(initrd.address)).unwrap();
            assert!(loaded.iter().all(|byte| *byte == 5));
        }
        let too_large = StoredInitrd::from_bytes(&vec![5; 3 << 20]).unwrap();
        let error = load_stored(&too_large, &kernel(), &memory).unwrap_err();
        assert!(matches!(error, BootError::InitrdTooLarge { .. }), "{error}");
    }

    #[test]
    fn missing_empty_and_irregular_initrds_are_told_apart() {
        let missing = open(Path::new("/nonexistent/initrd")).unwrap_err();
        assert!(
            matches!(
                missing,
                BootError::Open {
                    subject: Subject::Initrd,
                    ..
                }
            ),
            "{missing}"
        );
        let directory = open(Path::new("/")).unwrap_err();
        assert!(
            matches!(
                directory,
                BootError::NotAFile {
                    found: "a directory",
                    ..
                }
            ),
            "{directory}"
        );
        let empty = TempFile::new(b"");
        let empty = load(&open(empty.path()).unwrap(), &kernel(), &memory(4 << 20)).unwrap_err();
        assert!(matches!(empty, BootError::InitrdEmpty), "{empty}");
    }
}
