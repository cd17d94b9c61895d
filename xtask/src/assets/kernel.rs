//! Debian's stock kernels: the installed ones, or the same out of their
//! packages, without installing them.
//!
//! A kernel is only data to this project. Installing one would make it a
//! choice of the machine's boot loader, so a missing one is unpacked into the
//! target directory instead, for which nobody needs to be root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// One of Debian's kernel builds for amd64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// `linux-image-cloud-amd64`: few drivers, ext4 built in.
    Cloud,
    /// `linux-image-amd64`: nearly every driver, as modules.
    Generic,
}

impl Flavour {
    /// Both flavours.
    pub(crate) const ALL: [Self; 2] = [Self::Cloud, Self::Generic];

    /// The name of the flavour's folder among the assets.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Generic => "generic",
        }
    }

    /// The Debian package that always depends on the newest such kernel.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }
}

/// A kernel of this machine, or one unpacked from its package.
pub(crate) struct Kernel {
    release: String,
    vmlinuz: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Finds the kernel of the given flavour, or downloads it.
    pub(crate) fn obtain(workspace: &Workspace, flavour: Flavour) -> Result<Self> {
        if let Some(kernel) = installed(flavour) {
            return Ok(kernel);
        }
        let unpacked = workspace.target().join("debian").join(flavour.name());
        if !unpacked.exists() {
            download(flavour, &unpacked)?;
        }
        let release = release_in(&unpacked.join("boot"))?;
        Self::below(&unpacked, &release).with_context(|| format!("{} is incomplete: delete it", unpacked.display()))
    }

    /// The release, as `uname -r` shows it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The bzImage.
    pub(crate) fn vmlinuz(&self) -> &Path {
        &self.vmlinuz
    }

    /// The folder of its modules.
    pub(crate) fn modules(&self) -> &Path {
        &self.modules
    }

    fn below(root: &Path, release: &str) -> Option<Self> {
        let vmlinuz = root.join(format!("boot/vmlinuz-{release}"));
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|folder| root.join(folder).join(release))
            .into_iter()
            .find(|folder| folder.join("kernel").is_dir())?;
        vmlinuz.is_file().then(|| Self {
            release: release.to_owned(),
            vmlinuz,
            modules,
        })
    }
}

fn installed(flavour: Flavour) -> Option<Kernel> {
    let query =
        process::output(process::tool("dpkg-query").args(["--show", "--showformat=${Depends}", flavour.package()]))
            .ok()?;
    let package = image_package(&String::from_utf8_lossy(&query))?;
    if !packages::is_installed(&package) {
        return None;
    }
    Kernel::below(Path::new("/"), package.strip_prefix("linux-image-")?)
}

/// Downloads the newest kernel package and unpacks it to `destination`.
fn download(flavour: Flavour, destination: &Path) -> Result<()> {
    let package = match newest_package(flavour) {
        Some(package) => package,
        None => {
            packages::update_lists()?;
            newest_package(flavour).with_context(|| format!("Debian's archive has no {}", flavour.package()))?
        }
    };
    eprintln!("downloading {package} (it is unpacked, not installed)");
    let unfinished = destination.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let archive = unfinished.join("archive");
    fs::create_dir_all(&archive)?;
    let fetch = || {
        process::run(
            process::tool("apt-get")
                .args(["--quiet", "download", &package])
                .current_dir(&archive),
        )
    };
    // Lists that have grown old name packages that the archive no longer holds.
    fetch().or_else(|_| packages::update_lists().and_then(|()| fetch()))?;
    let file = fs::read_dir(&archive)?
        .next()
        .context("apt-get download left no file")??
        .path();
    process::run(process::tool("dpkg-deb").arg("--extract").arg(&file).arg(&unfinished))?;
    fs::remove_dir_all(&archive)?;
    fs::rename(&unfinished, destination)?;
    Ok(())
}

fn newest_package(flavour: Flavour) -> Option<String> {
    let record =
        process::output(process::tool("apt-cache").args(["show", "--no-all-versions", flavour.package()])).ok()?;
    String::from_utf8_lossy(&record)
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"))
        .and_then(image_package)
}

/// The versioned kernel package in a `Depends` field.
fn image_package(depends: &str) -> Option<String> {
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn release_in(boot: &Path) -> Result<String> {
    for entry in fs::read_dir(boot)? {
        if let Some(release) = entry?.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            return Ok(release.to_owned());
        }
    }
    bail!("{} holds no kernel", boot.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versioned_package_is_found_in_a_depends_field() {
        let depends = "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(
            image_package(depends).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            image_package("kmod, linux-image-6.12.1-amd64 | x").as_deref(),
            Some("linux-image-6.12.1-amd64")
        );
        assert_eq!(image_package("kmod, initramfs-tools"), None);
    }
}
