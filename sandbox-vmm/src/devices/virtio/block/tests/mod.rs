//! The disk as its driver sees it.

mod any_chain;
mod files;
mod hostile;
mod layer;
mod limits;
mod persist;
mod requests;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use sandbox_core::limits::RateLimit;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempfile::TempFile;

use super::device::RATE_LIMIT;
use super::*;
use crate::devices::virtio::test_support::{Buffer, DriverQueue, FakeLine, activation, kick, tell};
use crate::devices::virtio::{Interrupt, VirtioDevice};
use crate::memory::GuestMemory;

/// Where the tests keep a request's header, data and status, and indirect tables.
const HEADER: u64 = 0x1_0000;
const STATUS: u64 = 0x1_1000;
const TABLE: u64 = 0x1_2000;
const DATA: u64 = 0x10_0000;
/// What a status byte is before the device writes it.
const UNWRITTEN: u8 = 0xee;
const SECTORS: u64 = 256;
const FEATURES: u64 = 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_RING_F_EVENT_IDX;
const OK: u8 = VIRTIO_BLK_S_OK as u8;

/// What a sector of a fresh disk holds.
fn pattern(sector: u64) -> Vec<u8> {
    (0..SECTOR_SIZE).map(|index| (sector * 7 + index) as u8).collect()
}

fn patterns(sectors: std::ops::Range<u64>) -> Vec<u8> {
    sectors.flat_map(pattern).collect()
}

/// A file of [`SECTORS`] sectors of [`pattern`], without a name.
fn image() -> File {
    let mut file = TempFile::new().unwrap().into_file();
    file.write_all(&patterns(0..SECTORS)).unwrap();
    file
}

fn config(file: File) -> BlockConfig {
    BlockConfig {
        file,
        read_only: false,
        layer: None,
        serial: "disk".to_owned(),
        rate_limit: RateLimit::default(),
    }
}

/// An active disk and its driver.
struct Bench<'a> {
    memory: &'a GuestMemory,
    driver: DriverQueue<'a>,
    device: BlockDevice,
    file: File,
    line: FakeLine,
    interrupt: Interrupt,
}

impl<'a> Bench<'a> {
    fn new(memory: &'a GuestMemory) -> Self {
        Self::with_config(memory, config(image()))
    }

    fn with_config(memory: &'a GuestMemory, config: BlockConfig) -> Self {
        let file = config.file.try_clone().unwrap();
        let device = BlockDevice::new(config).unwrap();
        let driver = DriverQueue::new(memory, 0, 16);
        let line = FakeLine::default();
        let interrupt = line.interrupt();
        let mut bench = Self {
            memory,
            driver,
            device,
            file,
            line,
            interrupt,
        };
        bench.activate();
        bench
    }

    /// Sets a fresh queue up, as a driver does after a reset.
    fn activate(&mut self) {
        self.driver = DriverQueue::new(self.memory, 0, 16);
        let queue = self.driver.device_queue(true);
        let (mut activation, line) = activation(self.memory, vec![queue], FEATURES);
        activation.interrupt = line.interrupt();
        self.interrupt = activation.interrupt.clone();
        self.line = line;
        self.device.activate(activation).unwrap();
    }

    fn kick(&mut self) {
        kick(&mut self.device, 0);
    }

    fn put_header(&self, address: u64, kind: u32, sector: u64) {
        self.memory.write_obj(kind.to_le(), GuestAddress(address)).unwrap();
        self.memory.write_obj(0u32, GuestAddress(address + 4)).unwrap();
        self.memory
            .write_obj(sector.to_le(), GuestAddress(address + 8))
            .unwrap();
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn status(&self) -> u8 {
        self.get(STATUS, 1)[0]
    }

    /// Makes a request of the usual layout available: a header, `data`, a status.
    fn submit(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> u16 {
        self.put_header(HEADER, kind, sector);
        self.put(STATUS, &[UNWRITTEN]);
        let header = Buffer::readable(HEADER, 16);
        let status = Buffer::writable(STATUS, 1);
        let buffers: Vec<Buffer> = [&[header], data, &[status]].concat();
        self.driver.add_chain(&buffers)
    }

    /// The same, served: its status, and the used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let head = self.submit(kind, sector, data);
        let len = self.used_after_kick(head);
        (self.status(), len)
    }

    /// Kicks, and returns the used length of the one request that is then done.
    fn used_after_kick(&mut self, head: u16) -> u32 {
        let before = self.driver.used_idx();
        self.kick();
        assert_eq!(self.driver.used_idx(), before.wrapping_add(1));
        let (id, len) = self.driver.used(before);
        assert_eq!(id, u32::from(head));
        len
    }

    /// The file's bytes from `sector` on.
    fn on_disk(&self, sector: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, sector * SECTOR_SIZE).unwrap();
        bytes
    }
}
