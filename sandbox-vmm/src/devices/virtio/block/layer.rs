//! What a guest wrote to a disk whose file is only read: kept beside it, in host memory, and gone with the sandbox.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::config::BlockError;
use super::disk::inspect;

/// Unit of what is written or not, in bytes. A part of a block that is written takes the rest of it along.
const BLOCK_SIZE: u64 = 4096;
/// Blocks per word of the map.
const WORD_BITS: u64 = u64::BITS as u64;

thread_local! {
    /// Files for layers that this thread makes, if it cannot make files itself.
    static LENT: RefCell<VecDeque<File>> = RefCell::default();
}

/// Does `work` on a thread that cannot make files: those of the layers that it makes are `files`, in their order, each of
/// [`Layer::file_size`].
pub fn with_files<T>(files: Vec<File>, work: impl FnOnce() -> T) -> T {
    LENT.with_borrow_mut(|lent| lent.extend(files));
    let result = work();
    LENT.with_borrow_mut(VecDeque::clear);
    result
}

/// The written blocks of one disk. It holds no more than the disk's size, which is what a guest that writes everything
/// costs its host in memory.
#[derive(Debug)]
pub struct Layer {
    /// Memory without a name, at each offset what the disk has there; only written blocks have a meaning.
    content: File,
    /// A bit per block. Its words take no host memory before they are set.
    written: Mutex<Vec<u64>>,
    bytes: u64,
}

/// A stretch of a disk that is written throughout, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) written: bool,
    pub(super) bytes: u64,
}

