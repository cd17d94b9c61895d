//! Debian packages that a command needs: checked, and installed when root.

use anyhow::{Context, Result, bail};

use crate::process;

/// A Debian package and what it is needed for.
#[derive(Clone, Copy)]
pub(crate) struct Package {
    /// The package's name in Debian's archive.
    pub(crate) name: &'static str,
    /// What the command uses it for, shown when it is missing.
    pub(crate) why: &'static str,
}

/// Makes sure that all `packages` are installed.
///
/// Root gets the missing ones installed; anybody else is told the one command
/// that root has to run.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<Package> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!("missing Debian package {}: {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if process::find_program("apt-get".as_ref()).is_none() {
        bail!(
            "this is no Debian system: install the equivalents of: {}",
            names.join(" ")
        );
    }
    if !is_root() {
        bail!("run as root: apt-get install {}", names.join(" "));
    }
    install(&names)
}

/// Whether dpkg knows the package as completely installed.
pub(crate) fn is_installed(name: &str) -> bool {
    process::output(process::tool("dpkg-query").args(["--show", "--showformat=${db:Status-Abbrev}", name]))
        .is_ok_and(|status| status.starts_with(b"ii"))
}

/// Fetches the archive's current package lists; only root may.
pub(crate) fn update_lists() -> Result<()> {
    if !is_root() {
        bail!("run as root: apt-get update");
    }
    eprintln!("fetching Debian's package lists");
    process::run(process::tool("apt-get").args(["--quiet", "update"])).context("cannot fetch Debian's package lists")
}

fn install(names: &[&str]) -> Result<()> {
    update_lists()?;
    eprintln!("installing {}", names.join(" "));
    process::run(
        process::tool("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["--quiet", "--yes", "--no-install-recommends", "install"])
            .args(names),
    )
    .context("cannot install Debian packages")
}

fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_knows_itself_and_no_invention() {
        if process::find_program("dpkg-query".as_ref()).is_some() {
            assert!(is_installed("dpkg"));
        }
        assert!(!is_installed("no-such-package-anywhere"));
    }
}
