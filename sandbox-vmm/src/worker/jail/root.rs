//! An empty root.

use std::ffi::CStr;
use std::io;
use std::ptr;

use super::check;

/// Directories that the empty file system can be mounted on; any will do, since it is nobody's but this process's.
const MOUNT_POINTS: [&CStr; 5] = [c"/tmp", c"/proc", c"/dev", c"/var", c"/etc"];
/// Nothing can be made in it, by whatever right.
const FLAGS: libc::c_ulong = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Makes an empty, read-only directory the root of this process, which must have its own mount namespace, and leaves
/// the host's file system behind for good.
pub fn leave_for_empty() -> io::Result<()> {
    // What happens here must not be seen on the host, nor the other way round.
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    let mounted = MOUNT_POINTS
        .into_iter()
        .find(|point| mount(Some(c"tmpfs"), point, Some(c"size=4k,nr_inodes=1,mode=0555"), FLAGS).is_ok());
    let point = mounted.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the argument is a NUL-terminated string.
    check(unsafe { libc::chdir(point.as_ptr()) })?;
    if pivot_root().is_err() {
        // The root that the kernel was started with cannot be pivoted from. It can be covered.
        mount(Some(c"."), c"/", None, libc::MS_MOVE)?;
        // SAFETY: the argument is a NUL-terminated string.
        check(unsafe { libc::chroot(c".".as_ptr()) })?;
    }
    // SAFETY: as above.
    check(unsafe { libc::chdir(c"/".as_ptr()) })
}

/// Puts the old root on top of the new one, and takes it away with all that is mounted in it (pivot_root(2), NOTES).
fn pivot_root() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: the arguments are NUL-terminated strings.
    match unsafe { libc::syscall(libc::SYS_pivot_root, here, here) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    // SAFETY: as above.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) })
}

fn mount(source: Option<&CStr>, target: &CStr, options: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: the strings are NUL-terminated or null where the call allows it, and outlive the call.
    check(unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(options.and(source)),
            flags,
            pointer(options).cast(),
        )
    })
}
