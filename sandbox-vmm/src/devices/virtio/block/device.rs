//! The disk as the transport and the event loop see it.

use std::sync::Arc;

use super::QUEUE_SIZE;
use super::config::{BlockConfig, BlockError};
use super::counters::BlockCounters;
use super::disk::Disk;
use super::handler::Handler;
use super::offer;
use super::persist::{BlockState, Written};
use crate::devices::virtio::config_space;
use crate::devices::virtio::split_queue::required_queues;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, Progress, RestoreError, SavedDevice, VirtioDevice,
};
use crate::rate_limit::RateLimiter;

/// The rate limit lets requests through again.
pub(super) const RATE_LIMIT: u32 = 0;

/// A virtio-block device.
pub struct BlockDevice {
    disk: Disk,
    /// What the driver is offered: what the disk can do, or could when its driver first met it.
    features: u64,
    counters: Arc<BlockCounters>,
    /// Lives as long as the device: a driver does not fill its buckets by a reset.
    limiter: RateLimiter,
    active: Option<Handler>,
}

impl BlockDevice {
    /// A disk over the file of `config`.
    pub fn new(config: BlockConfig) -> Result<Self, BlockError> {
        let limiter = RateLimiter::new(config.rate_limit).map_err(BlockError::RateLimit)?;
        let disk = Disk::new(config)?;
        Ok(Self {
            limiter,
            features: offer::features(&disk),
            disk,
            counters: Arc::default(),
            active: None,
        })
    }

    /// The counters, readable while the device runs.
    pub fn counters(&self) -> Arc<BlockCounters> {
        Arc::clone(&self.counters)
    }

    fn serve(&mut self) -> Progress {
        match &mut self.active {
            Some(handler) => handler.serve(&self.disk, &mut self.limiter, &self.counters),
            None => Progress::Waiting,
        }
    }
}

impl VirtioDevice for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&offer::config_space(&self.disk, self.features), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            features,
        } = activation;
        let [queue] = required_queues(queues, &memory, &interrupt)?;
        self.active = Some(Handler::new(queue, memory, offer::is_write_through(features)));
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_notify(&mut self, _queue: u16) -> Progress {
        self.serve()
    }

    fn save(&mut self) -> SavedDevice {
        SavedDevice {
            positions: self.active.iter().map(Handler::position).collect(),
            state: DeviceState::Block(BlockState {
                sectors: self.disk.sectors(),
                features: self.features,
                written: Written::of(&self.disk),
            }),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        if let DeviceState::Block(state) = state {
            state.check(&self.disk)?;
            if let Some(layer) = state.written.copy()? {
                self.disk.go_on_with(layer);
            }
            self.features = offer::kept(state.features);
        }
        Ok(())
    }

    fn host_events(&self) -> Vec<HostEvent> {
        self.limiter.host_event(RATE_LIMIT).into_iter().collect()
    }

    fn host_event(&mut self, _token: u32) -> Progress {
        self.limiter.timer_fired();
        self.serve()
    }
}
