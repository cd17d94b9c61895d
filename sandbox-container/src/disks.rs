//! What a container may read from and write to the host's disks: the spec's token buckets as the kernel's own limits
//! (Documentation/admin-guide/cgroup-v2.rst, `io.max`; cgroup-v1/blkio-controller.rst, `blkio.throttle.*`).
//!
//! The kernel's limits are rates. It gives a container the share of a slice of a tenth of a second at once and no more,
//! so that every bucket that is not smaller than that is held, and a burst at the start cannot be had.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use sandbox_core::limits::{Limits, RateLimit, TokenBucket};
use sandbox_core::{Error, Result};

/// The shortest time in which a bucket may fill, in milliseconds: two of the kernel's slices.
const SHORTEST_REFILL: u64 = 200;
/// Magic numbers (statfs(2)) of the file systems that tell the kernel who wrote what it writes to the disk later, and of
/// those that have no disk: ext2 to ext4, Btrfs, F2FS, XFS, tmpfs, ramfs.
const ATTRIBUTED: [u32; 6] = [0xEF53, 0x9123_683E, 0xF2F5_2010, 0x5846_5342, 0x0102_1994, 0x8584_58F6];

/// Per second; what is left out is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Requests.
    pub operations: Option<u64>,
}

/// What a container gets of each of the host's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// The disks, by their numbers (`MAJOR`, `MINOR`).
    pub disks: Vec<(i64, i64)>,
    /// Reading.
    pub read: Rate,
    /// Writing.
    pub write: Rate,
}

impl DiskLimits {
    /// The limits of a spec on the disks that this host has now. Without limits no disk is looked at.
    ///
    /// # Errors
    /// The host's disks cannot be listed.
    pub fn of(limits: &Limits) -> io::Result<Self> {
        if limits.disk_read.is_none() && limits.disk_write.is_none() {
            return Ok(Self::default());
        }
        Ok(Self {
            disks: disks_in(Path::new("/sys/block"))?,
            read: rate(&limits.disk_read),
            write: rate(&limits.disk_write),
        })
    }
}

/// Whole disks, which are what the kernel limits, as far as they have any content.
fn disks_in(folder: &Path) -> io::Result<Vec<(i64, i64)>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // One that is being taken away has no files any more.
        let text = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let number = |word: &str| word.trim().parse().ok();
        if text("size").trim() != "0"
            && let Some((major, minor)) = text("dev").split_once(':')
            && let (Some(major), Some(minor)) = (number(major), number(minor))
        {
            disks.push((major, minor));
        }
    }
    disks.sort_unstable();
    Ok(disks)
}

fn rate(limit: &RateLimit) -> Rate {
    let per_second = |bucket: TokenBucket| {
        let tokens = u128::from(bucket.size) * 1000 / u128::from(bucket.refill_time_ms.max(1));
        // The kernel takes 0 for no limit.
        u64::try_from(tokens).unwrap_or(u64::MAX).max(1)
    };
    Rate {
        bytes: limit.bandwidth.map(per_second),
        operations: limit.operations.map(per_second),
    }
}

/// Checks that the kernel's limits hold what the spec says.
///
/// # Errors
/// The first field of a bucket that they cannot hold.
pub fn check(limits: &Limits) -> Result<()> {
    for (field, limit) in [
        ("limits.disk_read", &limits.disk_read),
        ("limits.disk_write", &limits.disk_write),
    ] {
        for (name, bucket) in [("bandwidth", limit.bandwidth), ("operations", limit.operations)] {
            let Some(bucket) = bucket else { continue };
            if bucket.refill_time_ms < SHORTEST_REFILL {
                let context = format!("the kernel shares disks out in pieces that need {SHORTEST_REFILL} ms or more");
                return Err(Error::unsupported(format!("{field}.{name}.refill_time_ms"), context));
            }
            if bucket.one_time_burst != 0 {
                let context = "the kernel's limits of disks know no burst at the start; leave it out";
                return Err(Error::unsupported(format!("{field}.{name}.one_time_burst"), context));
            }
        }
    }
    Ok(())
}

/// Whether what is written below `path` is counted as its writer's when it reaches the disk.
pub fn attributes_writes(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| {
        ATTRIBUTED
            .iter()
            .any(|magic| i128::from(found.f_type) == i128::from(*magic))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bucket(size: u64, refill_time_ms: u64, one_time_burst: u64) -> Option<TokenBucket> {
        Some(TokenBucket {
            size,
            refill_time_ms,
            one_time_burst,
        })
    }

    fn reading(bandwidth: Option<TokenBucket>, operations: Option<TokenBucket>) -> Limits {
        Limits {
            disk_read: RateLimit { bandwidth, operations },
            ..Limits::default()
        }
    }

    #[test]
    fn a_bucket_is_a_rate_per_second() {
        let limits = DiskLimits::of(&reading(bucket(1 << 20, 500, 0), bucket(3, 60_000, 0))).unwrap();
        assert_eq!((limits.read.bytes, limits.read.operations), (Some(2 << 20), Some(1)));
        assert_eq!(limits.write, Rate::default());
        assert_eq!(DiskLimits::of(&Limits::default()).unwrap(), DiskLimits::default());
    }

    #[test]
    fn what_the_kernel_cannot_hold_is_named() {
        check(&reading(bucket(1 << 20, 1000, 0), None)).unwrap();
        let field = |limits| check(&limits).unwrap_err().field().map(str::to_owned);
        let quick = field(reading(bucket(1 << 20, 199, 0), None));
        assert_eq!(quick.as_deref(), Some("limits.disk_read.bandwidth.refill_time_ms"));
        let burst = field(reading(None, bucket(100, 1000, 1)));
        assert_eq!(burst.as_deref(), Some("limits.disk_read.operations.one_time_burst"));
    }

    #[test]
    fn disks_without_content_are_none() {
        let folder = std::env::temp_dir().join(format!("sandbox-disks-{}", std::process::id()));
        for (name, dev, size) in [("vda", "254:0", "8"), ("loop0", "7:0", "0"), ("nvme0c0n1", "", "8")] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("dev"), format!("{dev}\n")).unwrap();
            fs::write(folder.join(name).join("size"), format!("{size}\n")).unwrap();
        }
        assert_eq!(disks_in(&folder).unwrap(), [(254, 0)]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
