//! The driver's side of a device for unit tests: memory, an interrupt line that counts, and queues over virtio-queue's
//! driver-side mock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::{AvailRing, DescriptorTable, UsedRing};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{
    ActivateError, Activation, DeviceKind, DeviceState, Interrupt, InterruptLine, Progress, QueuePosition,
    RestoreError, SavedDevice, VirtioDevice,
};
use crate::memory::{GuestMemory, GuestRam, HugePages};

/// An interrupt line that counts its pulses.
#[derive(Clone, Default)]
pub(crate) struct FakeLine(Arc<AtomicUsize>);

impl FakeLine {
    /// An interrupt over this line.
    pub(crate) fn interrupt(&self) -> Interrupt {
        Interrupt::new(Box::new(self.clone()))
    }

    /// Pulses so far.
    pub(crate) fn pulses(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl InterruptLine for FakeLine {
    fn pulse(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Guest memory of `mib` MiB from address 0, without a dirty log.
pub(crate) fn guest_memory(mib: u64) -> GuestMemory {
    GuestMemory::new(mib << 20, HugePages::Never, false).unwrap()
}

/// What the transport would hand to a device, and the line behind its interrupt.
pub(crate) fn activation(memory: &GuestMemory, queues: Vec<Queue>, features: u64) -> (Activation, FakeLine) {
    let line = FakeLine::default();
    let activation = Activation {
        memory: memory.clone(),
        queues,
        interrupt: line.interrupt(),
        features,
    };
    (activation, line)
}

/// Has `new` take the place of `old`, by way of the stored form of its state, for a driver whose queues (as they were
/// at their beginning) and features these are. It is not woken yet.
pub(crate) fn replace(
    old: &mut dyn VirtioDevice,
    new: &mut dyn VirtioDevice,
    memory: &GuestMemory,
    mut queues: Vec<Queue>,
    features: u64,
) -> FakeLine {
    let SavedDevice { positions, state } = old.save();
    let stored = serde_json::to_string(&(positions, state)).unwrap();
    let (positions, state): (Vec<QueuePosition>, DeviceState) = serde_json::from_str(&stored).unwrap();
    assert_eq!(positions.len(), queues.len());
    for (queue, position) in queues.iter_mut().zip(positions) {
        queue.set_next_avail(position.next_available);
        queue.set_next_used(position.next_used);
    }
    new.restore(&state).unwrap();
    let (activation, line) = activation(memory, queues, features);
    new.activate(activation).unwrap();
    line
}

/// Kicks `queue` as a vCPU thread does, until nothing is left.
pub(crate) fn kick(device: &mut impl VirtioDevice, queue: u16) {
    while device.queue_notify(queue) == Progress::More {}
}

/// Tells `device` of an event as the event loop does, until nothing is left.
pub(crate) fn tell(device: &mut impl VirtioDevice, token: u32) {
    while device.host_event(token) == Progress::More {}
}

/// A device without queues that notes its events, and needs several calls for each.
pub(crate) struct EventCounter {
    /// Tokens, a call each.
    pub(crate) events: Vec<u32>,
    calls_per_event: usize,
}

impl EventCounter {
    pub(crate) fn new(calls_per_event: usize) -> Self {
        Self {
            events: Vec::new(),
            calls_per_event,
        }
    }
}

impl VirtioDevice for EventCounter {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Ok(())
    }

    fn reset(&mut self) {}

    fn queue_notify(&mut self, _queue: u16) -> Progress {
        Progress::Waiting
    }

    fn save(&mut self) -> SavedDevice {
        SavedDevice {
            positions: Vec::new(),
            state: DeviceState::Rng,
        }
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
        Ok(())
    }

    fn host_event(&mut self, token: u32) -> Progress {
        self.events.push(token);
        match self.events.len().is_multiple_of(self.calls_per_event) {
            true => Progress::Waiting,
            false => Progress::More,
        }
    }
}

/// One buffer of a descriptor chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
}

impl Buffer {
    /// A buffer that the device reads.
    pub(crate) fn readable(address: u64, len: u32) -> Self {
        let flags = 0;
        Self { address, len, flags }
    }

    /// A buffer that the device writes.
    pub(crate) fn writable(address: u64, len: u32) -> Self {
        let flags = VRING_DESC_F_WRITE as u16;
        Self { address, len, flags }
    }

    /// An indirect table of `entries` descriptors.
    pub(crate) fn indirect(address: u64, entries: u32) -> Self {
        Self {
            address,
            len: entries * size_of::<RawDescriptor>() as u32,
            flags: VRING_DESC_F_INDIRECT as u16,
        }
    }

    /// The descriptor of this buffer, followed by descriptor `next` if there is one.
    fn descriptor(self, next: Option<u16>) -> RawDescriptor {
        let chained = match next {
            Some(_) => VRING_DESC_F_NEXT as u16,
            None => 0,
        };
        let flags = self.flags | chained;
        Descriptor::new(self.address, self.len, flags, next.unwrap_or(0)).into()
    }
}

/// The driver's half of a split virtqueue. Its three parts lie one behind the other from a given address; descriptors
/// are taken in rotation, so the test sees to it that a chain is used before its descriptors come round again.
pub(crate) struct DriverQueue<'a> {
    memory: &'a GuestRam,
    size: u16,
    table: DescriptorTable<'a, GuestRam>,
    table_address: u64,
    avail: AvailRing<'a, GuestRam>,
    avail_address: u64,
    used: UsedRing<'a, GuestRam>,
    used_address: u64,
    next_descriptor: u16,
}

impl<'a> DriverQueue<'a> {
    /// An empty queue of `size` (a power of two) from `start`, a multiple of 16. [`DriverQueue::end`] is what it takes.
    pub(crate) fn new(memory: &'a GuestMemory, start: u64, size: u16) -> Self {
        let entries = u64::from(size);
        let avail_address = start + 16 * entries;
        let used_address = (avail_address + 6 + 2 * entries).next_multiple_of(4);
        let memory: &GuestRam = memory;
        Self {
            memory,
            size,
            table: DescriptorTable::new(memory, GuestAddress(start), size),
            table_address: start,
            avail: AvailRing::new(memory, GuestAddress(avail_address), size),
            avail_address,
            used: UsedRing::new(memory, GuestAddress(used_address), size),
            used_address,
            next_descriptor: 0,
        }
    }

