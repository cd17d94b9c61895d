//! What the card has carried.

use std::sync::atomic::{AtomicU64, Ordering};

use sandbox_core::stats::NetworkStats;

/// Counters since the device was made, seen from the guest; lengths are without the virtio-net header.
#[derive(Debug, Default)]
pub struct NetCounters {
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    dropped_frames: AtomicU64,
}

impl NetCounters {
    /// A reading. The five are read one after the other, not at one instant.
    pub fn read(&self) -> NetworkStats {
        NetworkStats {
            received_frames: self.received_frames.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_frames: self.sent_frames.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            dropped_frames: self.dropped_frames.load(Ordering::Relaxed),
        }
    }

    pub(super) fn add_received(&self, batch: Batch) {
        self.received_frames.fetch_add(batch.frames, Ordering::Relaxed);
        self.received_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        self.add_dropped(batch.dropped);
    }

    pub(super) fn add_sent(&self, batch: Batch) {
        self.sent_frames.fetch_add(batch.frames, Ordering::Relaxed);
        self.sent_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        self.add_dropped(batch.dropped);
    }

    /// Counts a frame of `bytes` bytes that was received.
    pub(crate) fn received(&self, bytes: u64) {
        self.add_received(Batch {
            frames: 1,
            bytes,
            dropped: 0,
        });
    }

    /// Counts a frame of `bytes` bytes that was sent.
    pub(crate) fn sent(&self, bytes: u64) {
        self.add_sent(Batch {
            frames: 1,
            bytes,
            dropped: 0,
        });
    }

    /// Counts a frame that the host did not take.
    pub(crate) fn lost(&self) {
        self.add_dropped(1);
    }

    fn add_dropped(&self, frames: u64) {
        if frames > 0 {
            self.dropped_frames.fetch_add(frames, Ordering::Relaxed);
        }
    }
}

/// What one call carried in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

impl Batch {
    /// Counts a frame of `length` bytes, header included.
    pub(super) fn add_frame(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length.saturating_sub(super::HEADER_SIZE) as u64;
    }
}
