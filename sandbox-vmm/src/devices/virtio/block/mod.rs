//! virtio-block (virtio 1.3 §5.2): one request queue before a raw image file or a block device of the host.
//!
//! A request is served where it is noticed, on the vCPU thread of the driver that kicked, and its data goes between the
//! driver's buffers and the page cache by one system call, whatever pieces the buffers lie in:
//!
//! ```text
//! driver  --kick-->  Handler  --Request-->  Disk  --preadv, pwritev2, fallocate, fdatasync-->  file
//! driver  <--used--  Handler
//! ```
//!
//! The disk is as large as the file when it is opened, in whole sectors of 512 bytes: what a file has behind its last
//! whole sector is not seen. Writes are on stable storage once the driver has flushed them, or at once for a driver that
//! does not know flushes (§5.2.6.2).

mod config;
mod counters;
mod device;
mod disk;
mod handler;
mod layer;
mod offer;
mod open;
mod persist;
mod request;
#[cfg(test)]
mod tests;

pub use config::{BlockConfig, BlockError};
pub use counters::BlockCounters;
pub use device::BlockDevice;
pub(crate) use disk::Disk;
pub use disk::size_of_disk;
pub use layer::{Layer, with_files};
pub use open::open_disk;
pub use persist::{BlockState, Written};

/// Unit of addresses and lengths on a virtio disk, in bytes (§5.2.4).
const SECTOR_SIZE: u64 = 512;
/// Length of the serial number, in bytes (§5.2.6, `VIRTIO_BLK_T_GET_ID`).
const SERIAL_LEN: usize = 20;
/// Entries of the request queue.
const QUEUE_SIZE: u16 = 256;
/// The largest buffer that a driver is asked to use (`size_max`), in bytes.
const SEGMENT_MAX_BYTES: u32 = 128 << 10;
/// Data buffers per request that a driver is asked to use at most (`seg_max`); header and status come on top.
const SEGMENTS_MAX: u32 = 126;
/// The most data of one request, in bytes: what a driver can ask for that keeps to the two limits above, rounded up.
/// Nothing keeps a hostile one from describing the same memory again and again, up to 4 GiB, and a vCPU thread that is
/// busy with it in the host's kernel could not be stopped for seconds.
const REQUEST_MAX_BYTES: u64 = 16 << 20;
/// Sectors that one discard or write-zeroes request may cover, 256 MiB. A guest can prepare its file to consist of
/// single-block extents, each of which takes the host's file system its time to give back.
const RANGE_MAX_SECTORS: u32 = 1 << 19;
/// Data moved in one call before it ends and the event loop goes on, in bytes: a whole queue of requests of ordinary
/// size, but not of the largest that a hostile driver can make. Bounds how long the device's lock is held, and how long a
/// vCPU thread cannot be stopped.
const CALL_MAX_BYTES: u64 = 64 << 20;

const _: () = assert!(SEGMENT_MAX_BYTES as u64 * SEGMENTS_MAX as u64 <= REQUEST_MAX_BYTES);
