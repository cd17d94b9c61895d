//! User, group and capabilities.

use std::io;
use std::ptr;

use super::check;

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 capabilities each (capabilities(7)).
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Becomes this user and group, and no other, for good.
pub fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: no groups, so no list; this process has one thread.
    check(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::setresuid(user, user, user) })
}

/// Gives up all capabilities and the right to gain any, by whatever program; and keeps other processes of the same user
/// from looking in. The embedder's end becomes this process's end.
pub fn drop_all() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let none = [Sets::default(); 2];
    // SAFETY: both structures have the layout of this version of the call, and outlive it.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    prctl(libc::PR_SET_DUMPABLE, 0)?;
    // Behind the change of user, which takes it back. It is the second line: what ends a worker is the end of its socket.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: these options take integers.
    check(unsafe { libc::prctl(option, value, zero, zero, zero) })
}
