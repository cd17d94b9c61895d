//! One request: its descriptor chain taken apart, carried out, and answered.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::counters::BlockCounters;
use super::disk::{Disk, Failure};
use super::{REQUEST_MAX_BYTES, SERIAL_LEN};
use crate::devices::virtio::segments::Segments;
use crate::memory::{GuestMemory, GuestRam};

/// Length of the header before the data (`struct virtio_blk_req`), in bytes.
const HEADER_LEN: usize = 16;
/// Length of `struct virtio_blk_discard_write_zeroes`, in bytes. A request has exactly one.
const RANGE_LEN: usize = 16;

/// A request. The buffers are the device's to use again for the next one, so that serving one allocates nothing.
///
/// What the driver wrote is read once and then believed no more: the header and the descriptors are copied before they
/// are looked at.
pub(super) struct Request {
    memory: GuestMemory,
    /// Whatever is written must be on stable storage at once, as the driver knows no flushes.
    write_through: bool,
    kind: u32,
    sector: u64,
    /// The data that the device reads, behind the header.
    from_driver: Segments,
    /// The data that the device writes, before the status.
    to_driver: Segments,
    /// Where the status byte belongs.
    status: GuestAddress,
    /// The parts are there, in their order and in guest memory.
    intact: bool,
}

impl Request {
    /// Room for a request in `memory`.
    pub(super) fn new(memory: GuestMemory, write_through: bool) -> Self {
        Self {
            write_through,
            kind: 0,
            sector: 0,
            from_driver: Segments::new(memory.clone()),
            to_driver: Segments::new(memory.clone()),
            status: GuestAddress(0),
            intact: false,
            memory,
        }
    }

    /// Takes `chain` apart, whose layout is the driver's choice (§2.7.4): the header is the first 16 bytes that the
    /// device reads, the status the last byte that it writes, wherever one descriptor ends and the next begins.
    ///
    /// False if there is nowhere to put a status: the chain is broken off, longer than `max_len` descriptors, or has
    /// nothing to be written. Whatever else is wrong with it is told by the status.
    pub(super) fn read_chain(&mut self, chain: DescriptorChain<&GuestRam>, max_len: u16) -> bool {
        self.from_driver.clear();
        self.to_driver.clear();
        self.intact = true;
        let mut header = Header::default();
        // The last buffer to be written so far, held back because the status may end it.
        let mut held_back: Option<(GuestAddress, usize)> = None;
        let mut complete = false;
        let descriptors = chain.enumerate();
        for (index, descriptor) in descriptors {
            if index >= usize::from(max_len) {
                return false;
            }
            // The iterator ends silently at a descriptor that it cannot follow; the last one then announces another.
            complete = !descriptor.has_next();
            if descriptor.len() == 0 {
                continue;
            }
            if descriptor.is_write_only() {
                let buffer = (descriptor.addr(), descriptor.len() as usize);
                let before = held_back.replace(buffer);
                self.push_to_driver(before);
            } else {
                // All that is read comes before all that is written (§2.7.4.2).
                self.intact &= held_back.is_none();
                self.push_from_driver(&mut header, descriptor);
            }
        }
        let Some((address, len)) = held_back.filter(|_| complete) else {
            return false;
        };
        self.push_to_driver((len > 1).then_some((address, len - 1)));
        self.status = GuestAddress(address.0.wrapping_add(len as u64 - 1));
        self.intact &= header.is_complete();
        (self.kind, self.sector) = header.fields();
        true
    }

    /// How much data the request moves between driver and disk, in bytes; 0 for one that is too large to be served.
    pub(super) fn data_bytes(&self) -> u64 {
        let bytes = match self.kind {
            VIRTIO_BLK_T_IN => self.to_driver.bytes(),
            VIRTIO_BLK_T_OUT => self.from_driver.bytes(),
            _ => 0,
        };
        Some(bytes as u64)
            .filter(|bytes| *bytes <= REQUEST_MAX_BYTES)
            .unwrap_or(0)
    }

    /// What serving the request costs, in bytes of data that could be moved instead. What is no transfer may take the
    /// host's file system as long as a large one.
    pub(super) fn cost(&self) -> u64 {
        match self.kind {
            VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => REQUEST_MAX_BYTES,
            VIRTIO_BLK_T_OUT if self.write_through => REQUEST_MAX_BYTES,
            _ => self.data_bytes(),
        }
    }

