//! virtio-net (virtio 1.3 §5.1): one receive and one transmit queue before a tap.
//!
//! Frames are not copied here: the driver's buffers are handed to the tap as they are, with the virtio-net header that
//! guest and host kernel both speak, so that checksums and segmentation are left to whoever does them last.
//!
//! ```text
//! driver  --kick-->  Transmitter  --writev-->  tap        on the vCPU thread that kicked
//! driver  <--used--  Receiver     <--readv---  tap        on the event loop when the tap becomes readable, or on the
//!                                                         vCPU thread that brought the buffers that were missing
//! ```

mod backend;
mod config;
mod counters;
mod device;
mod persist;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use backend::FrameBackend;
pub use config::NetConfig;
pub use counters::NetCounters;
pub use device::{Net, NetDeviceError};
pub use persist::NetState;

/// Entries of either queue. A Linux driver keeps the receive queue full of buffers of 1.5 KiB and more, which is room
/// for six frames of 64 KiB at the least.
const QUEUE_SIZE: u16 = 256;
/// Length of `struct virtio_net_hdr` before each frame (§5.1.6), in bytes.
const HEADER_SIZE: usize = sandbox_net::VNET_HEADER_SIZE;
/// Offset in it of `num_buffers`, which is the device's to fill; the tap fills what comes before.
const NUM_BUFFERS_OFFSET: usize = 10;
/// The longest frame either way, header included: 64 KiB of segmented TCP with Ethernet and virtio-net headers
/// (§5.1.6.3.1). A longer one from the guest would only have the host kernel allocate memory to refuse it.
const MAX_FRAME_SIZE: usize = 65_550 + HEADER_SIZE;
/// Frames worked off in one call, so that neither a flood from the host nor a guest that refills while it is served
/// keeps the device's lock, and with it the event loop or a vCPU, for ever.
const FRAMES_PER_CALL: usize = 256;
