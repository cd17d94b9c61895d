//! Namespaces, for a worker that was not born in its own.

use std::fs;
use std::io;

use sandbox_core::Weakness;

use super::check;

/// Enters each namespace that the host allows. Not that of processes: only a child can be in a new one.
pub fn enter_late() -> Vec<Weakness> {
    let mut weaknesses = vec![Weakness::PidNamespace];
    // SAFETY: the calls have no preconditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    if user != 0 && enter_mapped_user(user, group).is_err() {
        weaknesses.push(Weakness::UserNamespace);
    }
    let others = [
        (libc::CLONE_NEWNS, Weakness::MountNamespace),
        (libc::CLONE_NEWNET, Weakness::NetworkNamespace),
        (libc::CLONE_NEWIPC, Weakness::IpcNamespace),
        (libc::CLONE_NEWUTS, Weakness::UtsNamespace),
    ];
    for (flag, weakness) in others {
        if unshare(flag).is_err() {
            weaknesses.push(weakness);
        }
    }
    weaknesses
}

/// Enters a user namespace in which no user of the host exists: there is nobody to become.
pub fn enter_user() -> io::Result<()> {
    unshare(libc::CLONE_NEWUSER)
}

/// Enters a user namespace as its root, which may enter the others.
fn enter_mapped_user(user: u32, group: u32) -> io::Result<()> {
    unshare(libc::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn unshare(flag: libc::c_int) -> io::Result<()> {
    // SAFETY: takes an integer; this process has one thread.
    check(unsafe { libc::unshare(flag) })
}
