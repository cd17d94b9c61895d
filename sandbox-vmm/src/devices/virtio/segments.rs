//! Scatter/gather lists over guest memory, handed to the kernel as they are: no byte is copied in user space.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_queue::DescriptorChain;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{GuestMemory, GuestRam};

/// Which way the bytes of a descriptor chain go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The device reads what the driver wrote.
    FromDriver,
    /// The device writes for the driver to read.
    ToDriver,
}

/// A list of pieces of guest memory, in order.
///
/// Every piece was checked to lie in guest RAM when it was added, and the list keeps that memory mapped. The guest may
/// change the bytes at any time: they are only copied, never borrowed.
pub(crate) struct Segments {
    memory: GuestMemory,
    /// Device writes are logged per page (differential snapshots).
    logs_writes: bool,
    /// Host addresses of the pieces; those before `start` are gone.
    iovecs: Vec<libc::iovec>,
    /// Guest addresses of the same pieces.
    addresses: Vec<GuestAddress>,
    start: usize,
    bytes: usize,
}

// SAFETY: the raw pointers in `iovecs` point into the mapping that `memory` keeps, which is shared between threads and
// may be used from each of them.
unsafe impl Send for Segments {}

impl Segments {
    /// An empty list over `memory`.
    pub(crate) fn new(memory: GuestMemory) -> Self {
        let logs_writes = memory.iter().any(|region| region.bitmap().is_some());
        Self {
            memory,
            logs_writes,
            iovecs: Vec::new(),
            addresses: Vec::new(),
            start: 0,
            bytes: 0,
        }
    }

    /// Total length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of pieces.
    pub(crate) fn count(&self) -> usize {
        self.iovecs.len() - self.start
    }

    /// Empties the list.
    pub(crate) fn clear(&mut self) {
        self.iovecs.clear();
        self.addresses.clear();
        self.start = 0;
        self.bytes = 0;
    }

    /// Appends all buffers of `chain`. Returns their length in bytes, or `None`, and leaves the list as it was, for a
    /// chain that is broken off, has no buffer, more than `max_count` buffers, one outside guest RAM, or one that goes
    /// the other way.
    pub(crate) fn push_chain(
        &mut self,
        chain: DescriptorChain<&GuestRam>,
        direction: Direction,
        max_count: usize,
    ) -> Option<usize> {
        let (old_count, old_bytes) = (self.iovecs.len(), self.bytes);
        let accepted = self.push_descriptors(chain, direction, old_count + max_count);
        if accepted.is_none() {
            self.iovecs.truncate(old_count);
            self.addresses.truncate(old_count);
            self.bytes = old_bytes;
        }
        accepted.map(|()| self.bytes - old_bytes)
    }

    fn push_descriptors(
        &mut self,
        chain: DescriptorChain<&GuestRam>,
        direction: Direction,
        max_len: usize,
    ) -> Option<()> {
        // The iterator ends silently at a descriptor that it cannot follow; the last one it gave then announces another.
        let mut complete = false;
        for descriptor in chain {
            if descriptor.is_write_only() != (direction == Direction::ToDriver) || self.iovecs.len() >= max_len {
                return None;
            }
            self.push(descriptor.addr(), descriptor.len() as usize)?;
            complete = !descriptor.has_next();
        }
        complete.then_some(())
    }

