//! What the tests and benchmarks boot: Debian's kernels, initial file systems
//! and a root disk, below `target/assets`.
//!
//! | file | content |
//! |---|---|
//! | `cloud/vmlinuz`, `generic/vmlinuz` | Debian's stock bzImage |
//! | `cloud/vmlinux`, `generic/vmlinux` | the ELF file unpacked from it |
//! | `cloud/release`, `generic/release` | what `uname -r` says of it |
//! | `marker.cpio` | an init that prints `SANDBOX-INIT` and ends the machine |
//! | `boot-cloud.cpio.gz`, `boot-generic.cpio.gz` | drivers, network, then the root disk |
//! | `root.ext4` | a root file system that serves a page and runs console lines |

mod busybox;
mod bzimage;
mod compression;
mod initramfs;
mod kernel;
mod modules;
mod root_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::ext4;
use crate::packages::{self, Package};
use crate::process;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

pub(crate) use busybox::{PACKAGE as BUSYBOX, add as add_busybox, applets, program as busybox};
pub(crate) use initramfs::build_marker;
pub(crate) use kernel::{Flavour, Kernel};
pub(crate) use modules::add as add_modules;

/// The environment variable by which tests find the folder of assets.
pub(crate) const VARIABLE: &str = "SANDBOX_TEST_ASSETS";

const PACKAGES: [Package; 4] = [
    BUSYBOX,
    ext4::PACKAGE,
    Package {
        name: "gcc",
        why: "compiles the guests' programs",
    },
    Package {
        name: "libc6-dev",
        why: "is linked into the guests' programs",
    },
];

/// What `cargo xtask help` says about it.
pub(crate) const USAGE: &str = "\
assets                           build what the tests boot and print where it is";

/// Builds all assets and prints their folder.
pub(crate) fn main(workspace: &Workspace, mut arguments: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    println!("{}", Assets::build(workspace)?.folder().display());
    Ok(ExitCode::SUCCESS)
}

/// The folder of finished assets.
pub(crate) struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// Builds whatever is missing or out of date.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        packages::ensure(&PACKAGES)?;
        let _lock = cache::lock(&workspace.target().join("xtask"))?;
        let assets = Self {
            folder: workspace.target().join("assets"),
        };
        initramfs::build_marker(&assets.folder.join("marker.cpio"))?;
        root_disk::build(&assets.folder.join("root.ext4"))?;
        for flavour in Flavour::ALL {
            let kernel = Kernel::obtain(workspace, flavour)
                .with_context(|| format!("cannot get Debian's {} kernel", flavour.name()))?;
            assets.build_kernel(flavour, &kernel)?;
            let archive = format!("boot-{}.cpio.gz", flavour.name());
            initramfs::build_boot(&assets.folder.join(archive), &kernel)?;
        }
        Ok(assets)
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn build_kernel(&self, flavour: Flavour, kernel: &Kernel) -> Result<()> {
        let folder = self.folder.join(flavour.name());
        build_vmlinux(&folder.join("vmlinux"), kernel)?;
        let key = Key::default().file(kernel.vmlinuz())?;
        cache::build(&folder.join("vmlinuz"), &key, |path| {
            fs::copy(kernel.vmlinuz(), path)?;
            Ok(())
        })?;
        cache::build(&folder.join("release"), &key, |path| {
            Ok(fs::write(path, kernel.release())?)
        })
    }
}

/// Unpacks a kernel to the ELF file `output`.
pub(crate) fn build_vmlinux(output: &Path, kernel: &Kernel) -> Result<()> {
    let key = Key::default().file(kernel.vmlinuz())?;
    cache::build(output, &key, |path| {
        let image = fs::read(kernel.vmlinuz())?;
        Ok(fs::write(path, bzimage::vmlinux(&image)?)?)
    })
}

/// Compiles one C file to a stripped static program.
pub(crate) fn c_program(name: &str, source: &[u8]) -> Result<Vec<u8>> {
    let scratch = Scratch::below(&std::env::temp_dir(), name)?;
    let file = scratch.path().join(name).with_extension("c");
    let program = scratch.path().join(name);
    fs::write(&file, source)?;
    process::run(
        process::tool("gcc")
            .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"])
            .args(["-static", "-s", "-o"])
            .arg(&program)
            .arg(&file),
    )?;
    Ok(fs::read(&program)?)
}
