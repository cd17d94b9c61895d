//! The entropy device.

use std::io;

use sandbox_core::limits::RateLimit;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{QUEUE_SIZE, REQUEST_MAX_BYTES, REQUESTS_PER_CALL};
use crate::devices::virtio::config_space;
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue, required_queues};
use crate::devices::virtio::{
    ActivateError, Activation, DeviceKind, DeviceState, HostEvent, Progress, RestoreError, SavedDevice, VirtioDevice,
};
use crate::rate_limit::{RateLimitError, RateLimiter};

/// The rate limit lets requests through again.
const RATE_LIMIT: u32 = 0;

/// Random bytes fetched by one system call.
const CHUNK_BYTES: usize = 4096;

/// An entropy device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RngConfig {
    /// Limits of what the guest is given.
    pub rate_limit: RateLimit,
}

/// Why an entropy device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RngError {
    /// A limit cannot be kept.
    #[error("rate limit of the entropy device")]
    RateLimit(#[source] RateLimitError),
}

/// A virtio-rng device.
pub struct RngDevice {
    limiter: RateLimiter,
    active: Option<Active>,
}

/// What the device has between `DRIVER_OK` and reset.
struct Active {
    queue: SplitQueue,
    /// The buffers at hand; kept for their allocation.
    buffers: Segments,
}

impl RngDevice {
    /// An entropy device fed by `getrandom`.
    pub fn new(config: RngConfig) -> Result<Self, RngError> {
        Ok(Self {
            limiter: RateLimiter::new(config.rate_limit).map_err(RngError::RateLimit)?,
            active: None,
        })
    }

    fn serve(&mut self) -> Progress {
        let Some(active) = &mut self.active else {
            return Progress::Waiting;
        };
        let progress = active.serve_requests(&mut self.limiter);
        active.queue.publish_and_signal();
        progress
    }
}

impl Active {
    fn serve_requests(&mut self, limiter: &mut RateLimiter) -> Progress {
        if limiter.is_waiting() {
            return Progress::Waiting;
        }
        // One more than is served, for a look at the empty queue: other vCPUs may fill it as fast as it is emptied.
        for _ in 0..=REQUESTS_PER_CALL {
            self.buffers.clear();
            match self.queue.pop(&mut self.buffers, Direction::ToDriver) {
                Popped::Nothing if self.queue.enable_notification() => {}
                Popped::Nothing => return Progress::Waiting,
                Popped::Malformed { head } => self.queue.push_used(head, 0),
                Popped::Chain { head, bytes } => {
                    let wanted = bytes.min(REQUEST_MAX_BYTES);
                    if !limiter.admit(wanted as u64) {
                        self.queue.undo_pop(1);
                        return Progress::Waiting;
                    }
                    let written = fill(&self.buffers, wanted);
                    self.queue.push_used(head, written as u32);
                }
            }
        }
        Progress::More
    }
}

/// Writes `wanted` random bytes to the front of `buffers`. Returns how many it were: fewer only if the host has none to
/// give.
fn fill(buffers: &Segments, wanted: usize) -> usize {
    let mut chunk = [0; CHUNK_BYTES];
    let mut done = 0;
    while done < wanted {
        let part = &mut chunk[..(wanted - done).min(CHUNK_BYTES)];
        match random_bytes(part) {
            Ok(len) if len > 0 && buffers.write_at(done, &part[..len]) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => {
                tracing::warn!(?outcome, "no random numbers for the guest");
                break;
            }
        }
    }
    done
}

/// Fills `bytes` from the kernel's generator, from the front; a signal can cut it short.
fn random_bytes(bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes to a slice of that length.
    let result = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl VirtioDevice for RngDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // There is no configuration space (§5.4.4).
        config_space::read(&[], offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        let [queue] = required_queues(queues, &memory, &interrupt)?;
        self.active = Some(Active {
            queue,
            buffers: Segments::new(memory),
        });
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
            positions: self.active.iter().map(|active| active.queue.position()).collect(),
            state: DeviceState::Rng,
        }
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
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