    /// Carries the request out and writes its status. Returns how many bytes the driver finds written from the start of
    /// the buffers to be written; 0 if the status could not be written either.
    pub(super) fn serve(&mut self, disk: &Disk, counters: &BlockCounters) -> u32 {
        // At most 2^32 - 1 with the status, as the whole chain is shorter than 4 GiB.
        let room = self.to_driver.bytes() as u32;
        let (status, written) = match self.carry_out(disk, counters) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(failure) => {
                counters.add_error();
                tracing::debug!(
                    error = &failure as &dyn std::error::Error,
                    self.kind,
                    self.sector,
                    "disk request"
                );
                match failure {
                    Failure::Unsupported => (VIRTIO_BLK_S_UNSUPP, 0),
                    Failure::Host(_) | Failure::Invalid => (VIRTIO_BLK_S_IOERR, 0),
                }
            }
        };
        match self.memory.write_obj(status as u8, self.status) {
            // The status comes last: it counts as written from the start if all before it was.
            Ok(()) if written == room => written + 1,
            Ok(()) => written,
            Err(_) => 0,
        }
    }

    /// The number of data bytes written for the driver.
    fn carry_out(&mut self, disk: &Disk, counters: &BlockCounters) -> Result<u32, Failure> {
        let bytes = (self.from_driver.bytes() + self.to_driver.bytes()) as u64;
        if !self.intact || bytes > REQUEST_MAX_BYTES {
            return Err(Failure::Invalid);
        }
        match self.kind {
            VIRTIO_BLK_T_IN => self.read(disk, counters),
            VIRTIO_BLK_T_OUT => self.write(disk, counters),
            VIRTIO_BLK_T_FLUSH => {
                disk.flush()?;
                counters.add_flush();
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => match self.to_driver.write_at(0, disk.serial()) {
                true => Ok(SERIAL_LEN as u32),
                false => Err(Failure::Invalid),
            },
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if disk.discards() => self.change_range(disk),
            _ => Err(Failure::Unsupported),
        }
    }

    fn read(&mut self, disk: &Disk, counters: &BlockCounters) -> Result<u32, Failure> {
        let bytes = self.to_driver.bytes() as u32;
        disk.read(self.sector, &mut self.to_driver)?;
        counters.add_read(u64::from(bytes));
        Ok(bytes)
    }

    fn write(&mut self, disk: &Disk, counters: &BlockCounters) -> Result<u32, Failure> {
        let bytes = self.from_driver.bytes() as u64;
        disk.write(self.sector, &mut self.from_driver, self.write_through)?;
        counters.add_write(bytes);
        Ok(0)
    }

    /// Discard or write-zeroes; its data is the range (§5.2.6).
    fn change_range(&self, disk: &Disk) -> Result<u32, Failure> {
        let mut range = [0; RANGE_LEN];
        if self.from_driver.bytes() != RANGE_LEN || !self.from_driver.read_at(0, &mut range) {
            return Err(Failure::Invalid);
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = range;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        // Of the flags there is one, and discard does not have it (§5.2.6.2).
        match (self.kind, u32::from_le_bytes([f0, f1, f2, f3])) {
            (VIRTIO_BLK_T_DISCARD, 0) => disk.discard(sector, sectors)?,
            (VIRTIO_BLK_T_WRITE_ZEROES, 0) => disk.write_zeroes(sector, sectors, false)?,
            (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => {
                disk.write_zeroes(sector, sectors, true)?
            }
            _ => return Err(Failure::Unsupported),
        }
        if self.write_through {
            disk.flush()?;
        }
        Ok(0)
    }

    fn push_to_driver(&mut self, buffer: Option<(GuestAddress, usize)>) {
        if let Some((address, len)) = buffer {
            self.intact &= self.to_driver.push(address, len).is_some();
        }
    }

    /// Takes what the header still lacks from the front of a buffer; the rest is data.
    fn push_from_driver(&mut self, header: &mut Header, descriptor: Descriptor) {
        let len = descriptor.len() as usize;
        let Some(taken) = header.take(&self.memory, descriptor.addr(), len) else {
            self.intact = false;
            return;
        };
        if len > taken {
            // Lies in memory if what was taken does not end it; `push` checks.
            let rest = GuestAddress(descriptor.addr().0.wrapping_add(taken as u64));
            self.intact &= self.from_driver.push(rest, len - taken).is_some();
        }
    }
}

/// The header as far as it has been read.
#[derive(Default)]
struct Header {
    bytes: [u8; HEADER_LEN],
    len: usize,
}

impl Header {
    /// Reads what is missing from a buffer of `len` bytes. Returns how many bytes it took, `None` if they do not lie in
    /// guest memory.
    fn take(&mut self, memory: &GuestRam, address: GuestAddress, len: usize) -> Option<usize> {
        let missing = &mut self.bytes[self.len..];
        let taken = missing.len().min(len);
        if taken > 0 {
            memory.read_slice(&mut missing[..taken], address).ok()?;
            self.len += taken;
        }
        Some(taken)
    }

    fn is_complete(&self) -> bool {
        self.len == HEADER_LEN
    }

    /// Type and sector; between them lies what is reserved.
    fn fields(&self) -> (u32, u64) {
        let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = self.bytes;
        (
            u32::from_le_bytes([k0, k1, k2, k3]),
            u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        )
    }
}
