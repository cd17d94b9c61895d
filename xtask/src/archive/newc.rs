//! The "new ASCII" cpio format that Linux unpacks into its root file system.
//!
//! Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Read, Write};

/// The archive's length is a multiple of this, so that archives can be
/// concatenated without thought.
const BLOCK: u64 = 512;
const TRAILER: &str = "TRAILER!!!";

/// What one header says about a file.
pub(super) struct Entry<'a> {
    /// Path without a leading slash.
    pub(super) name: &'a [u8],
    /// File type and permission bits as in `st_mode`.
    pub(super) mode: u32,
    /// Length of the data in bytes.
    pub(super) size: u64,
    /// Device numbers (major, minor) of a device node.
    pub(super) device: (u32, u32),
}

/// Writes entries one after another; `finish` writes the trailer.
pub(super) struct Writer<W> {
    out: W,
    written: u64,
    next_inode: u32,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            next_inode: 1,
        }
    }

    /// Writes one file; `data` must yield exactly `entry.size` bytes.
    pub(super) fn entry(&mut self, entry: &Entry<'_>, data: impl Read) -> io::Result<()> {
        self.header(entry)?;
        let copied = io::copy(&mut data.take(entry.size), &mut self.out)?;
        if copied != entry.size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file shrank while it was read",
            ));
        }
        self.written += copied;
        self.pad(4)
    }

    /// Writes the trailer and pads the archive to whole blocks.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.header(&Entry {
            name: TRAILER.as_bytes(),
            mode: 0,
            size: 0,
            device: (0, 0),
        })?;
        self.pad(BLOCK)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let size = u32::try_from(entry.size).map_err(|_| too_large("file"))?;
        let name_size = u32::try_from(entry.name.len() + 1).map_err(|_| too_large("file's name"))?;
        let (user, group, links, time, checksum) = (0, 0, 1, 0, 0);
        let fields = [
            self.next_inode,
            entry.mode,
            user,
            group,
            links,
            time,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            checksum,
        ];
        self.next_inode += 1;
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.put(header.as_bytes())?;
        self.put(entry.name)?;
        self.put(&[0])?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(alignment) - self.written;
        self.put(&[0; BLOCK as usize][..missing as usize])
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("{what} does not fit into 32 bits of length"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_documented() {
        let mut writer = Writer::new(Vec::new());
        let entry = Entry {
            name: b"abc",
            mode: 0o100_644,
            size: 5,
            device: (0, 0),
        };
        writer.entry(&entry, &b"hello"[..]).unwrap();
        let archive = writer.finish().unwrap();

        let header = concat!(
            "070701", "00000001", "000081a4", "00000000", "00000000", "00000001", "00000000", "00000005", "00000000",
            "00000000", "00000000", "00000000", "00000004", "00000000",
        );
        assert_eq!(&archive[..110], header.as_bytes());
        assert_eq!(&archive[110..116], b"abc\0\0\0", "name, padded to 116");
        assert_eq!(&archive[116..124], b"hello\0\0\0", "data, padded to 124");
        assert_eq!(&archive[124..130], b"070701");
        assert_eq!(&archive[124 + 110..][..11], b"TRAILER!!!\0");
        assert_eq!(archive.len(), 512);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        let entry = Entry {
            name: b"abc",
            mode: 0o100_644,
            size: 6,
            device: (0, 0),
        };
        let error = writer.entry(&entry, &b"hello"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
