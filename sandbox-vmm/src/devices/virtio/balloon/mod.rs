//! virtio-balloon (virtio 1.3 §5.5): the guest gives pages back, and they leave the host's memory.
//!
//! The machine works the balloon through a [`BalloonHandle`]: it sets a target, which the driver approaches as it can,
//! and asks for statistics. What the guest says is never trusted: a page that it gives up is its own loss, an address
//! outside its memory is ignored, and every call does a bounded amount of work.

mod device;
mod discard;
mod handle;
mod persist;
mod queues;
mod statistics;
#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonConfig};
pub use handle::{BalloonError, BalloonHandle};
pub use persist::BalloonState;
pub use statistics::BalloonStatistics;

/// The unit of page numbers, whatever the guest's own page size (§5.5.6), in bytes.
pub const BALLOON_PAGE_SIZE: u64 = 4096;