    /// Appends `len` bytes of guest memory from `address`; `None` if they do not lie in guest RAM. At most 2^16 pieces
    /// are added between two times that the list is cleared.
    pub(crate) fn push(&mut self, address: GuestAddress, len: usize) -> Option<()> {
        let slice = self.memory.get_slice(address, len).ok()?;
        self.iovecs.push(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: len,
        });
        self.addresses.push(address);
        // Cannot overflow: a chain is shorter than 4 GiB, and the number of chains in a list is below 2^16.
        self.bytes += len;
        Some(())
    }

    /// Takes the first `count` pieces away.
    pub(crate) fn remove_front(&mut self, count: usize) {
        let end = (self.start + count).min(self.iovecs.len());
        self.bytes -= self.iovecs[self.start..end]
            .iter()
            .map(|iovec| iovec.iov_len)
            .sum::<usize>();
        self.start = end;
        // Moved to the front only when the gap is at least as long as what moves: a constant cost per piece.
        if self.start >= self.count() {
            self.iovecs.drain(..self.start);
            self.addresses.drain(..self.start);
            self.start = 0;
        }
    }

    /// Takes the last `count` pieces away.
    pub(crate) fn remove_back(&mut self, count: usize) {
        let end = self.iovecs.len() - count.min(self.count());
        self.bytes -= self.iovecs[end..].iter().map(|iovec| iovec.iov_len).sum::<usize>();
        self.iovecs.truncate(end);
        self.addresses.truncate(end);
    }

    /// Takes the first `bytes` bytes away.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let mut left = bytes.min(self.bytes);
        let mut whole = 0;
        for index in self.start..self.iovecs.len() {
            let len = self.iovecs[index].iov_len;
            if len > left {
                self.shorten_front(index, left);
                break;
            }
            left -= len;
            whole += 1;
        }
        self.remove_front(whole);
    }

    fn shorten_front(&mut self, index: usize, bytes: usize) {
        let iovec = &mut self.iovecs[index];
        // Stays within the piece: the caller saw that it is longer than `bytes`.
        iovec.iov_base = iovec.iov_base.cast::<u8>().wrapping_add(bytes).cast();
        iovec.iov_len -= bytes;
        self.addresses[index] = GuestAddress(self.addresses[index].0 + bytes as u64);
        self.bytes -= bytes;
    }

    /// Moves the first `bytes` bytes behind the end of another list.
    pub(crate) fn move_front_to(&mut self, other: &mut Self, bytes: usize) {
        for (address, len) in self.pieces_of(0, bytes) {
            // Cannot fail: the bytes were checked to lie in guest RAM when they came into this list.
            let _ = other.push(address, len);
        }
        self.advance(bytes);
    }

    /// Takes the first `bytes` bytes off into a list of their own.
    pub(crate) fn split_front(&mut self, bytes: usize) -> Self {
        let mut front = Self::new(self.memory.clone());
        self.move_front_to(&mut front, bytes);
        front
    }

    /// Cuts the list off behind `bytes` bytes.
    pub(crate) fn limit(&mut self, bytes: usize) {
        let mut surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        while let Some(last) = self.iovecs.last_mut().filter(|_| surplus > 0) {
            if last.iov_len > surplus {
                last.iov_len -= surplus;
                break;
            }
            surplus -= last.iov_len;
            self.iovecs.pop();
            self.addresses.pop();
        }
    }

    /// The pieces: guest address and length in bytes of each.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (GuestAddress, usize)> {
        self.pieces_of(0, self.bytes)
    }

    /// Copies bytes out of guest memory, from `offset` in the list. False, with the rest of `to` untouched, if the list
    /// is too short.
    pub(crate) fn read_at(&self, offset: usize, to: &mut [u8]) -> bool {
        let mut done = 0;
        for (address, len) in self.pieces_of(offset, to.len()) {
            if self.memory.read_slice(&mut to[done..done + len], address).is_err() {
                return false;
            }
            done += len;
        }
        done == to.len()
    }

    /// Copies bytes into guest memory, from `offset` in the list. False if the list is too short for all of them.
    pub(crate) fn write_at(&self, offset: usize, from: &[u8]) -> bool {
        let mut done = 0;
        for (address, len) in self.pieces_of(offset, from.len()) {
            if self.memory.write_slice(&from[done..done + len], address).is_err() {
                return false;
            }
            done += len;
        }
        done == from.len()
    }

    /// The pieces, cut to the bytes `[offset, offset + len)` of the list.
    fn pieces_of(&self, mut offset: usize, mut len: usize) -> impl Iterator<Item = (GuestAddress, usize)> {
        let addresses = self.addresses[self.start..].iter();
        let pieces = addresses.zip(&self.iovecs[self.start..]);
        pieces.filter_map(move |(address, iovec)| {
            let skipped = offset.min(iovec.iov_len);
            let taken = len.min(iovec.iov_len - skipped);
            offset -= skipped;
            len -= taken;
            (taken > 0).then(|| (GuestAddress(address.0 + skipped as u64), taken))
        })
    }

    /// Reads from `source` into the list with one `readv`.
    pub(crate) fn read_from(&self, source: BorrowedFd<'_>) -> io::Result<usize> {
        let iovecs = &self.iovecs[self.start..];
        // SAFETY: each iovec describes guest RAM that `memory` keeps mapped and writable, and which no Rust reference
        // points into; their number fits, being bounded by the queue's size.
        let result = unsafe { libc::readv(source.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int) };
        let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        if self.logs_writes {
            self.log_writes(length);
        }
        Ok(length)
    }

    /// Writes the list to `target` with one `writev`.
    pub(crate) fn write_to(&self, target: BorrowedFd<'_>) -> io::Result<usize> {
        let iovecs = &self.iovecs[self.start..];
        // SAFETY: each iovec describes guest RAM that `memory` keeps mapped; the kernel only reads it.
        let result = unsafe { libc::writev(target.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Reads from `source` at `offset` into the list with one `preadv`.
    pub(crate) fn read_from_at(&self, source: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let iovecs = &self.iovecs[self.start..];
        // SAFETY: as in `read_from`; an offset beyond what a file can have is refused by the kernel.
        let result = unsafe {
            libc::preadv(
                source.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
                offset as libc::off_t,
            )
        };
        let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        if self.logs_writes {
            self.log_writes(length);
        }
        Ok(length)
    }

    /// Writes the list to `target` at `offset` with one `pwritev2`. With `durable` it returns once the bytes are on
    /// stable storage.
    pub(crate) fn write_to_at(&self, target: BorrowedFd<'_>, offset: u64, durable: bool) -> io::Result<usize> {
        let iovecs = &self.iovecs[self.start..];
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        // SAFETY: as in `write_to`; an offset beyond what a file can have is refused by the kernel.
        let result = unsafe {
            libc::pwritev2(
                target.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
                offset as libc::off_t,
                flags,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the list over a stream socket with one `sendmsg`, as far as the socket takes it without waiting; a peer that
    /// is gone is an error and not `SIGPIPE`, which is the embedder's to handle.
    pub(crate) fn send_to(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let iovecs = &self.iovecs[self.start..];
        // SAFETY: all of msghdr is integers and pointers, for which zero means that there is nothing.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovecs.as_ptr().cast_mut();
        message.msg_iovlen = iovecs.len();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: each iovec describes guest RAM that `memory` keeps mapped; the kernel only reads it and the list.
        let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Logs that the kernel wrote the first `bytes` bytes.
    fn log_writes(&self, bytes: usize) {
        for (address, len) in self.pieces_of(0, bytes) {
            if let Ok(slice) = self.memory.get_slice(address, len) {
                slice.bitmap().mark_dirty(0, len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use virtio_queue::QueueOwnedT;

    use super::*;
    use crate::devices::virtio::test_support::{Buffer, DriverQueue, guest_memory};
    use crate::memory::HugePages;

    /// A list of the buffers that a driver queue holds as one chain.
    fn list(memory: &GuestMemory, buffers: &[Buffer], direction: Direction) -> (Segments, Option<usize>) {
        let mut driver = DriverQueue::new(memory, 0, 16);
        driver.add_chain(buffers);
        let mut queue = driver.device_queue(false);
        let chain = queue.iter::<&GuestRam>(memory).unwrap().next().unwrap();
        let mut segments = Segments::new(memory.clone());
        let accepted = segments.push_chain(chain, direction, 16);
        (segments, accepted)
    }

    #[test]
    fn bytes_go_from_guest_memory_to_a_descriptor_and_back() {
        let memory = guest_memory(1);
        memory.write_slice(b"hello, ", GuestAddress(0x4000)).unwrap();
        memory.write_slice(b"world", GuestAddress(0x5000)).unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();

        let buffers = [Buffer::readable(0x4000, 7), Buffer::readable(0x5000, 5)];
        let (segments, accepted) = list(&memory, &buffers, Direction::FromDriver);
        assert_eq!(accepted, Some(12));
        assert_eq!(segments.write_to(near.as_fd()).unwrap(), 12);
        let mut text = [0; 12];
        far.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello, world");

        far.write_all(b"HELLO, WORLD").unwrap();
        let buffers = [Buffer::writable(0x6000, 5), Buffer::writable(0x7000, 100)];
        let (segments, _) = list(&memory, &buffers, Direction::ToDriver);
        assert_eq!(segments.read_from(near.as_fd()).unwrap(), 12);
        let mut text = [0; 12];
        assert!(segments.read_at(0, &mut text));
        assert_eq!(&text, b"HELLO, WORLD");
        let mut second = [0; 7];
        memory.read_slice(&mut second, GuestAddress(0x7000)).unwrap();
        assert_eq!(&second, b", WORLD");
        near.write_all(b"x").unwrap();
    }

    #[test]
    fn chains_that_no_driver_makes_leave_the_list_as_it_was() {
        let memory = guest_memory(1);
        let cases: [&[Buffer]; 5] = [
            // The wrong way, wholly and in part.
            &[Buffer::writable(0x4000, 8)],
            &[Buffer::readable(0x4000, 8), Buffer::writable(0x4000, 8)],
            // Outside guest RAM: far off, across its end, and past the end of the address space.
            &[Buffer::readable(1 << 40, 8)],
            &[Buffer::readable((1 << 20) - 4, 8)],
            &[Buffer::readable(0x4000, 8), Buffer::readable(u64::MAX - 3, 8)],
        ];
        for buffers in cases {
            let (segments, accepted) = list(&memory, buffers, Direction::FromDriver);
            assert_eq!(
                (accepted, segments.count(), segments.bytes()),
                (None, 0, 0),
                "{buffers:?}"
            );
        }
    }

    #[test]
    fn a_chain_that_loops_or_breaks_off_is_not_taken() {
        let memory = guest_memory(1);
        for next in [0, 1, 999] {
            let mut driver = DriverQueue::new(&memory, 0, 16);
            driver.add_chain(&[Buffer::readable(0x4000, 8), Buffer::readable(0x4000, 8)]);
            driver.set_descriptor(1, Buffer::readable(0x4000, 8), Some(next));
            let mut queue = driver.device_queue(false);
            let chain = queue.iter::<&GuestRam>(&memory).unwrap().next().unwrap();
            let mut segments = Segments::new(memory.clone());
            assert_eq!(
                segments.push_chain(chain, Direction::FromDriver, 16),
                None,
                "next {next}"
            );
            assert_eq!(segments.bytes(), 0);
        }
    }

    #[test]
    fn pieces_are_taken_from_both_ends() {
        let memory = guest_memory(1);
        for byte in 0..12u8 {
            memory.write_obj(byte, GuestAddress(0x4000 + u64::from(byte))).unwrap();
        }
        let buffers = [
            Buffer::readable(0x4000, 4),
            Buffer::readable(0x4004, 4),
            Buffer::readable(0x4008, 4),
        ];
        let content = |segments: &Segments| {
            let mut bytes = vec![0; segments.bytes()];
            assert!(segments.read_at(0, &mut bytes));
            bytes
        };
        let (mut segments, _) = list(&memory, &buffers, Direction::FromDriver);
        segments.advance(5);
        assert_eq!(content(&segments), [5, 6, 7, 8, 9, 10, 11]);
        segments.limit(4);
        assert_eq!((content(&segments), segments.count()), (vec![5, 6, 7, 8], 2));
        segments.limit(3);
        assert_eq!((content(&segments), segments.count()), (vec![5, 6, 7], 1));
        segments.advance(3);
        assert_eq!((segments.bytes(), segments.count()), (0, 0));

        let (mut segments, _) = list(&memory, &buffers, Direction::FromDriver);
        segments.remove_front(1);
        segments.remove_back(1);
        assert_eq!((content(&segments), segments.count()), (vec![4, 5, 6, 7], 1));
        assert!(!segments.read_at(2, &mut [0; 3]));
        assert!(!segments.write_at(4, &[0]));
    }

    #[test]
    fn what_the_kernel_writes_is_logged_when_asked_for() {
        let memory = GuestMemory::new(1 << 20, HugePages::Never, true).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(&[1; 4097]).unwrap();
        let buffers = [Buffer::writable(0x4000, 4096), Buffer::writable(0x9000, 8192)];
        let (segments, _) = list(&memory, &buffers, Direction::ToDriver);
        assert_eq!(segments.read_from(near.as_fd()).unwrap(), 4097);
        let region = memory.find_region(GuestAddress(0)).unwrap();
        let dirty: Vec<usize> = (4..12).filter(|page| region.bitmap().dirty_at(page * 4096)).collect();
        assert_eq!(dirty, [4, 9]);
    }
}
