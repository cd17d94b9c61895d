//! Disks.

use std::fs::File;

use sandbox_core::spec::DiskSpec;
use sandbox_core::{Error, ErrorKind, Result};

use crate::devices::hvt::HvtDisk;
use crate::devices::virtio::block::{BlockConfig, BlockDevice, BlockError, Layer, open_disk};
use crate::error::{kind_of, with_cause};

/// Opens and locks `disk`, which stands at `field` in the spec.
pub(super) fn open(disk: &DiskSpec, field: &str) -> Result<File> {
    open_disk(&disk.path, disk.read_only || disk.private).map_err(|error| disk_error(error, field))
}

/// The device before `file`.
pub(super) fn device(disk: &DiskSpec, file: File, field: &str) -> Result<BlockDevice> {
    let made = config(disk, file).and_then(BlockDevice::new);
    made.map_err(|error| disk_error(error, field))
}

/// The same behind hypercalls.
pub(super) fn hvt_device(disk: &DiskSpec, file: File, field: &str) -> Result<HvtDisk> {
    let made = config(disk, file).and_then(HvtDisk::new);
    made.map_err(|error| disk_error(error, field))
}

fn config(disk: &DiskSpec, file: File) -> std::result::Result<BlockConfig, BlockError> {
    Ok(BlockConfig {
        layer: disk.private.then(|| Layer::over(&file)).transpose()?,
        file,
        read_only: disk.read_only,
        serial: disk.id.clone(),
        rate_limit: disk.rate_limit,
    })
}

fn disk_error(error: BlockError, field: &str) -> Error {
    let kind = match &error {
        BlockError::NotFound { .. } => ErrorKind::NotFound,
        BlockError::Denied { .. } | BlockError::WriteProtected { .. } => ErrorKind::PermissionDenied,
        BlockError::InUse { .. } => ErrorKind::InUse,
        BlockError::Empty | BlockError::NotADisk(_) | BlockError::NotOpenFor(_) => ErrorKind::InvalidSpec,
        BlockError::Lock { .. } => ErrorKind::Unsupported,
        BlockError::Inspect(source) | BlockError::Layer(source) | BlockError::Open { source, .. } => kind_of(source),
        BlockError::RateLimit(_) => ErrorKind::HostExhausted,
    };
    let field = match &error {
        BlockError::RateLimit(_) => format!("{field}.rate_limit"),
        _ => format!("{field}.path"),
    };
    with_cause(kind, error).with_field(field)
}
