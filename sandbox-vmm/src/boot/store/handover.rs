//! Stored kernels and initrds on their way to another process, which maps the same sealed files.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::content::{Content, HandedOver, TakenOver};
use super::extents::Extent;
use super::{StoredInitrd, StoredKernel};
use crate::boot::image::KernelImage;

/// A content, but for its sealed file.
#[derive(Debug, Serialize, Deserialize)]
struct ContentParts {
    extents: Vec<Extent>,
    /// The bytes of a small content; a large one is in the file.
    #[serde(with = "crate::worker::protocol::bytes")]
    bytes: Vec<u8>,
    in_file: bool,
}

/// A kernel, but for the sealed file of a large one.
#[derive(Debug, Serialize, Deserialize)]
pub struct KernelParts {
    image: KernelImage,
    content: ContentParts,
}

/// An initrd, but for the sealed file of a large one.
#[derive(Debug, Serialize, Deserialize)]
pub struct InitrdParts {
    size: u64,
    content: ContentParts,
}

impl KernelParts {
    /// The parts of `kernel`, and its file if it has one.
    pub fn of(kernel: &StoredKernel) -> (Self, Option<BorrowedFd<'_>>) {
        let (content, file) = ContentParts::of(kernel.content());
        let parts = Self {
            image: kernel.image().clone(),
            content,
        };
        (parts, file)
    }

    /// Whether a file belongs to it.
    pub fn has_file(&self) -> bool {
        self.content.in_file
    }

    /// The kernel, with the file that belongs to it; `None` without a file that it needs.
    pub fn into_kernel(self, file: Option<OwnedFd>) -> Option<StoredKernel> {
        Some(StoredKernel::from_parts(self.image, self.content.into_content(file)?))
    }
}

impl InitrdParts {
    /// The parts of `initrd`, and its file if it has one.
    pub fn of(initrd: &StoredInitrd) -> (Self, Option<BorrowedFd<'_>>) {
        let (content, file) = ContentParts::of(initrd.content());
        let size = initrd.size();
        (Self { size, content }, file)
    }

    /// Whether a file belongs to it.
    pub fn has_file(&self) -> bool {
        self.content.in_file
    }

    /// The initrd, with the file that belongs to it; `None` without a file that it needs.
    pub fn into_initrd(self, file: Option<OwnedFd>) -> Option<StoredInitrd> {
        Some(StoredInitrd::from_parts(self.size, self.content.into_content(file)?))
    }
}

impl ContentParts {
    fn of(content: &Content) -> (Self, Option<BorrowedFd<'_>>) {
        let (extents, backing) = content.hand_over();
        let (bytes, file) = match backing {
            HandedOver::Bytes(bytes) => (bytes.to_vec(), None),
            HandedOver::Pages(file) => (Vec::new(), Some(file.as_fd())),
        };
        let parts = Self {
            extents,
            bytes,
            in_file: file.is_some(),
        };
        (parts, file)
    }

    fn into_content(self, file: Option<OwnedFd>) -> Option<Content> {
        let backing = match self.in_file {
            true => TakenOver::Pages(File::from(file?)),
            false => TakenOver::Bytes(self.bytes.into_boxed_slice()),
        };
        Some(Content::take_over(self.extents, backing))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::boot::load::load;
    use crate::boot::test_support::{ElfBuilder, memory};

    #[test]
    fn a_kernel_of_either_size_is_the_same_on_the_other_side() {
        for size in [100, 100_000] {
            let code: Vec<u8> = (0..size).map(|index: u32| index as u8).collect();
            let file = ElfBuilder::new(0x10_0000)
                .segment(0x10_0000, &code, u64::from(size))
                .build();
            let kernel = StoredKernel::from_bytes(&file).unwrap();
            let (parts, file) = KernelParts::of(&kernel);
            assert_eq!(parts.has_file(), size == 100_000);
            let file = file.map(|file| file.try_clone_to_owned().unwrap());
            let sent = postcard::to_allocvec(&parts).unwrap();
            let received: KernelParts = postcard::from_bytes(&sent).unwrap();
            let taken = received.into_kernel(file).unwrap();
            assert_eq!(taken.image().segments, kernel.image().segments);
            let memory = memory(4 << 20);
            load(&taken, &memory).unwrap();
            let mut loaded = vec![0; code.len()];
            memory.read_slice(&mut loaded, GuestAddress(0x10_0000)).unwrap();
            assert_eq!(loaded, code);
        }
    }

    #[test]
    fn a_large_initrd_needs_its_file() {
        let initrd = StoredInitrd::from_bytes(&[7; 100_000]).unwrap();
        let (parts, file) = InitrdParts::of(&initrd);
        assert!(file.is_some());
        assert!(parts.into_initrd(None).is_none());
    }
}
