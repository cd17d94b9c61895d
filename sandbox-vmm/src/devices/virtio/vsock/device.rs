//! The device as the transport and the event loop see it.

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};

use super::VsockConfig;
use super::config::{ANY_CID, FIRST_GUEST_CID, VsockError};
use super::muxer::Muxer;
use super::packet::HEADER_SIZE;
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue, required_queues};
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, Progress, QueuePosition, RestoreError, SavedDevice,
    VirtioDevice, config_space,
};
use crate::renewal::Parts;
use crate::renewal::record::RECORD_SIZE;

/// `VIRTIO_VSOCK_F_STREAM` (§5.10.3).
const FEATURE_STREAM: u64 = 1 << 0;
const QUEUE_SIZE: u16 = 256;
/// rx, tx, and events, of which there is one to tell (§5.10.2).
const QUEUE_COUNT: usize = 3;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
const EVENT_QUEUE: usize = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (§5.10.6.7): all connections are gone, and the context identifier may be another.
const TRANSPORT_RESET: u32 = 0;
/// Packets worked off in one call and direction, so that neither a guest that sends without end nor a host program
/// that does keeps the device's lock for ever.
const PACKETS_PER_CALL: usize = 256;

/// A virtio-vsock device.
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    active: Option<Active>,
    /// The guest does not know yet that its connections are gone.
    transport_reset: bool,
}

/// What the device has between `DRIVER_OK` and reset.
struct Active {
    receive: SplitQueue,
    transmit: SplitQueue,
    /// A driver can do without it.
    events: Option<SplitQueue>,
    /// The chain at hand, and the pieces of a packet's header; kept for their allocations.
    chain: Segments,
    header: Segments,
}

impl Vsock {
    /// A device before the host's sockets.
    ///
    /// # Errors
    /// A context identifier that cannot be, or a host without descriptors.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        let cid = config.guest_cid;
        if !(FIRST_GUEST_CID..ANY_CID).contains(&cid) {
            return Err(VsockError::ReservedCid { cid });
        }
        Ok(Self {
            guest_cid: u64::from(cid),
            muxer: Muxer::new(config)?,
            active: None,
            transport_reset: false,
        })
    }

    /// Takes what the guest sent.
    fn receive_from_guest(&mut self) -> Progress {
        let Some(active) = &mut self.active else {
            return Progress::Waiting;
        };
        let progress = active.receive_packets(&mut self.muxer);
        active.transmit.publish_and_signal();
        progress
    }

    /// Gives the guest what there is for it.
    fn send_to_guest(&mut self) -> Progress {
        let Some(active) = &mut self.active else {
            return Progress::Waiting;
        };
        let progress = active.send_packets(&mut self.muxer);
        active.receive.publish_and_signal();
        progress
    }
}

impl Active {
    fn receive_packets(&mut self, muxer: &mut Muxer) -> Progress {
        for _ in 0..PACKETS_PER_CALL {
            self.chain.clear();
            match self.transmit.pop(&mut self.chain, Direction::FromDriver) {
                Popped::Nothing if self.transmit.enable_notification() => {}
                Popped::Nothing => return Progress::Waiting,
                Popped::Malformed { head } => self.transmit.push_used(head, 0),
                Popped::Chain { head, .. } => {
                    muxer.receive(&mut self.chain);
                    self.transmit.push_used(head, 0);
                }
            }
        }
        Progress::More
    }

    /// Gives the guest packets as long as there are buffers for them.
    fn send_packets(&mut self, muxer: &mut Muxer) -> Progress {
        for _ in 0..PACKETS_PER_CALL {
            if !muxer.has_packets() {
                return Progress::Waiting;
            }
            self.chain.clear();
            match self.receive.pop(&mut self.chain, Direction::ToDriver) {
                Popped::Nothing if self.receive.enable_notification() => {}
                Popped::Nothing => return Progress::Waiting,
                // A buffer must have room for some data, too: whatever comes next can then go into it.
                Popped::Chain { head, bytes } if bytes > HEADER_SIZE => self.send_packet(muxer, head),
                Popped::Chain { head, .. } | Popped::Malformed { head } => self.receive.push_used(head, 0),
            }
        }
        Progress::More
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let events = self.events.as_ref().map(SplitQueue::position);
        vec![
            self.receive.position(),
            self.transmit.position(),
            events.unwrap_or_default(),
        ]
    }