impl Layer {
    /// A layer over a disk of `bytes` bytes, with nothing written.
    ///
    /// # Errors
    /// The host has no descriptor or memory left.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let blocks = bytes.div_ceil(BLOCK_SIZE);
        let words = usize::try_from(blocks.div_ceil(WORD_BITS)).map_err(|_| ErrorKind::OutOfMemory)?;
        Ok(Self {
            content: memory_file(bytes)?,
            written: Mutex::new(vec![0; words]),
            bytes,
        })
    }

    /// Bytes of a file that holds a layer for a disk of `bytes` bytes: the content, and the map behind it.
    pub fn file_size(bytes: u64) -> u64 {
        Self::map_position(bytes) + bytes.div_ceil(BLOCK_SIZE).div_ceil(WORD_BITS) * size_of::<u64>() as u64
    }

    fn map_position(bytes: u64) -> u64 {
        bytes.next_multiple_of(BLOCK_SIZE)
    }

    /// Writes the map behind the content, for another process that is handed the file.
    pub(super) fn leave_map(&self) -> io::Result<()> {
        let map: Vec<u8> = self.lock().iter().flat_map(|word| word.to_le_bytes()).collect();
        self.content.write_all_at(&map, Self::map_position(self.bytes))
    }

    /// The layer over a disk of `bytes` bytes that another process left in `content`, to be duplicated.
    pub(super) fn left_in(content: File, bytes: u64) -> io::Result<Self> {
        let words =
            usize::try_from(bytes.div_ceil(BLOCK_SIZE).div_ceil(WORD_BITS)).map_err(|_| ErrorKind::OutOfMemory)?;
        let mut map = vec![0; words * size_of::<u64>()];
        content.read_exact_at(&mut map, Self::map_position(bytes))?;
        let written = map.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let written: Vec<u64> = written.collect();
        // Nothing is written behind the disk's end, whatever a hostile process says.
        let last = bytes.div_ceil(BLOCK_SIZE) % WORD_BITS;
        if last != 0 && written.last().is_some_and(|word| word >> last != 0) {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Self {
            written: Mutex::new(written),
            content,
            bytes,
        })
    }

    /// A layer over `file`, a regular file or a block device.
    ///
    /// # Errors
    /// The file is no disk, or the host has no descriptor or memory left.
    pub fn over(file: &File) -> Result<Self, BlockError> {
        Self::new(inspect(file)?.bytes).map_err(BlockError::Layer)
    }

    /// A layer of its own with the same content, for a clone. Its disk's device must be at rest.
    ///
    /// # Errors
    /// The host has no descriptor or memory left.
    pub fn duplicate(&self) -> io::Result<Self> {
        let copy = Self::new(self.bytes)?;
        let written = self.lock();
        let mut block = [0; BLOCK_SIZE as usize];
        for (index, word) in (0..).zip(written.iter()) {
            let mut left = *word;
            while left != 0 {
                let offset = (index * WORD_BITS + u64::from(left.trailing_zeros())) * BLOCK_SIZE;
                left &= left - 1;
                let part = self.part(&mut block, offset);
                self.content.read_exact_at(part, offset)?;
                copy.content.write_all_at(part, offset)?;
            }
        }
        copy.lock().clone_from(&written);
        drop(written);
        Ok(copy)
    }

    /// What holds the written blocks.
    pub(super) fn content(&self) -> &File {
        &self.content
    }

    /// How far the disk is alike from `offset` on, within `bytes`.
    pub(super) fn run(&self, offset: u64, bytes: u64) -> Run {
        let map = self.lock();
        let written = is_written(&map, offset / BLOCK_SIZE);
        let end = offset + bytes;
        let mut reached = (offset / BLOCK_SIZE + 1) * BLOCK_SIZE;
        while reached < end && is_written(&map, reached / BLOCK_SIZE) == written {
            reached += BLOCK_SIZE;
        }
        Run {
            written,
            bytes: reached.min(end) - offset,
        }
    }

    /// Makes room for a write of `bytes` at `offset`, not 0: of blocks that it covers in part, the rest is fetched from
    /// `base`.
    pub(super) fn prepare(&self, base: &File, offset: u64, bytes: u64) -> io::Result<()> {
        let end = offset + bytes;
        let map = self.lock();
        for edge in [offset, end] {
            let start = edge - edge % BLOCK_SIZE;
            // Behind the disk's end there is nothing to be kept.
            if edge != start && edge < self.bytes && !is_written(&map, start / BLOCK_SIZE) {
                let mut block = [0; BLOCK_SIZE as usize];
                let part = self.part(&mut block, start);
                base.read_exact_at(part, start)?;
                self.content.write_all_at(part, start)?;
            }
        }
        Ok(())
    }

    /// The blocks of this range are written now.
    pub(super) fn mark(&self, offset: u64, bytes: u64) {
        let mut map = self.lock();
        for block in offset / BLOCK_SIZE..(offset + bytes).div_ceil(BLOCK_SIZE) {
            if let Some(word) = map.get_mut((block / WORD_BITS) as usize) {
                *word |= 1 << (block % WORD_BITS);
            }
        }
    }

    /// Makes a range zeroes, and gives the memory of its whole blocks back. The rest of blocks that it covers in part was
    /// prepared.
    pub(super) fn clear(&self, offset: u64, bytes: u64) -> io::Result<()> {
        fallocate(&self.content, FallocateMode::PunchHole, true, offset, bytes).map_err(io::Error::from)
    }

    /// As much of `block` as the disk has from `start` on.
    fn part<'a>(&self, block: &'a mut [u8], start: u64) -> &'a mut [u8] {
        let len = (self.bytes - start).min(BLOCK_SIZE);
        &mut block[..len as usize]
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_written(map: &[u64], block: u64) -> bool {
    let word = map.get((block / WORD_BITS) as usize);
    word.is_some_and(|word| word & 1 << (block % WORD_BITS) != 0)
}

/// A file of `bytes` zeroes that takes no memory before they are written.
fn memory_file(bytes: u64) -> io::Result<File> {
    if let Some(lent) = LENT.with_borrow_mut(VecDeque::pop_front) {
        return Ok(lent);
    }
    // SAFETY: the name is a string with a NUL, which the kernel copies.
    let fd = unsafe { libc::memfd_create(c"sandbox-disk".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the descriptor is open, and nobody else knows it yet.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    Ok(file)
}
