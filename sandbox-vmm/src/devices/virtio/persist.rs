//! What of a virtio device goes into a snapshot, and how a device made anew takes its place.
//!
//! The host's side of a device (file, tap, sockets, limits) is never saved: it is opened anew and the device made from
//! it, as for a first start. What is saved is what the driver knows: the registers, the positions in the queues, and
//! the little that a device has told or promised beyond them ([`DeviceState`]). All of it may come from a damaged or a
//! hand-made file and is checked as what a driver writes is checked, by the same code.
//!
//! **Nothing is in flight in a snapshot.** A request is carried out wholly in the call that takes it from its queue, so
//! that when a device is at rest each is either done and told, or still available. What a device has taken ahead it
//! puts back when it is saved. After a restore every queue is worked off and every driver interrupted, whether that
//! seems needed or not ([`VirtioDevice::wake`]): an unneeded look at a queue costs little, a missed one hangs the guest.
//!
//! **Rate limits** are a property of the host's side: their buckets are full in a restored device.

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::VirtioDevice;
use super::balloon::BalloonState;
use super::block::BlockState;
use super::net::NetState;
use super::vsock::VsockState;
use super::{ActivateError, DeviceKind};

/// How far a device is in one queue; both count modulo 2^16, as the rings' indices do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// The next entry of the used ring to be written.
    pub next_used: u16,
}

/// What a device knows beyond registers and queue positions, by its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Network card.
    Net(NetState),
    /// Disk.
    Block(BlockState),
    /// Entropy device, which remembers nothing.
    Rng,
    /// Balloon.
    Balloon(BalloonState),
    /// Socket device.
    Vsock(VsockState),
}

impl DeviceState {
    /// The kind of device that this is the state of.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Net(_) => DeviceKind::Net,
            Self::Block(_) => DeviceKind::Block,
            Self::Rng => DeviceKind::Rng,
            Self::Balloon(_) => DeviceKind::Balloon,
            Self::Vsock(_) => DeviceKind::Vsock,
        }
    }
}

/// A device at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDevice {
    /// One per queue, those that the driver left out at 0; empty if the device is not active.
    pub positions: Vec<QueuePosition>,
    /// What it knows beyond them.
    pub state: DeviceState,
}

/// Why saved devices cannot be brought back here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The device could not take its queues.
    #[error("the device cannot go on")]
    Activate(#[source] ActivateError),
    /// The machine was made with other devices than were saved.
    #[error("the machine has {found} virtio devices, and {saved} were saved")]
    DeviceCount {
        /// In the snapshot.
        saved: usize,
        /// In the machine.
        found: usize,
    },
    /// The guest's file system would find its end missing.
    #[error(
        "the disk has {found} sectors of 512 bytes, and the guest knows it with {saved}: give a copy of the original"
    )]
    DiskSize {
        /// In the snapshot.
        saved: u64,
        /// Of the file.
        found: u64,
    },
    /// What the driver relies on is not there.
    #[error(
        "the driver uses features that are not offered here (bits {0:#x}): use a host resource like the original's"
    )]
    FeaturesMissing(u64),
    /// No device is ever in such a state.
    #[error("no device is ever in the saved state: {0}")]
    Impossible(Impossible),
    /// What the driver wrote to a private disk could not be copied.
    #[error("what the guest wrote to its private disk cannot be copied")]
    Layer(#[source] std::io::Error),
    /// Another device stands in this place.
    #[error("a {found:?} device stands where a {saved:?} device was saved")]
    WrongDevice {
        /// In the snapshot.
        saved: DeviceKind,
        /// In the machine.
        found: DeviceKind,
    },
}

/// What is wrong with a state that was damaged or made by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// More pages in the balloon than the guest has.
    BalloonTarget,
    /// Status bits that no sequence of writes leads to.
    DriverStatus,
    /// Sizes or alignment that no queue has.
    QueueLayout,
    /// Another number of queues, or queues of other sizes.
    Queues,
    /// A queue outside of guest memory.
    QueueAddress,
    /// More in the serial port's buffers than they hold.
    SerialBuffer,
    /// More connections than there can be, or ports that are nobody's.
    SocketPorts,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BalloonTarget => "a balloon larger than the guest's memory",
            Self::DriverStatus => "a driver status that cannot be reached",
            Self::QueueLayout => "a queue with an impossible size or a misaligned address",
            Self::Queues => "other queues than the device has",
            Self::QueueAddress => "a queue outside of guest memory",
            Self::SerialBuffer => "more serial input than there is room for",
            Self::SocketPorts => "socket connections that cannot be",
        })
    }
}