    /// First address behind the queue.
    pub(crate) fn end(&self) -> u64 {
        self.used_address + 6 + 8 * u64::from(self.size)
    }

    /// Addresses of the descriptor table, the available ring and the used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [self.table_address, self.avail_address, self.used_address]
    }

    /// The device's half, ready, at position 0.
    pub(crate) fn device_queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.table_address))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.avail_address))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used_address))
            .unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(self.memory));
        queue
    }

    /// Adds a chain of `buffers` and makes it available. Returns its head.
    pub(crate) fn add_chain(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let next = (position + 1 < buffers.len()).then_some(self.next_descriptor);
            self.table.store(index, buffer.descriptor(next)).unwrap();
        }
        self.make_available(head);
        head
    }

    /// Writes `buffers` as an indirect table at `table_address` and makes the one descriptor that points to it
    /// available. Returns that descriptor.
    pub(crate) fn add_indirect_chain(&mut self, table_address: u64, buffers: &[Buffer]) -> u16 {
        let entries = buffers.len() as u16;
        let table = DescriptorTable::new(self.memory, GuestAddress(table_address), entries);
        for (index, buffer) in (0..entries).zip(buffers) {
            let next = (index + 1 < entries).then_some(index + 1);
            table.store(index, buffer.descriptor(next)).unwrap();
        }
        self.add_chain(&[Buffer::indirect(table_address, u32::from(entries))])
    }

    /// Overwrites one descriptor with whatever a hostile driver likes.
    pub(crate) fn set_descriptor(&self, index: u16, buffer: Buffer, next: Option<u16>) {
        self.table.store(index, buffer.descriptor(next)).unwrap();
    }

    /// Puts `head` into the available ring, whether it makes sense or not.
    pub(crate) fn make_available(&self, head: u16) {
        let idx = self.avail.idx().load();
        let slot = usize::from(idx % self.size);
        self.avail.ring().ref_at(slot).unwrap().store(head);
        self.set_avail_idx(idx.wrapping_add(1));
    }

    /// Overwrites the available ring's index.
    pub(crate) fn set_avail_idx(&self, idx: u16) {
        self.avail.idx().store(idx);
    }

    /// The used ring's index: how many chains the device gave back, modulo 2^16.
    pub(crate) fn used_idx(&self) -> u16 {
        self.used.idx().load()
    }

    /// The used element at `position` (an index as [`DriverQueue::used_idx`] counts): head and written length.
    pub(crate) fn used(&self, position: u16) -> (u32, u32) {
        let slot = usize::from(position % self.size);
        let element = self.used.ring().ref_at(slot).unwrap().load();
        (element.id(), element.len())
    }

    /// Asks for an interrupt once the used index passes `position` (virtio 1.3 §2.7.7, `used_event`).
    pub(crate) fn set_used_event(&self, position: u16) {
        let address = self.avail_address + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(position.to_le(), GuestAddress(address)).unwrap();
    }

    /// Where the device asked to be kicked next (`avail_event`).
    pub(crate) fn avail_event(&self) -> u16 {
        let address = self.used_address + 4 + 8 * u64::from(self.size);
        u16::from_le(self.memory.read_obj(GuestAddress(address)).unwrap())
    }
}

