//! The card as the transport and the event loop see it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backend::FrameBackend;
use super::config::{NetConfig, bit};
use super::counters::{Batch, NetCounters};
use super::persist::NetState;
use super::receive::{Layout, Receiver};
use super::transmit::Transmitter;
use super::{Progress, QUEUE_SIZE};
use crate::devices::virtio::config_space;
use crate::devices::virtio::split_queue::required_queues;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, RestoreError, SavedDevice, VirtioDevice,
};
use crate::rate_limit::{RateLimitError, RateLimiter};

const RECEIVE_QUEUE: usize = 0;
const TRANSMIT_QUEUE: usize = 1;

/// The tap has a frame.
const TAP_READABLE: u32 = 0;
/// A call left work behind.
const WORK_LEFT: u32 = 1;
/// The guest may receive again.
const RECEIVE_LIMIT: u32 = 2;
/// The guest may send again.
const TRANSMIT_LIMIT: u32 = 3;

/// Why a card cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
    /// The host has no descriptor left.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// A limit cannot be kept.
    #[error("rate limit of what the guest receives")]
    ReceiveLimit(#[source] RateLimitError),
    /// A limit cannot be kept.
    #[error("rate limit of what the guest sends")]
    TransmitLimit(#[source] RateLimitError),
}

/// A virtio-net device.
pub struct Net {
    config: NetConfig,
    backend: Box<dyn FrameBackend>,
    counters: Arc<NetCounters>,
    receive_limiter: RateLimiter,
    transmit_limiter: RateLimiter,
    /// Written when a call left work behind that no event would announce.
    work_left: EventFd,
    active: Option<Active>,
}

/// What a card has between `DRIVER_OK` and reset.
struct Active {
    receiver: Receiver,
    transmitter: Transmitter,
}

impl Net {
    /// A card before `backend`.
    pub fn new(config: NetConfig, backend: Box<dyn FrameBackend>) -> Result<Self, NetDeviceError> {
        Ok(Self {
            config,
            backend,
            counters: Arc::default(),
            receive_limiter: RateLimiter::new(config.rx_limit).map_err(NetDeviceError::ReceiveLimit)?,
            transmit_limiter: RateLimiter::new(config.tx_limit).map_err(NetDeviceError::TransmitLimit)?,
            work_left: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(NetDeviceError::EventFd)?,
            active: None,
        })
    }

    /// The counters, readable while the device runs.
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    fn receive(&mut self) {
        let Some(active) = &mut self.active else { return };
        let mut batch = Batch::default();
        let tap = self.backend.as_fd();
        let progress = active.receiver.receive(tap, &mut self.receive_limiter, &mut batch);
        self.counters.add_received(batch);
        self.come_back_if(progress);
    }

    fn transmit(&mut self) {
        let Some(active) = &mut self.active else { return };
        let mut batch = Batch::default();
        let tap = self.backend.as_fd();
        let progress = active.transmitter.transmit(tap, &mut self.transmit_limiter, &mut batch);
        self.counters.add_sent(batch);
        self.come_back_if(progress);
    }

    /// Has the event loop call again for what is left.
    fn come_back_if(&self, progress: Progress) {
        if progress == Progress::More
            && let Err(error) = self.work_left.write(1)
        {
            // Only a counter at its limit refuses, and that is readable as well.
            tracing::debug!(%error, "eventfd");
        }
    }

    /// Goes on with what was left in either direction.
    fn continue_work(&mut self) {
        // Emptied first, so that what is left again is announced again. It may be empty already: the event loop sees an
        // edge later than it comes.
        let _ = self.work_left.read();
        self.receive();
        self.transmit();
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.config.config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            features,
        } = activation;
        let [receive_queue, transmit_queue] = required_queues(queues, &memory, &interrupt)?;
        let offloads = NetConfig::driver_offloads(features);
        self.backend.set_offloads(offloads).map_err(ActivateError::Host)?;
        let layout = Layout {
            mergeable: features & bit(VIRTIO_NET_F_MRG_RXBUF) != 0,
            longest_frame: self.config.longest_received_frame(offloads),
        };
        self.active = Some(Active {
            receiver: Receiver::new(receive_queue, memory.clone(), layout),
            transmitter: Transmitter::new(transmit_queue, memory),
        });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_notify(&mut self, queue: u16) {
        match usize::from(queue) {
            RECEIVE_QUEUE => self.receive(),
            TRANSMIT_QUEUE => self.transmit(),
            _ => {}
        }
    }

    fn save(&mut self) -> SavedDevice {
        let mut batch = Batch::default();
        let positions = self.active.as_mut().map(|active| {
            let receive = active.receiver.put_back(&mut batch);
            vec![receive, active.transmitter.position()]
        });
        self.counters.add_received(batch);
        SavedDevice {
            positions: positions.unwrap_or_default(),
            state: DeviceState::Net(NetState { mac: self.config.mac }),
        }
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
        // The card's address is the host's to give, as for a first start.
        Ok(())
    }

    fn host_events(&self) -> Vec<HostEvent> {
        let mut events = vec![
            HostEvent {
                fd: self.backend.as_fd().as_raw_fd(),
                token: TAP_READABLE,
            },
            HostEvent {
                fd: self.work_left.as_raw_fd(),
                token: WORK_LEFT,
            },
        ];
        let timers = [
            (&self.receive_limiter, RECEIVE_LIMIT),
            (&self.transmit_limiter, TRANSMIT_LIMIT),
        ];
        for (limiter, token) in timers {
            events.extend(limiter.timer().map(|fd| HostEvent { fd, token }));
        }
        events
    }

    fn host_event(&mut self, token: u32) {
        match token {
            TAP_READABLE => {
                if let Some(active) = &mut self.active {
                    active.receiver.tap_readable();
                }
                self.receive();
            }
            WORK_LEFT => self.continue_work(),
            RECEIVE_LIMIT => {
                self.receive_limiter.timer_fired();
                self.receive();
            }
            TRANSMIT_LIMIT => {
                self.transmit_limiter.timer_fired();
                self.transmit();
            }
            _ => {}
        }
    }
}
