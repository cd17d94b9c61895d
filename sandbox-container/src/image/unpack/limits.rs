//! How much an archive may ask of the host.

/// Bounds on what is unpacked into one root file system. An archive that passes one is refused, with the entry named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of file content, all layers together. It bounds the attack by a file of zeros, of which a compressed
    /// layer holds a thousand times its own size.
    pub bytes: u64,
    /// Entries, all layers together. It bounds the attack by empty files, which take inodes and time but no bytes.
    pub entries: u64,
    /// Components of a path. It bounds the attack by folders so deep that whoever removes them runs out of stack,
    /// descriptors or time.
    pub depth: usize,
    /// Bytes of one extended header (pax) or long name. It bounds the attack by a name of gigabytes, which would be
    /// held in memory.
    pub header_bytes: u64,
    /// Bytes of names and values of one entry's extended attributes.
    pub attribute_bytes: usize,
    /// Bytes of all names, and of the paths of all folders. It bounds the memory that a folder's listing takes, and
    /// that the times and modes of folders take until they are set at the end.
    pub name_bytes: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 32 << 30,
            entries: 1_000_000,
            depth: 128,
            header_bytes: 1 << 20,
            attribute_bytes: 64 << 10,
            name_bytes: 128 << 20,
        }
    }
}