mod tests {
    use virtio_queue::QueueOwnedT;

    use super::*;

    #[test]
    fn a_chain_goes_round_trip_between_driver_and_device_past_the_end_of_the_ring() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0x1000, 4);
        assert!(driver.end() < 0x2000);
        assert_eq!(driver.addresses(), [0x1000, 0x1040, 0x1050]);
        let mut queue = driver.device_queue(true);
        driver.set_used_event(2);
        let mut interrupts = Vec::new();
        for round in 0..6u16 {
            let head = driver.add_chain(&[Buffer::readable(0x4000, 8), Buffer::writable(0x5000, u32::from(round))]);
            let chain = queue.iter(&*memory).unwrap().next().unwrap();
            assert_eq!(chain.head_index(), head);
            let lengths: Vec<u32> = chain.map(|descriptor| descriptor.len()).collect();
            assert_eq!(lengths, [8, u32::from(round)]);
            queue.add_used(&*memory, head, u32::from(round)).unwrap();
            assert_eq!(driver.used_idx(), round + 1);
            assert_eq!(driver.used(round), (u32::from(head), u32::from(round)));
            interrupts.push(queue.needs_notification(&*memory).unwrap());
            assert!(!queue.enable_notification(&*memory).unwrap());
            assert_eq!(driver.avail_event(), round + 1);
        }
        assert_eq!(interrupts, [false, false, true, false, false, false]);
    }

    #[test]
    fn an_indirect_chain_is_walked_and_the_line_counts() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0, 4);
        let buffers = [Buffer::readable(0x4000, 1), Buffer::writable(0x5000, 2)];
        driver.add_indirect_chain(0x3000, &buffers);
        let (mut activation, line) = activation(&memory, vec![driver.device_queue(false)], 0);
        let chain = activation.queues[0].iter(&*memory).unwrap().next().unwrap();
        assert_eq!(chain.count(), 2);
        activation.interrupt.signal_used();
        assert_eq!((line.pulses(), activation.interrupt.status()), (1, 1));
        driver.set_descriptor(0, Buffer::readable(0, 1), Some(0));
        driver.set_avail_idx(9);
        assert!(activation.queues[0].iter(&*memory).is_err());
    }
}
