//! Disk images with an ext4 file system, made without mounting anything.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::packages::Package;
use crate::process;

/// The package that makes them.
pub(crate) const PACKAGE: Package = Package {
    name: "e2fsprogs",
    why: "makes disk images",
};

/// Makes an image of `size_mib` MiB that holds a copy of the folder `content`.
///
/// `options` are passed on to `mke2fs`.
pub(crate) fn make(output: &Path, content: &Path, size_mib: u64, options: &[&str]) -> Result<()> {
    File::create(output)?.set_len(size_mib << 20)?;
    process::run(
        process::tool("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0"])
            .args(options)
            .arg("-d")
            .arg(content)
            .arg(output),
    )
    .with_context(|| format!("cannot make an ext4 image of {}", content.display()))
}
