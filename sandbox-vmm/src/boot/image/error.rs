//! What can be wrong with a kernel file.

/// Why a file is not a kernel that this machine can boot.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The bzImage is older than the 64-bit entry.
    #[error(
        "the kernel speaks boot protocol {}.{:02}, and its 64-bit entry came with 2.12: use Linux 3.8 or later",
        version >> 8, version & 0xff
    )]
    BootProtocolTooOld {
        /// Version of the boot protocol, major number in the upper byte.
        version: u16,
    },
    /// The file has no content.
    #[error("the kernel file is empty: build or copy it again")]
    Empty,
    /// The bzImage has no 64-bit entry.
    #[error("the kernel is a 32-bit Linux kernel: build it for x86_64")]
    LinuxIs32Bit,
    /// A field of the ELF or setup header contradicts the others.
    #[error("the kernel file is damaged: {what}")]
    Malformed {
        /// The contradiction.
        what: &'static str,
    },
    /// The program wants a dynamic linker.
    #[error("the kernel is a dynamically linked program: build a freestanding, static executable")]
    NeedsInterpreter,
    /// Neither the 64-bit entry nor a PVH note leads into the image.
    #[error(
        "the kernel has no usable entry: {entry:#x} lies in no segment's physical addresses below 1 GiB, and no PVH \
         note names one"
    )]
    NoEntry {
        /// The entry that the ELF header states.
        entry: u64,
    },
    /// The file is something else.
    #[error("not a kernel but {found}: give a bzImage or an uncompressed x86_64 ELF kernel")]
    NotAKernel {
        /// What the file looks like.
        found: &'static str,
    },
    /// An object file, a core dump or the like.
    #[error("the kernel is an ELF file of type {elf_type}, not an executable: link it")]
    NotExecutable {
        /// `e_type` of the ELF header.
        elf_type: u16,
    },
    /// A unikernel that was built for another kind of machine.
    #[error("it is {what}: {instead}")]
    OtherBuild {
        /// What was built.
        what: String,
        /// What to build.
        instead: &'static str,
    },
    /// No segment has content.
    #[error("the kernel has no segment to load: link it with program headers")]
    NothingToLoad,
    /// The file could not be read.
    #[error("cannot read the kernel file")]
    Read(#[source] std::io::Error),
    /// A segment lies behind the memory that kernels can be put into.
    #[error(
        "the kernel reaches up to {end:#x}, and memory for kernels ends at {limit:#x}: link it to a lower \
         physical address"
    )]
    TooHigh {
        /// First address behind the kernel.
        end: u64,
        /// End of the memory below the 32-bit gap.
        limit: u64,
    },
    /// More content than any kernel has.
    #[error("the kernel has {size} bytes to load, more than {limit}: give a kernel, not a disk image")]
    TooLarge {
        /// Bytes to load.
        size: u64,
        /// Most bytes that are loaded.
        limit: u64,
    },
    /// A segment lies where the boot data goes.
    #[error("the kernel has a segment at {address:#x}, below 1 MiB: link it to physical address 0x100000 or above")]
    TooLow {
        /// Physical address of the segment.
        address: u64,
    },
    /// More entries in a table than any kernel has.
    #[error("the kernel has {count} {what}, more than {limit}: the file is damaged")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much is read at most.
        limit: u64,
    },
    /// The file ends too early.
    #[error("the kernel file ends after {size} bytes, and {what} reaches byte {needed}: copy it again")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        size: u64,
    },
    /// Another architecture's kernel.
    #[error("the kernel is built for {architecture}: build it for x86_64")]
    WrongArchitecture {
        /// The architecture.
        architecture: &'static str,
    },
}
