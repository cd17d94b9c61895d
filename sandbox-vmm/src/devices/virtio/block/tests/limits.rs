//! How much a disk does at a time, and how fast.

use sandbox_core::limits::TokenBucket;
use virtio_bindings::virtio_blk::*;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;
use crate::devices::virtio::Progress;
use crate::devices::virtio::test_support::guest_memory;

fn limited(rate_limit: RateLimit) -> BlockConfig {
    BlockConfig {
        rate_limit,
        ..config(image())
    }
}

/// `size` tokens that come back within `refill_time_ms`.
fn bucket(size: u64, refill_time_ms: u64) -> Option<TokenBucket> {
    Some(TokenBucket {
        size,
        refill_time_ms,
        one_time_burst: 0,
    })
}

/// Waits until one of the device's descriptors is readable, and tells the device as the event loop does.
fn serve_next_event(bench: &mut Bench<'_>) {
    let events = bench.device.host_events();
    let epoll = Epoll::new().unwrap();
    for event in &events {
        let watch = EpollEvent::new(EventSet::IN, u64::from(event.token));
        epoll.ctl(ControlOperation::Add, event.fd, watch).unwrap();
    }
    let mut ready = [EpollEvent::default()];
    assert_eq!(epoll.wait(10_000, &mut ready).unwrap(), 1, "no event came");
    tell(&mut bench.device, ready[0].data() as u32);
}

#[test]
fn only_a_limited_disk_needs_the_event_loop() {
    let unlimited = BlockDevice::new(config(image())).unwrap();
    assert_eq!(unlimited.host_events(), []);
    let limit = RateLimit {
        operations: bucket(1, 1),
        ..RateLimit::default()
    };
    assert_eq!(BlockDevice::new(limited(limit)).unwrap().host_events().len(), 1);
}

#[test]
fn operations_beyond_the_limit_wait_for_the_timer() {
    let memory = guest_memory(2);
    let limit = RateLimit {
        operations: bucket(3, 60),
        ..RateLimit::default()
    };
    let mut bench = Bench::with_config(&memory, limited(limit));
    for _ in 0..5 {
        bench.submit(VIRTIO_BLK_T_FLUSH, 0, &[]);
    }
    bench.kick();
    let at_once = bench.driver.used_idx();
    assert!((3..5).contains(&at_once), "{at_once}");
    assert_eq!(bench.line.pulses(), 1, "what is done is told before the rest waits");
    while bench.driver.used_idx() < 5 {
        bench.kick();
        serve_next_event(&mut bench);
    }
    assert_eq!(bench.device.counters().read().flushes, 5);
}

#[test]
fn bytes_are_limited_and_a_reset_does_not_fill_the_bucket() {
    let memory = guest_memory(2);
    // A bucket that takes hours to fill: only what is in it can be spent during the test.
    let limit = RateLimit {
        bandwidth: bucket(2048, 10_000_000),
        ..RateLimit::default()
    };
    let mut bench = Bench::with_config(&memory, limited(limit));
    let data = [Buffer::writable(DATA, 1024)];
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &data).0, OK);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &data).0, OK);
    for _ in 0..3 {
        bench.submit(VIRTIO_BLK_T_IN, 0, &data);
        bench.kick();
        assert_eq!(bench.status(), UNWRITTEN);
        bench.device.reset();
        bench.activate();
    }
    // Requests that move nothing are not held up once the waiting one is gone.
    tell(&mut bench.device, RATE_LIMIT);
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
}

#[test]
fn a_call_ends_after_its_share_and_the_next_one_goes_on() {
    let memory = guest_memory(2);
    let mut bench = Bench::new(&memory);
    let share = (CALL_MAX_BYTES / REQUEST_MAX_BYTES) as u16;
    for _ in 0..share + 3 {
        bench.submit(VIRTIO_BLK_T_FLUSH, 0, &[]);
    }
    assert_eq!(bench.device.queue_notify(0), Progress::More);
    assert_eq!(bench.driver.used_idx(), share);
    assert_eq!(bench.device.queue_notify(0), Progress::Waiting);
    assert_eq!(bench.driver.used_idx(), share + 3);
    assert_eq!(
        bench.driver.avail_event(),
        share + 3,
        "the next request is announced by a kick again"
    );
}

#[test]
fn a_limit_that_lets_nothing_through_is_refused() {
    let limit = RateLimit {
        bandwidth: bucket(0, 1),
        ..RateLimit::default()
    };
    assert!(matches!(
        BlockDevice::new(limited(limit)),
        Err(BlockError::RateLimit(_))
    ));
}
