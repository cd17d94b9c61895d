//! The host's side: a raw image file or a block device.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::config::{BlockConfig, BlockError};
use super::{Layer, RANGE_MAX_SECTORS, SECTOR_SIZE, SERIAL_LEN};
use crate::devices::virtio::segments::Segments;

/// Why a request was not carried out; the driver learns no more than which of the two it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The host's file did not do what was asked.
    #[error("the host's file failed")]
    Host(#[from] io::Error),
    /// Beyond the disk, write to a read-only disk, or parts that do not fit together.
    #[error("the request is not valid")]
    Invalid,
    /// This device has no such request.
    #[error("the request is not supported")]
    Unsupported,
}

/// A disk's file with its fixed properties.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    /// Where writes go instead.
    layer: Option<Layer>,
    read_only: bool,
    sectors: u64,
    serial: [u8; SERIAL_LEN],
    discards: bool,
}

impl Disk {
    /// Takes over the file of `config`.
    pub(crate) fn new(config: BlockConfig) -> Result<Self, BlockError> {
        let inspection = inspect(&config.file)?;
        check_access(&config.file, config.read_only || config.layer.is_some())?;
        let mut serial = [0; SERIAL_LEN];
        for (to, from) in serial.iter_mut().zip(config.serial.bytes()) {
            *to = from;
        }
        let discards = config.layer.is_some() || can_discard(&config.file, &inspection);
        Ok(Self {
            discards: !config.read_only && discards,
            file: config.file,
            layer: config.layer,
            read_only: config.read_only,
            sectors: inspection.bytes / SECTOR_SIZE,
            serial,
        })
    }

    /// Where writes go, if not to the file.
    pub(crate) fn layer(&self) -> Option<&Layer> {
        self.layer.as_ref()
    }

    /// Takes over what was written to a private disk that this one takes the place of. A disk that is not private was
    /// given a file to write to instead.
    pub(crate) fn go_on_with(&mut self, layer: Layer) {
        if self.layer.is_some() {
            self.layer = Some(layer);
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether ranges can be given back to the host.
    pub(crate) fn discards(&self) -> bool {
        self.discards
    }

    /// Size in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The serial number, padded with zero bytes.
    pub(crate) fn serial(&self) -> &[u8; SERIAL_LEN] {
        &self.serial
    }

    /// Fills `to` from `sector` on; the list may be used up on the way.
    pub(crate) fn read(&self, sector: u64, to: &mut Segments) -> Result<(), Failure> {
        let mut offset = self.offset(sector, to.bytes() as u64)?;
        let Some(layer) = &self.layer else {
            return transfer(to, offset, |to, offset| to.read_from_at(self.file.as_fd(), offset));
        };
        while to.bytes() > 0 {
            let run = layer.run(offset, to.bytes() as u64);
            let source = if run.written { layer.content() } else { &self.file };
            let mut piece = to.split_front(run.bytes as usize);
            transfer(&mut piece, offset, |to, offset| to.read_from_at(source.as_fd(), offset))?;
            offset += run.bytes;
        }
        Ok(())
    }

    /// Writes `from` at `sector`; the list may be used up on the way. With `durable` the data is on stable storage
    /// afterwards.
    pub(crate) fn write(&self, sector: u64, from: &mut Segments, durable: bool) -> Result<(), Failure> {
        let bytes = from.bytes() as u64;
        let offset = self.writable_offset(sector, bytes)?;
        if let Some(layer) = self.layer.as_ref().filter(|_| bytes > 0) {
            layer.prepare(&self.file, offset, bytes)?;
            transfer(from, offset, |from, offset| {
                from.write_to_at(layer.content().as_fd(), offset, false)
            })?;
            layer.mark(offset, bytes);
            return Ok(());
        }
        transfer(from, offset, |from, offset| {
            from.write_to_at(self.file.as_fd(), offset, durable)
        })
    }

    /// Puts everything written so far on stable storage.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        match self.layer {
            // What goes with the sandbox need not outlive the host.
            Some(_) => Ok(()),
            None => Ok(self.file.sync_data()?),
        }
    }

    /// Gives `sectors` sectors from `sector` back to the host. They read as zeroes afterwards.
    pub(crate) fn discard(&self, sector: u64, sectors: u32) -> Result<(), Failure> {
        self.change_range(sector, sectors, FallocateMode::PunchHole)
    }

    /// Makes `sectors` sectors from `sector` zeroes. Without `unmap` the host keeps room for them where its file system
    /// can do that without writing them (tmpfs cannot: it gives them back).
    pub(crate) fn write_zeroes(&self, sector: u64, sectors: u32, unmap: bool) -> Result<(), Failure> {
        if !unmap {
            match self.change_range(sector, sectors, FallocateMode::ZeroRange) {
                Err(Failure::Unsupported) => {}
                done => return done,
            }
        }
        self.change_range(sector, sectors, FallocateMode::PunchHole)
    }

