//! What a process holds, as the kernel tells it.

use std::fs;

/// What a platform holds that must not grow.
#[derive(Debug, PartialEq, Eq)]
pub struct Holdings {
    pub descriptors: usize,
    pub children: usize,
    pub interfaces: usize,
}

impl Holdings {
    /// Those of the platform `pid`, which is in the caller's network namespace.
    pub fn of(pid: libc::pid_t) -> Self {
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            children: children(pid).len(),
            interfaces: crate::support::interfaces(),
        }
    }
}

/// The children of process `pid`.
pub fn children(pid: libc::pid_t) -> Vec<libc::pid_t> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|child| parent(*child) == Some(pid)).collect()
}

/// `None` for a process that is gone.
fn parent(pid: libc::pid_t) -> Option<libc::pid_t> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have spaces in it; the state and the parent stand behind it.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}
