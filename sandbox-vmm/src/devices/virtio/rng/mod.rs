//! virtio-rng (virtio 1.3 §5.4): the host's random numbers for the guest.

mod device;
#[cfg(test)]
mod tests;

pub use device::{RngConfig, RngDevice, RngError};

/// Entries of the request queue. Drivers have one or a few buffers waiting.
const QUEUE_SIZE: u16 = 64;
/// The most that one request is given, in bytes; the driver sees by the used length that it got less than it had room
/// for. A hostile driver could ask for 4 GiB with a single descriptor, and its vCPU thread could not be stopped for the
/// ten seconds that the host's kernel takes for them.
const REQUEST_MAX_BYTES: usize = 64 << 10;
/// Requests served in one call before the event loop goes on, 1 MiB of random numbers at most.
const REQUESTS_PER_CALL: usize = 16;
