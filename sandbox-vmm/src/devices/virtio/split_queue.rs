//! The device's half of a split virtqueue (virtio 1.3 §2.7), as devices use it that move data in bulk.
//!
//! The available side is virtio-queue's. The used side is kept here, because a device that fills several buffers for
//! one frame must make them visible all at once: a driver that polls would take a frame for incomplete otherwise.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::segments::{Direction, Segments};
use super::{ActivateError, Interrupt, QueuePosition};
use crate::memory::{GuestMemory, GuestRam};

/// Bytes before the first entry of either ring: flags and index.
const RING_HEADER_SIZE: u64 = 4;
/// Offset of the index in either ring.
const RING_INDEX_OFFSET: u64 = 2;
/// Size of an entry of the available ring.
const AVAIL_ELEMENT_SIZE: u64 = 2;
/// Size of an entry of the used ring.
const USED_ELEMENT_SIZE: u64 = 8;

/// What [`SplitQueue::pop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// The driver has made nothing available.
    Nothing,
    /// A chain whose buffers were appended to the list.
    Chain {
        /// What the chain is given back by.
        head: u16,
        /// Length of its buffers together, in bytes.
        bytes: usize,
    },
    /// A chain that no correct driver makes; nothing was appended. It is given back unused.
    Malformed {
        /// What the chain is given back by.
        head: u16,
    },
}

/// One queue of an active device.
///
/// A driver that breaks the rings themselves breaks the queue: it then looks empty, and the driver is told to reset the
/// device.
pub(crate) struct SplitQueue {
    queue: Queue,
    memory: GuestMemory,
    interrupt: Interrupt,
    /// Used elements written but not yet visible to the driver.
    unpublished: Wrapping<u16>,
    /// Position of the used ring up to which an interrupt was considered.
    considered: Wrapping<u16>,
    broken: bool,
}

/// The first `N` of the queues that a device was activated with, all of which it needs.
pub(crate) fn required_queues<const N: usize>(
    queues: Vec<Queue>,
    memory: &GuestMemory,
    interrupt: &Interrupt,
) -> Result<[SplitQueue; N], ActivateError> {
    let ready = queues.into_iter().take_while(QueueT::ready).take(N);
    let ready: Vec<_> = ready
        .map(|queue| SplitQueue::new(queue, memory.clone(), interrupt.clone()))
        .collect();
    ready
        .try_into()
        .map_err(|short: Vec<_>| ActivateError::QueueNotReady(short.len()))
}

impl SplitQueue {
    /// Takes over a queue that the transport validated against `memory`.
    pub(crate) fn new(queue: Queue, memory: GuestMemory, interrupt: Interrupt) -> Self {
        let considered = Wrapping(queue.next_used());
        Self {
            queue,
            memory,
            interrupt,
            unpublished: Wrapping(0),
            considered,
            broken: false,
        }
    }

    /// Number of entries.
    pub(crate) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// How far the device is. What was given back and is not published yet does not count.
    pub(crate) fn position(&self) -> QueuePosition {
        QueuePosition {
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }

    /// Takes the next available chain, and appends its buffers to `segments`.
    pub(crate) fn pop(&mut self, segments: &mut Segments, direction: Direction) -> Popped {
        if self.broken {
            return Popped::Nothing;
        }
        let size = usize::from(self.queue.size());
        let memory: &GuestRam = &self.memory;
        let chain = match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(error) => {
                self.break_down(&error);
                return Popped::Nothing;
            }
        };
        let Some(chain) = chain else {
            return Popped::Nothing;
        };
        let head = chain.head_index();
        // A chain is at most as long as its queue (§2.7.5.3.1), also where an indirect table would have room for more:
        // a driver cannot make the device walk 65,535 descriptors for each of its chains.
        match segments.push_chain(chain, direction, size) {
            Some(bytes) => Popped::Chain { head, bytes },
            None => Popped::Malformed { head },
        }
    }

