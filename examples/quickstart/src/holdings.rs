//! What this process holds, to see that a sandbox leaves nothing behind.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Time that the kernel has to take threads off its list.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Holdings {
    /// What this process holds now.
    pub fn now() -> io::Result<Self> {
        Ok(Self {
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
            threads: fs::read_dir("/proc/self/task")?.count(),
        })
    }

    /// What this process holds beyond `before`, once the kernel has forgotten the threads that were joined: it lists
    /// them for a moment longer, and offers nothing to wait for.
    pub fn now_without_joined_threads(before: &Self) -> io::Result<Self> {
        let started = Instant::now();
        loop {
            let now = Self::now()?;
            if now.threads <= before.threads || started.elapsed() > PATIENCE {
                return Ok(now.beyond(before));
            }
            thread::yield_now();
        }
    }

    fn beyond(self, before: &Self) -> Self {
        Self {
            descriptors: self.descriptors.saturating_sub(before.descriptors),
            threads: self.threads.saturating_sub(before.threads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_more_is_what_was_added() {
        let before = Holdings {
            descriptors: 4,
            threads: 1,
        };
        let after = Holdings {
            descriptors: 6,
            threads: 1,
        };
        let expected = Holdings {
            descriptors: 2,
            threads: 0,
        };
        assert_eq!(after.beyond(&before), expected);
    }
}
