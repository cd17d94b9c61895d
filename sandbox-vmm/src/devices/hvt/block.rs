//! A block device behind hypercalls.

use std::sync::Arc;

use super::Outcome;
use crate::devices::virtio::block::{BlockConfig, BlockCounters, BlockError, Disk};
use crate::devices::virtio::segments::Segments;

/// Unit of offsets and lengths, in bytes.
pub const BLOCK_SIZE: u64 = 512;
/// Most data of one call, in bytes. A guest could otherwise keep its thread in the host's kernel for as long as its
/// whole memory takes to be written, and nobody could stop it meanwhile.
const CALL_MAX: u64 = 16 << 20;

/// A disk with its counters.
pub struct HvtDisk {
    disk: Disk,
    counters: Arc<BlockCounters>,
}

impl HvtDisk {
    /// The disk that `config` describes; its limits are not kept, and must be none.
    pub fn new(config: BlockConfig) -> Result<Self, BlockError> {
        Ok(Self {
            disk: Disk::new(config)?,
            counters: Arc::new(BlockCounters::default()),
        })
    }

    /// Size in bytes, in whole blocks.
    pub fn capacity(&self) -> u64 {
        self.disk.sectors() * BLOCK_SIZE
    }

    /// What it has carried.
    pub fn counters(&self) -> Arc<BlockCounters> {
        Arc::clone(&self.counters)
    }

    /// Moves the whole of `data` to or from the disk at `offset`, whole blocks within the disk.
    pub(super) fn transfer(&self, write: bool, offset: u64, mut data: Segments) -> Outcome {
        let length = data.bytes() as u64;
        let end = offset.checked_add(length);
        let fits = end.is_some_and(|end| end <= self.capacity());
        let whole = offset.is_multiple_of(BLOCK_SIZE) && length.is_multiple_of(BLOCK_SIZE);
        if !fits || !whole || length > CALL_MAX {
            return Outcome::Invalid;
        }
        let sector = offset / BLOCK_SIZE;
        let moved = match write {
            true => self.disk.write(sector, &mut data, false),
            false => self.disk.read(sector, &mut data),
        };
        match (moved, write) {
            (Ok(()), true) => self.counters.add_write(length),
            (Ok(()), false) => self.counters.add_read(length),
            (Err(_), _) => {
                self.counters.add_error();
                return Outcome::Unspecified;
            }
        }
        Outcome::Done
    }
}