    /// Takes the next available chain as it is, for a device whose chains go both ways. `memory` is the queue's; the
    /// length of the chain is for the device to bound.
    pub(crate) fn pop_chain<'m>(&mut self, memory: &'m GuestRam) -> Option<DescriptorChain<&'m GuestRam>> {
        if self.broken {
            return None;
        }
        match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(error) => {
                self.break_down(&error);
                None
            }
        }
    }

    /// Puts the last `count` chains back as if they had never been taken.
    pub(crate) fn undo_pop(&mut self, count: u16) {
        let position = Wrapping(self.queue.next_avail()) - Wrapping(count);
        self.queue.set_next_avail(position.0);
    }

    /// Puts all chains back that were taken from `next_available` on.
    pub(crate) fn rewind(&mut self, next_available: u16) {
        self.queue.set_next_avail(next_available);
    }

    /// Gives a chain back with `written` bytes in its buffers. The driver sees it after [`SplitQueue::publish`].
    pub(crate) fn push_used(&mut self, head: u16, written: u32) {
        if self.broken {
            return;
        }
        if head >= self.queue.size() {
            self.break_down(&virtio_queue::Error::InvalidDescriptorIndex);
            return;
        }
        let slot = (Wrapping(self.queue.next_used()) + self.unpublished).0 % self.queue.size();
        let offset = RING_HEADER_SIZE + USED_ELEMENT_SIZE * u64::from(slot);
        // struct virtq_used_elem: the head in the lower half, the length in the upper.
        let element = u64::from(head) | u64::from(written) << 32;
        match self.memory.write_obj(element.to_le(), self.in_used_ring(offset)) {
            Ok(()) => self.unpublished += 1,
            Err(error) => self.break_down(&error),
        }
    }

    /// Makes everything given back visible to the driver, at once.
    pub(crate) fn publish(&mut self) {
        if self.broken || self.unpublished.0 == 0 {
            return;
        }
        let position = Wrapping(self.queue.next_used()) + self.unpublished;
        self.queue.set_next_used(position.0);
        self.unpublished = Wrapping(0);
        let index = self.in_used_ring(RING_INDEX_OFFSET);
        if let Err(error) = self.memory.store(position.0.to_le(), index, Ordering::Release) {
            self.break_down(&error);
        }
    }

    /// Publishes, and interrupts the driver if it wants that for what was published since it was last considered
    /// (§2.7.7.2).
    pub(crate) fn publish_and_signal(&mut self) {
        self.publish();
        let new = Wrapping(self.queue.next_used());
        let old = std::mem::replace(&mut self.considered, new);
        if self.broken || new == old {
            return;
        }
        // What was published must be visible before the driver's wish is read: the driver writes its wish, then looks
        // at the used ring once more.
        fence(Ordering::SeqCst);
        match self.driver_wants_interrupt(old, new) {
            Ok(true) => self.interrupt.signal_used(),
            Ok(false) => {}
            Err(error) => self.break_down(&error),
        }
    }

    fn driver_wants_interrupt(&self, old: Wrapping<u16>, new: Wrapping<u16>) -> Result<bool, GuestMemoryError> {
        if !self.queue.event_idx_enabled() {
            let flags: u16 = self.memory.load(self.in_avail_ring(0), Ordering::Relaxed)?;
            return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let offset = RING_HEADER_SIZE + AVAIL_ELEMENT_SIZE * u64::from(self.queue.size());
        let used_event: u16 = self.memory.load(self.in_avail_ring(offset), Ordering::Relaxed)?;
        Ok(new - Wrapping(u16::from_le(used_event)) - Wrapping(1) < new - old)
    }

    /// Asks the driver to kick when it makes the next chain available. True if one has become available meanwhile, for
    /// which there will be no kick.
    pub(crate) fn enable_notification(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let memory: &GuestRam = &self.memory;
        match self.queue.enable_notification(memory) {
            Ok(more) => more,
            Err(error) => {
                self.break_down(&error);
                false
            }
        }
    }

    /// Tells the driver that it need not kick. With event indices this is so after every kick, until they are enabled
    /// again.
    pub(crate) fn disable_notification(&mut self) {
        let memory: &GuestRam = &self.memory;
        if let Err(error) = self.queue.disable_notification(memory) {
            self.break_down(&error);
        }
    }

    fn in_used_ring(&self, offset: u64) -> GuestAddress {
        // Neither this nor the next can overflow: the whole ring was checked to lie in guest RAM.
        GuestAddress(self.queue.used_ring() + offset)
    }

    fn in_avail_ring(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.queue.avail_ring() + offset)
    }

    fn break_down(&mut self, error: &(dyn std::error::Error + 'static)) {
        if !self.broken {
            tracing::warn!(
                error,
                "the driver broke a virtqueue; it is ignored until the device is reset"
            );
            self.broken = true;
            self.interrupt.signal_needs_reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::test_support::{Buffer, DriverQueue, FakeLine, guest_memory};

    struct Fixture {
        queue: SplitQueue,
        segments: Segments,
        line: FakeLine,
        interrupt: Interrupt,
    }

    fn fixture(driver: &DriverQueue<'_>, memory: &GuestMemory, event_idx: bool) -> Fixture {
        let line = FakeLine::default();
        let interrupt = line.interrupt();
        Fixture {
            queue: SplitQueue::new(driver.device_queue(event_idx), memory.clone(), interrupt.clone()),
            segments: Segments::new(memory.clone()),
            line,
            interrupt,
        }
    }

    impl Fixture {
        fn pop(&mut self) -> Popped {
            self.segments.clear();
            self.queue.pop(&mut self.segments, Direction::FromDriver)
        }

        /// Makes `count` chains available, uses them at once, and counts the interrupts that this raises.
        fn use_chains(&mut self, driver: &mut DriverQueue<'_>, count: usize) -> usize {
            let before = self.line.pulses();
            for _ in 0..count {
                let head = driver.add_chain(&[Buffer::readable(0x4000, 1)]);
                assert_eq!(self.pop(), Popped::Chain { head, bytes: 1 });
                self.queue.push_used(head, 0);
            }
            self.queue.publish_and_signal();
            self.line.pulses() - before
        }
    }

    #[test]
    fn used_chains_become_visible_together() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, false);
        let heads = [0, 1].map(|_| driver.add_chain(&[Buffer::readable(0x4000, 16)]));
        for head in heads {
            assert_eq!(device.pop(), Popped::Chain { head, bytes: 16 });
            device.queue.push_used(head, 7);
        }
        assert_eq!(device.pop(), Popped::Nothing);
        assert_eq!(driver.used_idx(), 0);
        device.queue.publish_and_signal();
        assert_eq!((driver.used_idx(), device.line.pulses()), (2, 1));
        assert_eq!([driver.used(0), driver.used(1)], heads.map(|head| (u32::from(head), 7)));
        device.queue.publish_and_signal();
        assert_eq!(device.line.pulses(), 1, "nothing new was used");
    }

    #[test]
    fn interrupts_follow_the_drivers_event_index() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, true);
        driver.set_used_event(3);
        assert_eq!(device.use_chains(&mut driver, 3), 0);
        assert_eq!(
            device.use_chains(&mut driver, 2),
            1,
            "the first of these two is waited for"
        );
        assert_eq!(device.use_chains(&mut driver, 1), 0);
    }

    #[test]
    fn without_event_index_the_drivers_flag_counts() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, false);
        let flags = GuestAddress(driver.addresses()[1]);
        for (flag, interrupts) in [(VRING_AVAIL_F_NO_INTERRUPT as u16, 0), (0, 1)] {
            memory.write_obj(flag, flags).unwrap();
            assert_eq!(device.use_chains(&mut driver, 1), interrupts);
        }
    }

    #[test]
    fn an_undone_pop_gives_the_same_chain_again() {
        let memory = guest_memory(1);
        let mut driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, true);
        driver.add_chain(&[Buffer::readable(0x4000, 1)]);
        let first = device.pop();
        device.queue.undo_pop(1);
        assert_eq!(device.pop(), first);
    }

    #[test]
    fn a_broken_ring_looks_empty_and_asks_for_a_reset() {
        let memory = guest_memory(1);
        let driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, true);
        driver.set_avail_idx(1000);
        assert_eq!(device.pop(), Popped::Nothing);
        assert!(device.interrupt.needs_reset());
        assert!(
            !device.queue.enable_notification(),
            "else the device would poll it for ever"
        );
        driver.set_avail_idx(1);
        assert_eq!(device.pop(), Popped::Nothing);
        assert_eq!((driver.used_idx(), device.line.pulses()), (0, 1));
    }

    #[test]
    fn a_head_beyond_the_queue_is_never_written_back() {
        let memory = guest_memory(1);
        let driver = DriverQueue::new(&memory, 0, 4);
        let mut device = fixture(&driver, &memory, false);
        driver.make_available(4000);
        assert_eq!(device.pop(), Popped::Malformed { head: 4000 });
        device.queue.push_used(4000, 0);
        device.queue.publish_and_signal();
        assert_eq!(driver.used_idx(), 0);
        assert!(device.interrupt.needs_reset());
    }
}
