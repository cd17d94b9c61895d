//! What a disk leaves to the one that takes its place.

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::devices::virtio::RestoreError;

/// What the driver knows of the disk beyond its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// What it was offered. It stays offered where the new file can do less (a read-only one, one that cannot be
    /// punched holes into): the request then fails, which drivers know how to deal with, and features cannot be taken
    /// back.
    pub features: u64,
}

impl BlockState {
    /// Whether `disk` can be the one that the driver knows.
    pub(super) fn check(&self, disk: &Disk) -> Result<(), RestoreError> {
        let (saved, found) = (self.sectors, disk.sectors());
        match saved == found {
            true => Ok(()),
            false => Err(RestoreError::DiskSize { saved, found }),
        }
    }
}
