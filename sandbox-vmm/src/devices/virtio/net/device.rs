//! The card as the transport and the event loop see it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::QUEUE_SIZE;
use super::backend::FrameBackend;
use super::config::{NetConfig, bit};
use super::counters::{Batch, NetCounters};
use super::persist::NetState;
use super::receive::{Layout, Receiver};
use super::transmit::Transmitter;
use crate::devices::virtio::config_space;
use crate::devices::virtio::split_queue::required_queues;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, Progress, RestoreError, SavedDevice, VirtioDevice,
};
use crate::rate_limit::{RateLimitError, RateLimiter};

const RECEIVE_QUEUE: usize = 0;
const TRANSMIT_QUEUE: usize = 1;

/// The tap has a frame.
const TAP_READABLE: u32 = 0;
/// The guest may receive again.
const RECEIVE_LIMIT: u32 = 1;
/// The guest may send again.
const TRANSMIT_LIMIT: u32 = 2;

/// Why a card cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
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
            active: None,
        })
    }

    /// The counters, readable while the device runs.
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    fn receive(&mut self) -> Progress {
        let Some(active) = &mut self.active else {
            return Progress::Waiting;
        };
        let mut batch = Batch::default();
        let tap = self.backend.as_fd();
        let progress = active.receiver.receive(tap, &mut self.receive_limiter, &mut batch);
        self.counters.add_received(batch);
        progress
    }

    fn transmit(&mut self) -> Progress {
        let Some(active) = &mut self.active else {
            return Progress::Waiting;
        };
        let mut batch = Batch::default();
        let tap = self.backend.as_fd();
        let progress = active.transmitter.transmit(tap, &mut self.transmit_limiter, &mut batch);
        self.counters.add_sent(batch);
        progress
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

    fn queue_notify(&mut self, queue: u16) -> Progress {
        match usize::from(queue) {
            RECEIVE_QUEUE => self.receive(),
            TRANSMIT_QUEUE => self.transmit(),
            _ => Progress::Waiting,
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
        let tap = HostEvent {
            fd: self.backend.as_fd().as_raw_fd(),
            token: TAP_READABLE,
        };
        let timers = [
            self.receive_limiter.host_event(RECEIVE_LIMIT),
            self.transmit_limiter.host_event(TRANSMIT_LIMIT),
        ];
        std::iter::once(tap).chain(timers.into_iter().flatten()).collect()
    }

    fn host_event(&mut self, token: u32) -> Progress {
        match token {
            TAP_READABLE => {
                if let Some(active) = &mut self.active {
                    active.receiver.tap_readable();
                }
                self.receive()
            }
            RECEIVE_LIMIT => {
                self.receive_limiter.timer_fired();
                self.receive()
            }
            TRANSMIT_LIMIT => {
                self.transmit_limiter.timer_fired();
                self.transmit()
            }
            _ => Progress::Waiting,
        }
    }
}
