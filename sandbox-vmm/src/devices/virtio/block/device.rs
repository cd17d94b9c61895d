//! The disk as the transport and the event loop see it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::QUEUE_SIZE;
use super::config::{BlockConfig, BlockError};
use super::counters::BlockCounters;
use super::disk::Disk;
use super::handler::{Handler, Progress};
use super::offer;
use super::persist::BlockState;
use crate::devices::virtio::config_space;
use crate::devices::virtio::split_queue::required_queues;
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, RestoreError, SavedDevice, VirtioDevice,
};
use crate::rate_limit::RateLimiter;

/// A call left work behind.
const WORK_LEFT: u32 = 0;
/// The rate limit lets requests through again.
const RATE_LIMIT: u32 = 1;

/// A virtio-block device.
pub struct BlockDevice {
    disk: Disk,
    /// What the driver is offered: what the disk can do, or could when its driver first met it.
    features: u64,
    counters: Arc<BlockCounters>,
    /// Lives as long as the device: a driver does not fill its buckets by a reset.
    limiter: RateLimiter,
    /// Written when a call left work behind that no event would announce.
    work_left: EventFd,
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
            work_left: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(BlockError::EventFd)?,
            active: None,
        })
    }

    /// The counters, readable while the device runs.
    pub fn counters(&self) -> Arc<BlockCounters> {
        Arc::clone(&self.counters)
    }

    fn serve(&mut self) {
        let Some(handler) = &mut self.active else { return };
        if handler.serve(&self.disk, &mut self.limiter, &self.counters) == Progress::More
            && let Err(error) = self.work_left.write(1)
        {
            // Only a counter at its limit refuses, and that is readable as well.
            tracing::debug!(%error, "eventfd");
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

    fn queue_notify(&mut self, _queue: u16) {
        self.serve();
    }

    fn save(&mut self) -> SavedDevice {
        SavedDevice {
            positions: self.active.iter().map(Handler::position).collect(),
            state: DeviceState::Block(BlockState {
                sectors: self.disk.sectors(),
                features: self.features,
            }),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        if let DeviceState::Block(state) = state {
            state.check(&self.disk)?;
            self.features = offer::kept(state.features);
        }
        Ok(())
    }

    fn host_events(&self) -> Vec<HostEvent> {
        let work_left = HostEvent {
            fd: self.work_left.as_raw_fd(),
            token: WORK_LEFT,
        };
        let timer = self.limiter.timer().map(|fd| HostEvent { fd, token: RATE_LIMIT });
        std::iter::once(work_left).chain(timer).collect()
    }

    fn host_event(&mut self, token: u32) {
        match token {
            // Emptied before the work, so that what is left again is announced again. It may be empty already.
            WORK_LEFT => drop(self.work_left.read()),
            RATE_LIMIT => self.limiter.timer_fired(),
            _ => return,
        }
        self.serve();
    }
}
