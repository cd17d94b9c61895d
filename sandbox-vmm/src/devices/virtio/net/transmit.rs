//! From the driver to the host.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

use super::counters::Batch;
use super::{FRAMES_PER_CALL, HEADER_SIZE, MAX_FRAME_SIZE};
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue};
use crate::devices::virtio::{Progress, QueuePosition};
use crate::memory::GuestMemory;
use crate::rate_limit::RateLimiter;

/// The transmit queue of an active card.
pub(super) struct Transmitter {
    queue: SplitQueue,
    /// The frame at hand; kept for its allocation.
    frame: Segments,
}

impl Transmitter {
    pub(super) fn new(queue: SplitQueue, memory: GuestMemory) -> Self {
        let frame = Segments::new(memory);
        Self { queue, frame }
    }

    /// How far it is.
    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }

    /// Hands the host what the driver has made available. `batch` counts it.
    pub(super) fn transmit(&mut self, tap: BorrowedFd<'_>, limiter: &mut RateLimiter, batch: &mut Batch) -> Progress {
        let progress = self.transmit_frames(tap, limiter, batch);
        self.queue.publish_and_signal();
        progress
    }

    fn transmit_frames(&mut self, tap: BorrowedFd<'_>, limiter: &mut RateLimiter, batch: &mut Batch) -> Progress {
        if limiter.is_waiting() {
            return Progress::Waiting;
        }
        for _ in 0..FRAMES_PER_CALL {
            self.frame.clear();
            match self.queue.pop(&mut self.frame, Direction::FromDriver) {
                Popped::Nothing if self.queue.enable_notification() => continue,
                Popped::Nothing => return Progress::Waiting,
                Popped::Malformed { head } => {
                    batch.dropped += 1;
                    self.queue.push_used(head, 0);
                }
                Popped::Chain { head, bytes } => {
                    if !limiter.admit(bytes.saturating_sub(HEADER_SIZE) as u64) {
                        self.queue.undo_pop(1);
                        return Progress::Waiting;
                    }
                    self.send(bytes, tap, batch);
                    self.queue.push_used(head, 0);
                }
            }
        }
        Progress::More
    }

    /// Sends the frame at hand, or drops it: a driver is never told that the host did not take one (§5.1.6.2).
    fn send(&self, bytes: usize, tap: BorrowedFd<'_>, batch: &mut Batch) {
        if !(HEADER_SIZE..=MAX_FRAME_SIZE).contains(&bytes) {
            batch.dropped += 1;
            return;
        }
        loop {
            match self.frame.write_to(tap) {
                Ok(_) => return batch.add_frame(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // A header that the kernel refuses (the guest's fault), an interface that is down or gone, or a host
                // without room.
                Err(error) => {
                    tracing::trace!(%error, "frame from the guest dropped");
                    batch.dropped += 1;
                    return;
                }
            }
        }
    }
}
