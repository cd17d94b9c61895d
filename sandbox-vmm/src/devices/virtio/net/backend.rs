//! The host's side of the card.

use std::io;
use std::os::fd::AsFd;

use sandbox_net::{Offloads, Tap};

/// A descriptor that frames are read from and written to, one per `readv` or `writev`, each after a virtio-net header
/// of 12 bytes. It does not block, and gives an edge when a frame arrives.
pub trait FrameBackend: AsFd + Send {
    /// Says what the host may leave undone in the frames that are read.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

impl FrameBackend for Tap {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Tap::set_offloads(self, offloads).map_err(io::Error::other)
    }
}
