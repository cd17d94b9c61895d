//! A disk that takes another one's place.

use sandbox_core::limits::TokenBucket;
use virtio_bindings::virtio_blk::*;

use super::*;
use crate::devices::virtio::test_support::{guest_memory, replace};
use crate::devices::virtio::{DeviceState, RestoreError};

fn succeed(bench: &mut Bench<'_>, config: BlockConfig) {
    bench.file = config.file.try_clone().unwrap();
    let mut new = BlockDevice::new(config).unwrap();
    let queues = vec![bench.driver.device_queue(true)];
    replace(&mut bench.device, &mut new, bench.memory, queues, FEATURES);
    bench.device = new;
    bench.device.wake();
}

#[test]
fn a_request_that_nobody_was_told_of_is_carried_out_once() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
    bench.put(DATA, &[0x5a; 512]);
    let head = bench.submit(VIRTIO_BLK_T_OUT, 3, &[Buffer::readable(DATA, 512)]);
    succeed(&mut bench, config(image()));
    assert_eq!(
        (bench.driver.used_idx(), bench.driver.used(1)),
        (2, (u32::from(head), 1))
    );
    assert_eq!((bench.status(), bench.on_disk(3, 512)), (OK, vec![0x5a; 512]));
    bench.device.wake();
    assert_eq!(bench.driver.used_idx(), 2);
}

#[test]
fn a_request_that_the_rate_limit_held_back_is_carried_out_by_the_successor() {
    let memory = guest_memory(2);
    let one_an_hour = BlockConfig {
        rate_limit: RateLimit {
            operations: Some(TokenBucket {
                size: 1,
                refill_time_ms: 3_600_000,
                one_time_burst: 0,
            }),
            ..RateLimit::default()
        },
        ..config(image())
    };
    let mut bench = Bench::with_config(&memory, one_an_hour);
    for sector in [1, 2] {
        bench.submit(VIRTIO_BLK_T_IN, sector, &[Buffer::writable(DATA, 512)]);
    }
    bench.kick();
    assert_eq!(bench.driver.used_idx(), 1);
    succeed(&mut bench, config(image()));
    assert_eq!((bench.driver.used_idx(), bench.status()), (2, OK));
    assert_eq!(bench.get(DATA, 512), pattern(2));
}

#[test]
fn a_clone_that_may_only_read_keeps_its_features_and_fails_its_writes() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let offered = bench.device.features();
    let read_only = BlockConfig {
        read_only: true,
        ..config(image())
    };
    succeed(&mut bench, read_only);
    assert_eq!(bench.device.features(), offered);
    let (status, _) = bench.request(VIRTIO_BLK_T_OUT, 3, &[Buffer::readable(DATA, 512)]);
    assert_eq!(status, VIRTIO_BLK_S_IOERR as u8);
    assert_eq!(bench.on_disk(3, 512), pattern(3));
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 3, &[Buffer::writable(DATA, 512)]).0, OK);
}

#[test]
fn a_disk_of_another_size_is_refused() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let file = image();
    file.set_len((SECTORS - 1) * SECTOR_SIZE).unwrap();
    let state = bench.device.save().state;
    let error = BlockDevice::new(config(file)).unwrap().restore(&state).unwrap_err();
    assert!(
        matches!(error, RestoreError::DiskSize { saved: SECTORS, .. }),
        "{error}"
    );
}

#[test]
fn features_that_this_device_does_not_know_are_not_offered() {
    let mut device = BlockDevice::new(config(image())).unwrap();
    let state = BlockState {
        sectors: SECTORS,
        features: u64::MAX,
        written: Written::default(),
    };
    device.restore(&DeviceState::Block(state)).unwrap();
    assert_eq!(device.features() & (1 << VIRTIO_BLK_F_MQ), 0);
}
