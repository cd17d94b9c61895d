//! From the host to the driver.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

use super::counters::Batch;
use super::{FRAMES_PER_CALL, HEADER_SIZE, NUM_BUFFERS_OFFSET, QUEUE_SIZE};
use crate::devices::virtio::segments::{Direction, Segments};
use crate::devices::virtio::split_queue::{Popped, SplitQueue};
use crate::devices::virtio::{Progress, QueuePosition};
use crate::memory::GuestMemory;
use crate::rate_limit::RateLimiter;

/// Pieces in the list of buffers beyond which no chain is added: with a chain as long as the queue, the list still has
/// no more than the 1,024 that the kernel takes.
const FULL_LIST: usize = 1024 - QUEUE_SIZE as usize;

/// How the driver wants frames laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// A frame may fill several chains (`VIRTIO_NET_F_MRG_RXBUF`).
    pub(super) mergeable: bool,
    /// The longest frame that may come, header included, in bytes.
    pub(super) longest_frame: usize,
}

/// A chain in the list of buffers.
struct Chain {
    head: u16,
    /// Its entry in the available ring.
    position: u16,
    pieces: usize,
    bytes: usize,
}

/// The receive queue of an active card.
///
/// Chains are taken from the driver ahead of the frames, as many as the longest frame may need, and those that a frame
/// leaves over serve the next one: each descriptor is read once.
pub(super) struct Receiver {
    queue: SplitQueue,
    layout: Layout,
    buffers: Segments,
    chains: VecDeque<Chain>,
    /// A frame may be waiting: none was looked for since the tap's last edge, or the last look found one.
    readable: bool,
    /// Length of a frame that lies in the buffers but was refused by the rate limit.
    held: Option<usize>,
    /// The driver was asked to kick when it brings buffers.
    starved: bool,
}

impl Receiver {
    pub(super) fn new(queue: SplitQueue, memory: GuestMemory, layout: Layout) -> Self {
        Self {
            queue,
            layout,
            buffers: Segments::new(memory),
            chains: VecDeque::new(),
            readable: true,
            held: None,
            starved: true,
        }
    }

    /// The tap gave an edge.
    pub(super) fn tap_readable(&mut self) {
        self.readable = true;
    }

    /// Gives the driver what the host has for it. `batch` counts it.
    pub(super) fn receive(&mut self, tap: BorrowedFd<'_>, limiter: &mut RateLimiter, batch: &mut Batch) -> Progress {
        let progress = self.receive_frames(tap, limiter, batch);
        self.queue.publish_and_signal();
        progress
    }

    /// Puts the buffers back that were taken ahead, and returns where the queue stands then. A frame that lies in them
    /// already is given to the driver, ahead of its time: the tap has forgotten it. `batch` counts it.
    ///
    /// What was refused between two buffers that are put back will be refused again; only a driver that offers buffers
    /// without room for a header sees that.
    pub(super) fn put_back(&mut self, batch: &mut Batch) -> QueuePosition {
        if let Some(length) = self.held.take() {
            self.complete(length);
            batch.add_frame(length);
        }
        if let Some(first) = self.chains.front() {
            self.queue.rewind(first.position);
            self.chains.clear();
            self.buffers.clear();
        }
        self.queue.publish_and_signal();
        self.queue.position()
    }

    fn receive_frames(&mut self, tap: BorrowedFd<'_>, limiter: &mut RateLimiter, batch: &mut Batch) -> Progress {
        for _ in 0..FRAMES_PER_CALL {
            if limiter.is_waiting() {
                return Progress::Waiting;
            }
            let Some(length) = self.held.take().or_else(|| self.read_frame(tap, batch)) else {
                return Progress::Waiting;
            };
            if !limiter.admit(length.saturating_sub(HEADER_SIZE) as u64) {
                self.held = Some(length);
                return Progress::Waiting;
            }
            self.complete(length);
            batch.add_frame(length);
        }
        Progress::More
    }

    /// Reads the next frame into the buffers. `None` if there is none, or no room for it.
    fn read_frame(&mut self, tap: BorrowedFd<'_>, batch: &mut Batch) -> Option<usize> {
        while self.readable && self.collect_buffers(batch) {
            match self.buffers.read_from(tap) {
                Ok(length) if length >= HEADER_SIZE => return Some(length),
                // No tap gives less than a header; whatever this was, the buffers are still free.
                Ok(_) => batch.dropped += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::debug!(%error, "no frame can be read until the tap gives another edge");
                    }
                    self.readable = false;
                }
            }
        }
        None
    }

    /// Takes buffers for one more frame from the driver. False if it has too few; it then kicks when it brings more.
    fn collect_buffers(&mut self, batch: &mut Batch) -> bool {
        while !self.has_room() {
            let old_count = self.buffers.count();
            let position = self.queue.position().next_available;
            match self.queue.pop(&mut self.buffers, Direction::ToDriver) {
                Popped::Nothing if self.queue.enable_notification() => {}
                Popped::Nothing => {
                    self.starved = true;
                    return false;
                }
                Popped::Malformed { head } => self.refuse(head, batch),
                Popped::Chain { head, bytes } => {
                    let pieces = self.buffers.count() - old_count;
                    if bytes < HEADER_SIZE {
                        self.buffers.remove_back(pieces);
                        self.refuse(head, batch);
                    } else {
                        self.chains.push_back(Chain {
                            head,
                            position,
                            pieces,
                            bytes,
                        });
                    }
                }
            }
        }
        if self.starved {
            self.starved = false;
            self.queue.disable_notification();
        }
        true
    }

    /// Gives a chain back that cannot hold even the header of a frame.
    fn refuse(&mut self, head: u16, batch: &mut Batch) {
        batch.dropped += 1;
        self.queue.push_used(head, 0);
    }

    /// Whether the longest frame fits, or the driver cannot offer more than it has.
    fn has_room(&self) -> bool {
        if !self.layout.mergeable {
            return !self.chains.is_empty();
        }
        self.buffers.bytes() >= self.layout.longest_frame
            || self.buffers.count() > FULL_LIST
            || self.chains.len() >= usize::from(self.queue.size())
    }

    /// Gives the driver the frame of `length` bytes that lies in the buffers, and takes the next ones into use.
    fn complete(&mut self, length: usize) {
        let (mut left, mut pieces, mut chains) = (length, 0, 0u16);
        while left > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let written = left.min(chain.bytes);
            left -= written;
            pieces += chain.pieces;
            chains += 1;
            // Fits: a chain is shorter than 4 GiB.
            self.queue.push_used(chain.head, written as u32);
        }
        // The first buffer holds at least the header, so there is always room. The driver sees the chains afterwards.
        self.buffers.write_at(NUM_BUFFERS_OFFSET, &chains.to_le_bytes());
        self.buffers.remove_front(pieces);
        self.queue.publish();
    }
}
