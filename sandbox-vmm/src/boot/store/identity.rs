//! When a file is the one that was read before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The coarsest time stamp that a file system keeps (FAT). A file may change twice within it and look the same.
const WHOLE_SECONDS_GRANULARITY: Duration = Duration::from_secs(2);
/// The same for file systems that keep fractions of a second, which take them from the kernel's tick: ten times 10 ms,
/// since the clock of a file server is not ours.
const FRACTIONS_GRANULARITY: Duration = Duration::from_millis(100);

/// What tells one content of one file from every other: no write leaves it as it was, apart from writes within the
/// granularity of the time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// Of the file that this is told of.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a file of this identity that is changed from `now` on will have another identity.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let granularity = match nanoseconds {
            0 => WHOLE_SECONDS_GRANULARITY,
            _ => FRACTIONS_GRANULARITY,
        };
        let changed = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds as u32);
        now.duration_since(changed).is_ok_and(|age| age > granularity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(changed: (i64, i64), now_milliseconds: u64) -> bool {
        let identity = FileIdentity {
            device: 1,
            inode: 2,
            size: 3,
            modified: changed,
            changed,
        };
        identity.is_settled(UNIX_EPOCH + Duration::from_millis(now_milliseconds))
    }

    #[test]
    fn an_identity_settles_when_its_time_stamp_is_past() {
        let fractions = (1000, 500_000_000);
        assert!(!settled(fractions, 999_000));
        assert!(!settled(fractions, 1_000_550));
        assert!(settled(fractions, 1_000_650));
        let whole_seconds = (1000, 0);
        assert!(!settled(whole_seconds, 1_001_900));
        assert!(settled(whole_seconds, 1_002_100));
    }
}