    fn change_range(&self, sector: u64, sectors: u32, mode: FallocateMode) -> Result<(), Failure> {
        if sectors > RANGE_MAX_SECTORS {
            return Err(Failure::Invalid);
        }
        let len = u64::from(sectors) * SECTOR_SIZE;
        let offset = self.writable_offset(sector, len)?;
        if len == 0 {
            return Ok(());
        }
        if let Some(layer) = &self.layer {
            layer.prepare(&self.file, offset, len)?;
            layer.clear(offset, len)?;
            layer.mark(offset, len);
            return Ok(());
        }
        fallocate(&self.file, mode, true, offset, len).map_err(|error| match error.errno() {
            libc::EOPNOTSUPP => Failure::Unsupported,
            _ => Failure::Host(error.into()),
        })
    }

    /// The same as [`Disk::offset`] for something that changes the disk.
    fn writable_offset(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        match self.read_only {
            true => Err(Failure::Invalid),
            false => self.offset(sector, bytes),
        }
    }

    /// Where `sector` lies in the file, if `bytes` from there are whole sectors of this disk.
    fn offset(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(bytes / SECTOR_SIZE);
        if bytes.is_multiple_of(SECTOR_SIZE) && end.is_some_and(|end| end <= self.sectors) {
            // Cannot overflow: the end of the disk does not.
            Ok(sector * SECTOR_SIZE)
        } else {
            Err(Failure::Invalid)
        }
    }
}

/// What a file that can be a disk is like.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// A regular file, as opposed to a block device.
    pub(crate) is_file: bool,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Length in bytes; not less than a sector.
    pub(crate) bytes: u64,
}

/// Bytes of a disk.
///
/// # Errors
/// The file is no disk.
pub fn size_of_disk(file: &File) -> Result<u64, BlockError> {
    inspect(file).map(|inspection| inspection.bytes)
}

/// Looks at a file that is to be a disk.
pub(crate) fn inspect(file: &File) -> Result<Inspection, BlockError> {
    let metadata = file.metadata().map_err(BlockError::Inspect)?;
    let kind = metadata.file_type();
    let bytes = if kind.is_file() {
        metadata.len()
    } else if kind.is_block_device() {
        // A block device has no length of its own; its end tells. All transfers name their position.
        let mut device = file;
        device.seek(SeekFrom::End(0)).map_err(BlockError::Inspect)?
    } else {
        return Err(BlockError::NotADisk(match kind {
            _ if kind.is_dir() => "directory",
            _ if kind.is_char_device() => "character device",
            _ if kind.is_fifo() => "pipe",
            _ if kind.is_socket() => "socket",
            _ => "special file",
        }));
    };
    if bytes < SECTOR_SIZE {
        return Err(BlockError::Empty);
    }
    Ok(Inspection {
        is_file: kind.is_file(),
        mode: metadata.permissions().mode(),
        bytes,
    })
}

/// A descriptor opened the wrong way would let the sandbox start, and fail its guest's first request.
fn check_access(file: &File, read_only: bool) -> Result<(), BlockError> {
    // SAFETY: the descriptor is open, and the call changes nothing.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    match flags & (libc::O_ACCMODE | libc::O_PATH) {
        _ if flags < 0 => Err(BlockError::Inspect(io::Error::last_os_error())),
        libc::O_RDWR => Ok(()),
        libc::O_RDONLY if read_only => Ok(()),
        libc::O_RDONLY => Err(BlockError::NotOpenFor("writing")),
        _ => Err(BlockError::NotOpenFor("reading")),
    }
}

/// Whether holes can be punched into `file`. Of a regular file that is tried behind its end, where there is nothing to
/// be lost; a block device that cannot do it says so when it is asked to.
fn can_discard(file: &File, inspection: &Inspection) -> bool {
    !inspection.is_file || fallocate(file, FallocateMode::PunchHole, true, inspection.bytes, SECTOR_SIZE).is_ok()
}

/// Moves the whole list with `step`, which is told where the rest of it begins, and moves as much as one system call
/// does: all of it, unless a signal came in between or the disk is full.
fn transfer(
    list: &mut Segments,
    mut offset: u64,
    step: impl Fn(&Segments, u64) -> io::Result<usize>,
) -> Result<(), Failure> {
    while list.bytes() > 0 {
        match step(list, offset) {
            Ok(moved) if moved == list.bytes() => return Ok(()),
            // Somebody made the file shorter.
            Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(moved) => {
                list.advance(moved);
                offset += moved as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
