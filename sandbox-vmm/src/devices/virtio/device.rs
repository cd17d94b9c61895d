//! The contract between the transport and a device.

use std::os::fd::RawFd;

use virtio_queue::Queue;

use super::{DeviceState, Interrupt, RestoreError, SavedDevice};
use crate::memory::GuestMemory;
use crate::renewal::Parts;
use crate::renewal::record::RECORD_SIZE;

/// Device types (virtio 1.3 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// Network card (§5.1).
    Net = 1,
    /// Block device (§5.2).
    Block = 2,
    /// Entropy device (§5.4).
    Rng = 4,
    /// Traditional memory balloon (§5.5).
    Balloon = 5,
    /// Socket device (§5.10).
    Vsock = 19,
}

/// Why a device could not be activated; the transport answers with `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left a queue out that the device cannot do without.
    #[error("queue {0} is not ready")]
    QueueNotReady(usize),
    /// A host resource failed.
    #[error("cannot set the host side up")]
    Host(#[source] std::io::Error),
}

/// What a device is given when its driver sets `DRIVER_OK`.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// One per entry of [`VirtioDevice::queue_sizes`], in order, each checked by `Queue::is_valid` if ready and with
    /// event-index already set as negotiated; one that the driver did not enable has `ready() == false`.
    pub queues: Vec<Queue>,
    /// The interrupt of this device.
    pub interrupt: Interrupt,
    /// The features that device and driver agreed on.
    pub features: u64,
}

/// A host descriptor that the event loop watches for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEvent {
    /// Watched edge-triggered for readability; stays open as long as the device.
    pub fd: RawFd,
    /// Handed back to [`VirtioDevice::host_event`].
    pub token: u32,
}

/// Whether a call left work behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All is done, or what is missing announces itself: a kick, a host event.
    Waiting,
    /// The call's share was used up. Whoever called calls the same again, after it has looked at what else it has to do.
    More,
}

impl Progress {
    /// What two pieces of work of one call come to.
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::Waiting => other,
            Self::More => Self::More,
        }
    }
}

/// A virtio device. All calls come under the device's lock, from a vCPU thread or the event loop; none may block on
/// the guest, and each does a bounded amount of work whatever the queues hold.
pub trait VirtioDevice: Send {
    /// The device type.
    fn kind(&self) -> DeviceKind;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The features offered. The transport adds `VIRTIO_F_VERSION_1`; `VIRTIO_F_RING_EVENT_IDX` is the device's own to
    /// offer.
    fn features(&self) -> u64;

    /// Fills `data` from the configuration space at `offset`; bytes behind its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space; most devices have nothing writable and ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver set `DRIVER_OK`, or had set it when the device was saved: take the queues. Nothing is served before
    /// [`VirtioDevice::wake`], which follows. On an error the device stays inactive.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Serves whatever waits on either side, announced or not: after the activation, and when a restored guest is about
    /// to run. Called only between `activate` and `reset`.
    fn wake(&mut self) {
        let sizes = self.queue_sizes().to_vec();
        for (queue, size) in (0..).zip(sizes) {
            // A call serves one chain at least, so that this is enough for what waits now; and it is bounded, should
            // another vCPU fill the queue as fast as it is emptied.
            let mut calls = 0..size;
            while calls.next().is_some() && self.queue_notify(queue) == Progress::More {}
        }
    }

    /// The driver wrote status 0: give the queues up and forget all state of the session. Idempotent.
    fn reset(&mut self);

    /// The driver kicked `queue`, or more of it is left. Called only between `activate` and `reset`.
    fn queue_notify(&mut self, queue: u16) -> Progress;

    /// What a program in the guest that can be reached by this device is to be told when the guest runs again, as a
    /// clone. Returns the parts that it uses; `None` if there is no such program.
    fn tell_identity(&mut self, _record: &[u8; RECORD_SIZE]) -> Option<Parts> {
        None
    }

    /// What a snapshot holds of the device; what it has taken ahead is put back first. The device can go on afterwards.
    fn save(&mut self) -> SavedDevice;

    /// Makes a device that was just made, and has no driver yet, know what the saved one knew. If that one was active,
    /// `activate` follows, with queues that stand where they stood.
    ///
    /// # Errors
    /// A state that no device is ever in, or one that this device's host side does not fit.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;

    /// The host descriptors to watch, for the device's whole life (a device with a changing set keeps an epoll
    /// descriptor of its own). Empty for devices that act on kicks alone.
    fn host_events(&self) -> Vec<HostEvent> {
        Vec::new()
    }

    /// A watched descriptor became readable, or more work of this event is left. May come without either, before
    /// `activate` and after `reset`; it then only drains.
    fn host_event(&mut self, _token: u32) -> Progress {
        Progress::Waiting
    }
}
