//! What the jail of a sandbox's process lacks on a host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of the jail that a host refused. The others hold without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Weakness {
    /// No user namespace of its own.
    UserNamespace,
    /// No mount namespace of its own.
    MountNamespace,
    /// No network namespace of its own.
    NetworkNamespace,
    /// No process namespace of its own: it sees the host's processes.
    PidNamespace,
    /// No namespace of its own for System V and POSIX queues.
    IpcNamespace,
    /// No namespace of its own for the host name.
    UtsNamespace,
    /// The host's file system is its root.
    EmptyRoot,
    /// It has the embedder's user.
    SameUser,
    /// No Landlock.
    Landlock,
    /// No filters of system calls.
    Seccomp,
}

impl Weakness {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Weakness::UserNamespace => "user_namespace",
            Weakness::MountNamespace => "mount_namespace",
            Weakness::NetworkNamespace => "network_namespace",
            Weakness::PidNamespace => "pid_namespace",
            Weakness::IpcNamespace => "ipc_namespace",
            Weakness::UtsNamespace => "uts_namespace",
            Weakness::EmptyRoot => "empty_root",
            Weakness::SameUser => "same_user",
            Weakness::Landlock => "landlock",
            Weakness::Seccomp => "seccomp",
        }
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Weakness::UserNamespace => "no user namespace of its own",
            Weakness::MountNamespace => "no mount namespace of its own",
            Weakness::NetworkNamespace => "no network namespace of its own",
            Weakness::PidNamespace => "no process namespace of its own",
            Weakness::IpcNamespace => "no IPC namespace of its own",
            Weakness::UtsNamespace => "no host name of its own",
            Weakness::EmptyRoot => "the host's file system as its root",
            Weakness::SameUser => "the embedder's user",
            Weakness::Landlock => "no Landlock",
            Weakness::Seccomp => "no filters of system calls",
        })
    }
}
