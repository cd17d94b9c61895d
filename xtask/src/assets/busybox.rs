//! The one static program that serves as the whole userland of small guests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::Tree;
use crate::packages::Package;
use crate::process;

/// The package that has it.
pub(crate) const PACKAGE: Package = Package {
    name: "busybox-static",
    why: "is the userland of the emulated host and of Linux guests",
};

/// Where a tree keeps it.
pub(crate) const PATH: &str = "/usr/bin/busybox";

/// The installed program.
pub(crate) fn program() -> Result<PathBuf> {
    process::find_program(OsStr::new("busybox")).context("busybox is not installed")
}

/// The names under which the program does its different works.
pub(crate) fn applets() -> Result<Vec<String>> {
    let list = process::output(process::tool("busybox").arg("--list"))?;
    Ok(String::from_utf8_lossy(&list)
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// Adds the program and a link for each of its names to a merged-/usr tree.
pub(crate) fn add(tree: &mut Tree) -> Result<()> {
    tree.file(PATH, &program()?)?;
    for applet in applets()? {
        tree.link(Path::new("/usr/bin").join(applet), PATH)?;
    }
    Ok(())
}