    /// Tells the driver that all connections are gone, if it has given a buffer for that.
    fn tell_transport_reset(&mut self) {
        let Some(events) = &mut self.events else { return };
        let event = TRANSPORT_RESET.to_le_bytes();
        self.chain.clear();
        match events.pop(&mut self.chain, Direction::ToDriver) {
            Popped::Nothing => return,
            Popped::Chain { head, .. } if self.chain.write_at(0, &event) => events.push_used(head, event.len() as u32),
            Popped::Chain { head, .. } | Popped::Malformed { head } => events.push_used(head, 0),
        }
        events.publish_and_signal();
    }

    /// Fills the chain at hand, or puts it back.
    fn send_packet(&mut self, muxer: &mut Muxer, head: u16) {
        self.header.clear();
        self.chain.move_front_to(&mut self.header, HEADER_SIZE);
        match muxer.next_packet(&mut self.chain) {
            Some((header, length)) => {
                self.header.write_at(0, &header);
                self.receive.push_used(head, HEADER_SIZE as u32 + length);
            }
            None => self.receive.undo_pop(1),
        }
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUE_COUNT]
    }

    fn features(&self) -> u64 {
        FEATURE_STREAM | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            mut queues,
            interrupt,
            ..
        } = activation;
        let events = queues
            .drain(EVENT_QUEUE.min(queues.len())..)
            .next()
            .filter(Queue::ready);
        let events = events.map(|queue| SplitQueue::new(queue, memory.clone(), interrupt.clone()));
        let [receive, transmit] = required_queues(queues, &memory, &interrupt)?;
        self.active = Some(Active {
            receive,
            transmit,
            events,
            chain: Segments::new(memory.clone()),
            header: Segments::new(memory),
        });
        Ok(())
    }

    fn wake(&mut self) {
        if let Some(active) = self.active.as_mut().filter(|_| self.transport_reset) {
            active.tell_transport_reset();
            self.transport_reset = false;
        }
        self.muxer.start();
        let mut calls = 0..QUEUE_SIZE;
        while calls.next().is_some() && self.queue_notify(TRANSMIT_QUEUE) == Progress::More {}
    }

    fn reset(&mut self) {
        self.active = None;
        self.transport_reset = false;
        self.muxer.reset();
    }

    fn queue_notify(&mut self, queue: u16) -> Progress {
        match queue {
            RECEIVE_QUEUE => self.send_to_guest(),
            TRANSMIT_QUEUE => {
                let received = self.receive_from_guest();
                received.and(self.send_to_guest())
            }
            _ => Progress::Waiting,
        }
    }

    fn tell_identity(&mut self, record: &[u8; RECORD_SIZE]) -> Option<Parts> {
        self.muxer.tell_identity(record)
    }

    fn save(&mut self) -> SavedDevice {
        SavedDevice {
            positions: self.active.as_ref().map(Active::positions).unwrap_or_default(),
            state: DeviceState::Vsock(self.muxer.state()),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        if let DeviceState::Vsock(state) = state {
            self.muxer.restore(state).map_err(RestoreError::Impossible)?;
            self.transport_reset = true;
        }
        Ok(())
    }

    fn host_events(&self) -> Vec<HostEvent> {
        vec![HostEvent {
            fd: self.muxer.watcher().event_fd(),
            token: 0,
        }]
    }

    fn host_event(&mut self, _token: u32) -> Progress {
        let handled = self.muxer.handle_events();
        let received = self.receive_from_guest();
        handled.and(received).and(self.send_to_guest())
    }
}
