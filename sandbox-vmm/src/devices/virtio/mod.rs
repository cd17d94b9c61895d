//! virtio devices: a folder per device; the transport knows none of them.
//!
//! A queue is worked off on the thread that notices the work: a driver's kick on the vCPU thread that made it (no
//! eventfd, no second thread to wake), host events (a readable tap, a timer) on the VM's event loop. A device is
//! therefore always called under its own lock, and each call does a bounded amount of work; whoever called calls again
//! for the rest, a vCPU thread after a look at its orders, the event loop after a look at its other descriptors.

pub mod balloon;
pub mod block;
pub(crate) mod config_space;
mod device;
mod interrupt;
pub mod net;
pub mod persist;
pub mod rng;
pub(crate) mod segments;
mod shared;
pub(crate) mod split_queue;
#[cfg(test)]
pub(crate) mod test_support;
pub mod transport;
pub mod vsock;

pub use device::{ActivateError, Activation, DeviceKind, HostEvent, Progress, VirtioDevice};
pub use interrupt::{Interrupt, InterruptLine, InterruptState};
pub use persist::{DeviceState, QueuePosition, RestoreError, SavedDevice};
pub use shared::{Held, Shared};
