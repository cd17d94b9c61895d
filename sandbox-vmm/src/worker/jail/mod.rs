//! The jail: what a worker gives up before it serves a guest.
//!
//! | part | what is left to a worker that its guest has taken over |
//! |---|---|
//! | namespaces | no network, no host's processes, no host's queues |
//! | root | an empty, read-only directory |
//! | user, capabilities | an unprivileged user without capabilities, and no way to gain any |
//! | Landlock | no file and no port, should a way out of the root be found |
//! | resource limits | descriptors and file sizes of its own sandbox |
//! | seccomp | the system calls that its threads make anyway, with the arguments that they make them with |
//!
//! Each part holds without the others. What a host refuses is named and the rest is done all the same; whether that is
//! enough is the embedder's to say.

mod capabilities;
pub mod cgroup;
mod landlock;
mod namespaces;
pub mod rlimits;
mod root;
pub mod seccomp;

use std::io;

use sandbox_core::Weakness;

use super::protocol::JailPlan;

/// Enters the jail, but for the filters of system calls, which each thread enters by itself. Returns what the host
/// refused.
///
/// # Errors
/// What cannot be refused and go on: giving up the embedder's user, capabilities, or the right to gain new ones.
pub fn enter(plan: &JailPlan) -> io::Result<Vec<Weakness>> {
    let mut weaknesses = match plan.born_in_namespaces {
        true => Vec::new(),
        false => namespaces::enter_late(),
    };
    if weaknesses.contains(&Weakness::MountNamespace) || root::leave_for_empty().is_err() {
        weaknesses.push(Weakness::EmptyRoot);
    }
    if let Some((user, group)) = plan.user {
        match capabilities::become_user(user, group) {
            Ok(()) => {}
            // In a container that may not: its root is all there is.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => weaknesses.push(Weakness::SameUser),
            Err(error) => return Err(error),
        }
        // Only now, so that the namespace belongs to a user who has nothing else.
        if namespaces::enter_user().is_err() {
            weaknesses.push(Weakness::UserNamespace);
        }
    }
    capabilities::drop_all()?;
    if landlock::restrict().is_err() {
        weaknesses.push(Weakness::Landlock);
    }
    rlimits::apply()?;
    if plan.filters.is_none() {
        weaknesses.push(Weakness::Seccomp);
    }
    Ok(weaknesses)
}

/// The result of a system call that says -1 for an error.
fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
