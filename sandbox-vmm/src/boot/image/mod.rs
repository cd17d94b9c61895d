//! Kernel files: what kind one is, what of it goes where, and where it is entered.
//!
//! A kernel file may come from anybody. Every offset, length and count in it is checked before it is used, and every
//! table is bounded, so that no file can make the host read, allocate or loop beyond the limits stated here.

mod bzimage;
mod elf;
pub(super) mod elf_format;
mod error;
mod notes;
pub mod origin;
pub mod solo5;
mod source;
#[cfg(test)]
mod tests;

use linux_loader::loader::bootparam::setup_header;
use serde::{Deserialize, Serialize};

use crate::memory::layout::{CMDLINE_MAX_SIZE, GAP_START, HIGH_MEMORY_START};

pub use error::ImageError;
use origin::Origin;
use solo5::Solo5Image;
pub use source::Source;

/// Most bytes of a kernel that are loaded. It bounds the host memory that one file can claim in the kernel store.
pub const MAX_LOADED_SIZE: u64 = 512 << 20;
/// End of the memory that the page tables of the 64-bit entry map.
pub const IDENTITY_MAPPED_END: u64 = 1 << 30;
/// Longest command line of a Linux kernel without a setup header, in bytes: `COMMAND_LINE_SIZE` on x86 less the NUL.
const LINUX_CMDLINE_LIMIT: u64 = 2047;
/// Highest address of an initrd's last byte where no header states one: what every x86 Linux kernel's header says.
const INITRD_ADDRESS_MAX: u64 = 0x7fff_ffff;
/// Bytes read to identify a file: as far as the setup header of a bzImage can reach.
const HEAD_SIZE: usize = 1024;

/// What kind of file a kernel came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum KernelFormat {
    /// A Linux bzImage, with the setup header that goes into the zero page.
    BzImage(#[serde(with = "header")] Box<setup_header>),
    /// An ELF executable.
    Elf,
}

/// A setup header as bytes.
mod header {
    use linux_loader::loader::bootparam::setup_header;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};
    use vm_memory::ByteValued;

    use crate::worker::protocol::bytes;

    pub fn serialize<S: Serializer>(header: &setup_header, serializer: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(header.as_slice(), serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<setup_header>, D::Error> {
        let bytes = bytes::deserialize(deserializer)?;
        let mut header = Box::<setup_header>::default();
        let room = header.as_mut_slice();
        if bytes.len() != room.len() {
            return Err(D::Error::invalid_length(bytes.len(), &"a setup header"));
        }
        room.copy_from_slice(&bytes);
        Ok(header)
    }
}

/// A part of the file that is put into guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where the bytes stand in the file.
    pub file_offset: u64,
    /// How many there are; zero bytes follow them in memory.
    pub file_size: u64,
    /// Guest-physical address.
    pub address: u64,
}

/// A kernel file, understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelImage {
    /// What kind of file it is.
    pub format: KernelFormat,
    /// What is put into guest memory, in the order of the file's table: where two overlap, the later one stands.
    pub segments: Vec<Segment>,
    /// Entry by the 64-bit Linux boot protocol, guest-physical.
    pub linux_entry: Option<u64>,
    /// Entry by PVH, guest-physical.
    pub pvh_entry: Option<u32>,
    /// First guest-physical address behind all that the kernel needs before it looks at the memory map.
    pub end: u64,
    /// Which project it comes from, as far as the file tells.
    pub origin: Origin,
    /// Entry of a Solo5 image by the hvt interface, guest-physical; it has no other.
    pub hvt_entry: Option<u64>,
    /// What a Solo5 image demands.
    pub solo5: Option<Box<Solo5Image>>,
}

impl KernelImage {
    /// Identifies and checks a kernel file.
    pub fn parse(source: Source<'_>) -> Result<Self, ImageError> {
        if source.is_empty() {
            return Err(ImageError::Empty);
        }
        let mut buffer = [0; HEAD_SIZE];
        let head = &mut buffer[..source.len().min(HEAD_SIZE as u64) as usize];
        source.read(head, 0, "the header")?;
        if head.starts_with(elf_format::MAGIC) {
            elf::parse(source, head)
        } else if bzimage::is_bzimage(head) {
            bzimage::parse(source, head)
        } else {
            Err(unrecognised(head))
        }
    }

    /// Bytes that are copied or mapped into guest memory.
    pub fn loaded_size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_size).sum()
    }

    /// Longest command line that a Linux kernel of this image takes, in bytes without the NUL.
    pub fn cmdline_limit(&self) -> u64 {
        match &self.format {
            KernelFormat::BzImage(header) => u64::from(header.cmdline_size).min(CMDLINE_MAX_SIZE - 1),
            KernelFormat::Elf => LINUX_CMDLINE_LIMIT,
        }
    }

    /// Highest guest-physical address that the last byte of an initrd may have.
    pub fn initrd_address_max(&self) -> u64 {
        match &self.format {
            KernelFormat::BzImage(header) => u64::from(header.initrd_addr_max),
            KernelFormat::Elf => INITRD_ADDRESS_MAX,
        }
    }
}

/// Checks that `[address, address + size)` is memory that a kernel may occupy, and returns its end.
fn check_placement(address: u64, size: u64) -> Result<u64, ImageError> {
    if address < HIGH_MEMORY_START {
        return Err(ImageError::TooLow { address });
    }
    let end = address.checked_add(size).ok_or(ImageError::Malformed {
        what: "a segment's address range overflows",
    })?;
    match end <= GAP_START {
        true => Ok(end),
        false => Err(ImageError::TooHigh { end, limit: GAP_START }),
    }
}

/// Names what is no kernel by its first bytes, so that the message says what to do about it.
fn unrecognised(head: &[u8]) -> ImageError {
    let starts: [(&[u8], &'static str); 7] = [
        (b"\x1f\x8b", "a gzip file (unpack it first)"),
        (b"\xfd7zXZ\0", "an xz file (unpack it first)"),
        (b"\x28\xb5\x2f\xfd", "a zstd file (unpack it first)"),
        (b"\x02\x21\x4c\x18", "an LZ4 file (unpack it first)"),
        (b"070701", "a cpio archive, as initrds are"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (b"#!", "a script"),
    ];
    if head.get(0x38..0x3c) == Some(b"ARM\x64".as_slice()) {
        return ImageError::WrongArchitecture { architecture: "arm64" };
    }
    let known = starts.iter().find(|(magic, _)| head.starts_with(magic));
    let found = match known {
        Some((_, name)) => name,
        None if head.get(0x1fe..0x200) == Some(b"\x55\xaa".as_slice()) => "a boot sector or disk image",
        None if head.starts_with(b"MZ") => "a Windows or EFI program",
        None => "a file of unknown content",
    };
    ImageError::NotAKernel { found }
}
