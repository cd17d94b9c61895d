//! What the device tells its driver of itself: features and configuration space (virtio 1.3 §5.2.3, §5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::disk::Disk;
use super::{RANGE_MAX_SECTORS, SECTOR_SIZE, SEGMENT_MAX_BYTES, SEGMENTS_MAX};

/// Length of `struct virtio_blk_config` up to the last field that has a meaning here, in bytes.
const CONFIG_LEN: usize = 60;

/// Ranges per discard or write-zeroes request.
const RANGES_MAX: u32 = 1;
/// Discards are worth while from here on, in sectors: 4 KiB, the block of most file systems.
const DISCARD_ALIGNMENT: u32 = 8;

/// What is offered for `disk`.
pub(super) fn features(disk: &Disk) -> u64 {
    let mut features = bit(VIRTIO_RING_F_EVENT_IDX)
        | bit(VIRTIO_RING_F_INDIRECT_DESC)
        | bit(VIRTIO_BLK_F_SIZE_MAX)
        | bit(VIRTIO_BLK_F_SEG_MAX)
        | bit(VIRTIO_BLK_F_BLK_SIZE);
    features |= match disk.is_read_only() {
        true => bit(VIRTIO_BLK_F_RO),
        false => bit(VIRTIO_BLK_F_FLUSH),
    };
    if disk.discards() {
        features |= bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
    }
    features
}

/// Those of `features` that this device knows, of which any disk may have been offered.
pub(super) fn kept(features: u64) -> u64 {
    let of_any_disk = [
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_RO,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
    ];
    features & of_any_disk.into_iter().fold(0, |all, feature| all | bit(feature))
}

/// Whether a driver that accepted `features` expects writes to be on stable storage when they are done.
pub(super) fn is_write_through(features: u64) -> bool {
    features & bit(VIRTIO_BLK_F_FLUSH) == 0
}

/// The configuration space of `disk` as far as `features` give it a meaning; what is not set here reads as zero.
pub(super) fn config_space(disk: &Disk, features: u64) -> [u8; CONFIG_LEN] {
    let mut space = [0; CONFIG_LEN];
    let mut put = |offset: usize, value: u32| space[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    put(0, disk.sectors() as u32);
    put(4, (disk.sectors() >> 32) as u32);
    put(8, SEGMENT_MAX_BYTES);
    put(12, SEGMENTS_MAX);
    put(20, SECTOR_SIZE as u32);
    if features & bit(VIRTIO_BLK_F_DISCARD) != 0 {
        put(36, RANGE_MAX_SECTORS);
        put(40, RANGES_MAX);
        put(44, DISCARD_ALIGNMENT);
        put(48, RANGE_MAX_SECTORS);
        put(52, RANGES_MAX);
        // write_zeroes_may_unmap, a byte.
        put(56, 1);
    }
    space
}

fn bit(feature: u32) -> u64 {
    1 << feature
}
