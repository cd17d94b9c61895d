//! What is stored of a function.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sandbox::spec::GuestSpec;

use super::single;
use crate::bench::Laboratory;
use crate::bench::cell::{Cell, Point};

/// The size, in MiB, of what this function does not share with others: the unikernel, the disks of a micro-VM (its kernel
/// is the host's), the root file system of a container.
pub(super) fn size(laboratory: &Laboratory, cell: &Cell) -> Result<Vec<Point>> {
    let spec = laboratory.spec(cell)?;
    let bytes = match &spec.sandbox.guest {
        GuestSpec::Unikernel(guest) => of(&guest.image)?,
        GuestSpec::Linux(_) => {
            let disks = spec.sandbox.disks.iter().map(|disk| of(&disk.path));
            disks.sum::<Result<u64>>()?
        }
        GuestSpec::Container(guest) => of(guest
            .rootfs
            .as_deref()
            .or(guest.image.as_deref())
            .context("the container has no files")?)?,
        _ => bail!("nobody knows what is stored of this kind of guest"),
    };
    Ok(single(vec![bytes as f64 / f64::from(1 << 20)]))
}

/// The bytes that a file, or all files of a folder, take on their disk.
fn of(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += of(&entry?.path())?;
    }
    Ok(bytes)
}
