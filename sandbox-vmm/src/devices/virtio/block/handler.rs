//! The request queue of an active disk.

use super::CALL_MAX_BYTES;
use super::counters::BlockCounters;
use super::disk::Disk;
use super::request::Request;
use crate::devices::virtio::split_queue::SplitQueue;
use crate::devices::virtio::{Progress, QueuePosition};
use crate::memory::{GuestMemory, GuestRam};
use crate::rate_limit::RateLimiter;

/// Serves the requests of one queue, in the driver's order.
pub(super) struct Handler {
    queue: SplitQueue,
    memory: GuestMemory,
    /// The request at hand; kept for its allocations.
    request: Request,
}

impl Handler {
    pub(super) fn new(queue: SplitQueue, memory: GuestMemory, write_through: bool) -> Self {
        Self {
            queue,
            request: Request::new(memory.clone(), write_through),
            memory,
        }
    }

    /// How far it is.
    pub(super) fn position(&self) -> QueuePosition {
        self.queue.position()
    }

    /// Serves what is available and tells the driver once, at the end.
    pub(super) fn serve(&mut self, disk: &Disk, limiter: &mut RateLimiter, counters: &BlockCounters) -> Progress {
        let progress = self.serve_requests(disk, limiter, counters);
        self.queue.publish_and_signal();
        progress
    }

    fn serve_requests(&mut self, disk: &Disk, limiter: &mut RateLimiter, counters: &BlockCounters) -> Progress {
        if limiter.is_waiting() {
            return Progress::Waiting;
        }
        let memory: &GuestRam = &self.memory;
        let size = self.queue.size();
        let mut spent = 0;
        // No more than the queue holds, and one look at it empty: other vCPUs may fill it as fast as it is served.
        for _ in 0..=size {
            let Some(chain) = self.queue.pop_chain(memory) else {
                if self.queue.enable_notification() {
                    continue;
                }
                return Progress::Waiting;
            };
            let head = chain.head_index();
            if !self.request.read_chain(chain, size) {
                counters.add_error();
                self.queue.push_used(head, 0);
                continue;
            }
            if !limiter.admit(self.request.data_bytes()) {
                self.queue.undo_pop(1);
                return Progress::Waiting;
            }
            spent += self.request.cost();
            let written = self.request.serve(disk, counters);
            self.queue.push_used(head, written);
            if spent >= CALL_MAX_BYTES {
                break;
            }
        }
        Progress::More
    }
}
