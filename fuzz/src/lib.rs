//! What the targets of virtio devices share: a device behind its window, and a driver made of the fuzzer's bytes that
//! keeps the rules often enough to get somewhere.

use std::io;
use std::sync::Arc;

use sandbox_vmm::devices::virtio::transport::MmioTransport;
use sandbox_vmm::devices::virtio::{InterruptLine, Progress, Shared, VirtioDevice};
use sandbox_vmm::memory::{GuestMemory, HugePages};
use vm_memory::{Bytes, GuestAddress};

/// The guest's memory: rings below, buffers above.
pub const MEMORY_BYTES: u64 = 1 << 20;
const QUEUES: u64 = 5;
const ENTRIES: u64 = 16;
/// Where the buffers lie that most descriptors point to.
const BUFFERS: u64 = 0x8_0000;
/// Steps of one input: enough for several sessions of a driver.
const MAX_STEPS: usize = 200;
/// Calls for one kick or event: more than any queue needs. A device that always says that more is left is a finding.
const MAX_CALLS: usize = 1000;

/// Registers (virtio 1.3 §4.2.2).
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const STATUS: u64 = 0x070;
const QUEUE_DESC: u64 = 0x080;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DEVICE: u64 = 0x0a0;

struct NoLine;

impl InterruptLine for NoLine {
    fn pulse(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A device that waits for its driver.
pub struct Bench {
    /// Its window.
    pub transport: MmioTransport,
    device: Arc<Shared<dyn VirtioDevice>>,
    memory: GuestMemory,
}

/// The fuzzer's bytes, from the front.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn number<const N: usize>(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let len = N.min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        u64::from_le_bytes(bytes)
    }
}

impl Bench {
    /// A window before `device`, in memory of its own.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        let memory = GuestMemory::new(MEMORY_BYTES, HugePages::Never, false).expect("a MiB of memory");
        let device: Arc<Shared<dyn VirtioDevice>> = Arc::new(Shared::new(device));
        let transport = MmioTransport::new(Arc::clone(&device), memory.clone(), Box::new(NoLine));
        Self {
            transport,
            device,
            memory,
        }
    }

    /// Does what the bytes say; `host` is what the host's side does now and then, by a byte.
    pub fn drive(&self, data: &[u8], mut host: impl FnMut(u8)) {
        let mut input = Input(data);
        for _ in 0..MAX_STEPS {
            if input.0.is_empty() {
                break;
            }
            match input.number::<1>() % 10 {
                0 => self.set_up(input.number::<1>()),
                1 | 2 => self.describe(&mut input),
                3 | 4 => self.offer(&mut input),
                5 => self.kick(input.number::<1>() % (QUEUES + 1)),
                6 => self.touch(&mut input),
                7 => self.fill(&mut input),
                8 => self.tell((input.number::<1>() % 4) as u32),
                _ => {
                    host(input.number::<1>() as u8);
                    self.tell(0);
                }
            }
        }
        self.write(STATUS, 0);
    }

    /// What a correct driver does, with the features that are not masked.
    fn set_up(&self, mask: u64) {
        self.write(STATUS, 0);
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        for (half, features) in [!(mask << 20) as u32, u32::MAX].into_iter().enumerate() {
            self.write(DRIVER_FEATURES_SELECT, half as u32);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, 11);
        for queue in 0..QUEUES {
            self.write(QUEUE_SELECT, queue as u32);
            self.write(QUEUE_NUM, ENTRIES as u32);
            let start = ring(queue) as u32;
            for (register, offset) in [(QUEUE_DESC, 0), (QUEUE_DRIVER, 0x400), (QUEUE_DEVICE, 0x800)] {
                self.write(register, start + offset);
            }
            self.write(QUEUE_READY, 1);
            let _ = self.memory.write_slice(&[0; 0xc00], GuestAddress(ring(queue)));
        }
        self.write(STATUS, 15);
    }

    /// Fills a descriptor, most of them with a buffer in memory.
    fn describe(&self, input: &mut Input<'_>) {
        let (queue, index) = (input.number::<1>() % QUEUES, input.number::<1>() % ENTRIES);
        let kind = input.number::<1>();
        let address = match kind >> 4 {
            0 => input.number::<8>(),
            1 => ring(queue) + input.number::<1>(),
            _ => BUFFERS + input.number::<1>() * 0x100,
        };
        let len = match kind & 3 {
            0 => input.number::<4>(),
            _ => input.number::<2>() % 0x1000,
        };
        let (flags, next) = (input.number::<1>() & 7, input.number::<1>() % (ENTRIES + 1));
        let descriptor =
            u128::from(address) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        let at = GuestAddress(ring(queue) + index * 16);
        let _ = self.memory.write_slice(&descriptor.to_le_bytes(), at);
    }

    /// Makes a chain available, and now and then lies about how many there are.
    fn offer(&self, input: &mut Input<'_>) {
        let (queue, head) = (input.number::<1>() % QUEUES, input.number::<1>());
        let available = ring(queue) + 0x400;
        let index: u16 = self.memory.read_obj(GuestAddress(available + 2)).unwrap_or(0);
        let slot = available + 4 + u64::from(index) % ENTRIES * 2;
        let _ = self.memory.write_obj((head % (ENTRIES + 1)) as u16, GuestAddress(slot));
        let step = if head == 0xff { input.number::<2>() as u16 } else { 1 };
        let _ = self
            .memory
            .write_obj(index.wrapping_add(step), GuestAddress(available + 2));
    }

    fn kick(&self, queue: u64) {
        let queue = (queue as u32).to_le_bytes();
        let calls = (0..MAX_CALLS).take_while(|_| self.transport.write(QUEUE_NOTIFY, &queue) == Progress::More);
        assert!(calls.count() < MAX_CALLS, "a kick has no end");
    }

    fn tell(&self, token: u32) {
        let calls = (0..MAX_CALLS).take_while(|_| self.device.tell(token) == Progress::More);
        assert!(calls.count() < MAX_CALLS, "an event has no end");
    }

    /// Any access of any width.
    fn touch(&self, input: &mut Input<'_>) {
        let (offset, width) = (input.number::<2>() % 0x1000, 1 << (input.number::<1>() % 4));
        let mut data = input.number::<8>().to_le_bytes();
        self.transport.read(offset, &mut data[..width]);
        let _ = self.transport.write(offset, &data[..width]);
    }

    /// Puts bytes where requests have their headers.
    fn fill(&self, input: &mut Input<'_>) {
        let at = GuestAddress(BUFFERS + input.number::<1>() * 0x100);
        let len = (input.number::<1>() as usize).min(input.0.len());
        let (bytes, rest) = input.0.split_at(len);
        input.0 = rest;
        let _ = self.memory.write_slice(bytes, at);
    }

    fn write(&self, register: u64, value: u32) {
        let _ = self.transport.write(register, &value.to_le_bytes());
    }
}

/// Where a queue's rings begin.
fn ring(queue: u64) -> u64 {
    0x1000 * (queue + 1)
}
