//! What a process holds, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// For how long what a process holds must not change to count as settled: a sandbox goes piece by piece.
const UNCHANGED: Duration = Duration::from_millis(300);

/// The most images of snapshots' memory that the SDK keeps.
const KEPT_IMAGES: usize = 8;

/// What a platform holds that must not grow.
#[derive(Debug, PartialEq, Eq)]
pub struct Holdings {
    /// By what they lead to, without its number.
    pub descriptors: BTreeMap<String, usize>,
    pub children: usize,
    pub interfaces: usize,
}

impl Holdings {
    /// Those of the platform `pid`, which is in the caller's network namespace.
    pub fn of(pid: libc::pid_t) -> Self {
        Self {
            descriptors: descriptors(pid),
            children: children(pid).len(),
            interfaces: crate::support::interfaces(),
        }
    }

    /// Whether this is no more than `other`. An instance that stands by may have a connection, or not yet, and the SDK
    /// keeps the memory of some snapshots for later restores.
    pub fn is_within(&self, other: &Self) -> bool {
        let has_room = |(kind, count): (&String, &usize)| {
            let extra = match kind.as_str() {
                "socket" => other.children,
                "/memfd:sandbox-memory (deleted)" => KEPT_IMAGES,
                _ => 0,
            };
            *count <= other.descriptors.get(kind).copied().unwrap_or_default() + extra
        };
        (self.children, self.interfaces) == (other.children, other.interfaces) && self.descriptors.iter().all(has_room)
    }

    /// What the platform holds once that is what `is_right`, and stays so for a while; `None` when it does not in time.
    pub fn settle_within(pid: libc::pid_t, patience: Duration, is_right: impl Fn(&Self) -> bool) -> Option<Self> {
        let deadline = Instant::now() + patience;
        let (mut holdings, mut since) = (Self::of(pid), Instant::now());
        while Instant::now() < deadline {
            if is_right(&holdings) && since.elapsed() > UNCHANGED {
                return Some(holdings);
            }
            // The kernel tells nobody when it has let go.
            thread::sleep(Duration::from_millis(10));
            let now = Self::of(pid);
            if now != holdings {
                (holdings, since) = (now, Instant::now());
            }
        }
        None
    }

    /// The same; panics when it never does.
    pub fn settle(pid: libc::pid_t, is_right: impl Fn(&Self) -> bool) -> Self {
        Self::settle_within(pid, PATIENCE, is_right).unwrap_or_else(|| panic!("{:?}", Self::of(pid)))
    }
}

fn descriptors(pid: libc::pid_t) -> BTreeMap<String, usize> {
    let mut descriptors = BTreeMap::new();
    // One may go while it is looked at.
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    for target in all.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()) {
        let target = target.to_string_lossy();
        let (kind, _) = target.split_once(":[").unwrap_or((&target, ""));
        *descriptors.entry(kind.to_owned()).or_default() += 1;
    }
    descriptors
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
