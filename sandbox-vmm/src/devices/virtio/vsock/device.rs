//! The device as the transport and the event loop see it.

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::VsockConfig;
use super::config::{ANY_CID, FIRST_GUEST_CID, VsockError};
use super::muxer::Muxer;
use super::packet::HEADER_SIZE;
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue, required_queues};
use crate::devices::virtio::{ActivateError, Activation, DeviceKind, HostEvent, VirtioDevice, config_space};

/// `VIRTIO_VSOCK_F_STREAM` (§5.10.3).
const FEATURE_STREAM: u64 = 1 << 0;
const QUEUE_SIZE: u16 = 256;
/// rx, tx, and events, of which there are none to tell (§5.10.2).
const QUEUE_COUNT: usize = 3;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
/// Packets worked off in one call and direction, so that neither a guest that sends without end nor a host program
/// that does keeps the device's lock for ever.
const PACKETS_PER_CALL: usize = 256;

/// A virtio-vsock device.
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    active: Option<Active>,
}

/// What the device has between `DRIVER_OK` and reset.
struct Active {
    receive: SplitQueue,
    transmit: SplitQueue,
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
        })
    }

    /// Takes what the guest sent.
    fn receive_from_guest(&mut self) {
        let Some(active) = &mut self.active else { return };
        if active.receive_packets(&mut self.muxer) {
            self.muxer.watcher().come_back();
        }
        active.transmit.publish_and_signal();
    }

    /// Gives the guest what there is for it.
    fn send_to_guest(&mut self) {
        let Some(active) = &mut self.active else { return };
        if active.send_packets(&mut self.muxer) {
            self.muxer.watcher().come_back();
        }
        active.receive.publish_and_signal();
    }
}

impl Active {
    /// True if packets may be left.
    fn receive_packets(&mut self, muxer: &mut Muxer) -> bool {
        for _ in 0..PACKETS_PER_CALL {
            self.chain.clear();
            match self.transmit.pop(&mut self.chain, Direction::FromDriver) {
                Popped::Nothing if self.transmit.enable_notification() => {}
                Popped::Nothing => return false,
                Popped::Malformed { head } => self.transmit.push_used(head, 0),
                Popped::Chain { head, .. } => {
                    muxer.receive(&mut self.chain);
                    self.transmit.push_used(head, 0);
                }
            }
        }
        true
    }

    /// True if packets may be left for which there are buffers.
    fn send_packets(&mut self, muxer: &mut Muxer) -> bool {
        for _ in 0..PACKETS_PER_CALL {
            if !muxer.has_packets() {
                return false;
            }
            self.chain.clear();
            match self.receive.pop(&mut self.chain, Direction::ToDriver) {
                Popped::Nothing if self.receive.enable_notification() => {}
                Popped::Nothing => return false,
                // A buffer must have room for some data, too: whatever comes next can then go into it.
                Popped::Chain { head, bytes } if bytes > HEADER_SIZE => self.send_packet(muxer, head),
                Popped::Chain { head, .. } | Popped::Malformed { head } => self.receive.push_used(head, 0),
            }
        }
        true
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
            queues,
            interrupt,
            ..
        } = activation;
        let [receive, transmit] = required_queues(queues, &memory, &interrupt)?;
        self.active = Some(Active {
            receive,
            transmit,
            chain: Segments::new(memory.clone()),
            header: Segments::new(memory),
        });
        self.muxer.start();
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.muxer.reset();
    }

    fn queue_notify(&mut self, queue: u16) {
        match queue {
            RECEIVE_QUEUE => self.send_to_guest(),
            TRANSMIT_QUEUE => {
                self.receive_from_guest();
                self.send_to_guest();
            }
            _ => {}
        }
    }

    fn host_events(&self) -> Vec<HostEvent> {
        vec![HostEvent {
            fd: self.muxer.watcher().event_fd(),
            token: 0,
        }]
    }

    fn host_event(&mut self, _token: u32) {
        self.muxer.handle_events();
        self.receive_from_guest();
        self.send_to_guest();
    }
}
