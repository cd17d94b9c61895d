//! The initial file systems of Linux guests.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::compression;
use super::kernel::Kernel;
use super::{busybox, modules};
use crate::archive::Tree;
use crate::cache::{self, Key};

const MARKER_SOURCE: &[u8] = include_bytes!("../../assets/marker-init.c");
const BOOT_SCRIPT: &[u8] = include_bytes!("../../assets/boot-init.sh");

/// Drivers that a guest of the sandbox may meet, in the order of loading.
const DRIVERS: [&str; 10] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    // The power button, and the file that a program hears of it by.
    "button",
    "evdev",
    // ext4 asks for this algorithm by name, so its dependencies do not tell.
    "crc32c_generic",
    "ext4",
];

/// Builds `marker.cpio`: an init that prints a line and ends the machine.
pub(crate) fn build_marker(output: &Path) -> Result<()> {
    let key = Key::default().bytes("marker-init.c", MARKER_SOURCE);
    cache::build(output, &key, |path| {
        let program = super::c_program("marker-init", MARKER_SOURCE)?;
        let mut tree = Tree::default();
        tree.bytes("init", program, 0o755)?;
        for folder in ["dev", "proc"] {
            tree.directory(folder)?;
        }
        // The kernel opens it for init before init could mount anything.
        tree.character_device("dev/console", 5, 1)?;
        tree.write(fs::File::create(path)?)
    })
}

/// Builds `boot-<flavour>.cpio.gz`: drivers, network, then the root disk.
pub(super) fn build_boot(output: &Path, kernel: &Kernel) -> Result<()> {
    let key = Key::default()
        .bytes("boot-init.sh", BOOT_SCRIPT)
        .bytes("drivers", DRIVERS.join(" ").as_bytes())
        .file(&busybox::program()?)?
        .file(kernel.vmlinuz())?;
    cache::build(output, &key, |path| {
        let mut tree = Tree::with_merged_usr()?;
        busybox::add(&mut tree)?;
        modules::add(&mut tree, kernel, &DRIVERS)?;
        tree.bytes("init", BOOT_SCRIPT, 0o755)?;
        for folder in ["dev", "proc", "sys", "root"] {
            tree.directory(folder)?;
        }
        tree.character_device("dev/console", 5, 1)?;
        let mut archive = Vec::new();
        tree.write(&mut archive)?;
        fs::write(path, compression::gzip(&archive)?)?;
        Ok(())
    })
}
