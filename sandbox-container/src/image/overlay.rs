//! A root file system of one's own over a shared one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts an overlay (Documentation/filesystems/overlayfs.rst of the Linux source) at `at`: `lower` is seen, what is
/// written goes to `upper`. Returns false where overlays cannot be had: without privileges, on a file system that
/// cannot carry one, or in a kernel without them.
pub(super) fn mount(lower: &OwnedFd, upper: &Path, work: &Path, at: &Path) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())?;
    let work = rustix::fs::open(work, flags, Mode::empty())?;
    // By descriptor: no character of a path can be taken for a separator, and nobody can put another folder there.
    let folder = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        folder(lower),
        folder(&upper),
        folder(&work)
    );
    let options = CString::new(options).map_err(io::Error::other)?;
    match rustix::mount::mount("overlay", at, "overlay", MountFlags::NODEV, Some(options.as_c_str())) {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL | Errno::NODEV | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts what is mounted at `at`, if anything is.
pub(super) fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Nothing is mounted there, or somebody without privileges asks, who could not have mounted it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
