//! When a file is the one that was read before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The coarsest time stamp that a file system keeps (FAT). A file may change twice within it and look the same.
const TIME_STAMP_GRANULARITY: Duration = Duration::from_secs(2);

/// What tells one content of one file from every other: no write leaves it as it was, apart from writes within the
/// granularity of the time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Length of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether a file of this identity that is changed from `now` on will have another identity.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let changed = Duration::new(self.changed.0.max(0) as u64, self.changed.1 as u32);
        now.duration_since(UNIX_EPOCH + changed)
            .is_ok_and(|age| age > TIME_STAMP_GRANULARITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_settles_when_its_time_stamp_is_past() {
        let identity = Identity {
            device: 1,
            inode: 2,
            size: 3,
            modified: (1000, 0),
            changed: (1000, 500_000_000),
        };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!identity.is_settled(at(999)));
        assert!(!identity.is_settled(at(1001)));
        assert!(identity.is_settled(at(1003)));
    }
}
