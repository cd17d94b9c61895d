//! What a disk leaves to the one that takes its place.

use std::fs::File;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Layer;
use super::disk::Disk;
use crate::devices::virtio::RestoreError;

/// What the driver knows of the disk beyond its registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// What it was offered. It stays offered where the new file can do less (a read-only one, one that cannot be
    /// punched holes into): the request then fails, which drivers know how to deal with, and features cannot be taken
    /// back.
    pub features: u64,
    /// What the driver wrote, of a private disk. It lives in memory and goes to forks alone.
    #[serde(skip)]
    pub written: Written,
}

/// A private disk's content at one moment, beside its file.
#[derive(Clone, Debug, Default)]
pub struct Written(Option<Arc<Layer>>);

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for Written {}

impl Written {
    /// A copy of what was written to `disk`, if it is private.
    pub(super) fn of(disk: &Disk) -> Self {
        let copy = disk.layer().map(Layer::duplicate).transpose();
        Self(copy.map(|copy| copy.map(Arc::new)).unwrap_or_else(|error| {
            // Who needs it notices that it is missing.
            tracing::warn!(%error, "a private disk's content cannot be copied");
            None
        }))
    }

    /// Leaves what is missing in the file that holds the content, for another process that is handed it.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn leave(&self) -> io::Result<()> {
        self.0.as_deref().map_or(Ok(()), Layer::leave_map)
    }

    /// What another process left in `file`, of a disk of `bytes` bytes.
    ///
    /// # Errors
    /// A file that holds none.
    pub fn left_in(file: File, bytes: u64) -> io::Result<Self> {
        Layer::left_in(file, bytes).map(|layer| Self(Some(Arc::new(layer))))
    }

    /// The content for a clone's disk.
    pub(super) fn copy(&self) -> Result<Option<Layer>, RestoreError> {
        let layer = self.0.as_deref();
        layer.map(Layer::duplicate).transpose().map_err(RestoreError::Layer)
    }
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
