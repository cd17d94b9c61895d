//! Limits of disks and networks hold. Each test counts what passed and compares the time that it took with the least
//! that the bucket allows: `n` tokens out of a bucket that begins with `size` take at least the time in which `n - size`
//! of them trickle in.

use std::time::{Duration, Instant};

use sandbox::Exit;
use sandbox::limits::{RateLimit, TokenBucket};
use sandbox::spec::{DiskSpec, NetworkSpec};

use super::network::{server, serving};
use super::support::network::{GUEST, Pinger, in_namespace, network};
use super::support::{PATIENCE, TempFolder, bare, console_text, created};

fn least_time(bucket: TokenBucket, tokens: u64) -> Duration {
    let trickled = tokens
        .checked_sub(bucket.size)
        .expect("too few tokens to tell a limit by");
    let nanos = u128::from(trickled) * u128::from(bucket.refill_time_ms) * 1_000_000 / u128::from(bucket.size);
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

fn bucket(size: u64, refill_time_ms: u64) -> TokenBucket {
    TokenBucket {
        size,
        refill_time_ms,
        one_time_burst: 0,
    }
}

fn operations(bucket: TokenBucket) -> RateLimit {
    RateLimit {
        operations: Some(bucket),
        bandwidth: None,
    }
}

fn bandwidth(bucket: TokenBucket) -> RateLimit {
    RateLimit {
        bandwidth: Some(bucket),
        operations: None,
    }
}

/// Runs the disk guest under `limit`; gives the requests and bytes that passed, and the time.
fn check_disk(limit: RateLimit) -> (u64, u64, Duration) {
    let folder = TempFolder::new();
    let mut spec = bare("disk-check", &["sectors=256"]);
    spec.disks = vec![DiskSpec {
        id: "slow".to_owned(),
        path: folder.file("disk", &vec![0; 256 * 512]),
        rate_limit: limit,
        ..DiskSpec::default()
    }];
    let sandbox = created(&spec);
    let begin = Instant::now();
    sandbox.start().unwrap();
    assert_eq!(
        sandbox.wait(Some(PATIENCE)).unwrap(),
        Exit::Code(0),
        "{}",
        console_text(&*sandbox)
    );
    let elapsed = begin.elapsed();
    let disk = sandbox.stats().unwrap().disks[0].clone();
    (disk.reads + disk.writes, disk.read_bytes + disk.written_bytes, elapsed)
}

#[test]
fn a_disk_holds_its_limit_of_operations() {
    let bucket = bucket(4, 40);
    let (requests, _, elapsed) = check_disk(operations(bucket));
    assert!(
        elapsed >= least_time(bucket, requests),
        "{requests} requests in {elapsed:?}"
    );
}

#[test]
fn a_disk_holds_its_limit_of_bandwidth() {
    let bucket = bucket(32 << 10, 50);
    let (_, bytes, elapsed) = check_disk(bandwidth(bucket));
    assert!(elapsed >= least_time(bucket, bytes), "{bytes} bytes in {elapsed:?}");
}

/// Pings a guest whose card has these limits until `count` echoes came back; gives the time.
fn check_network(limit: impl FnOnce(&mut NetworkSpec), count: u64) -> Duration {
    let mut network = network();
    limit(&mut network);
    let sandbox = serving(&server(network));
    let mut pinger = Pinger::new(GUEST);
    let begin = Instant::now();
    let before = sandbox.stats().unwrap().networks[0].clone();
    for _ in 0..count {
        pinger.ping(PING_BYTES);
    }
    let elapsed = begin.elapsed();
    let after = sandbox.stats().unwrap().networks[0].clone();
    assert!(after.sent_frames - before.sent_frames >= count, "{before:?} {after:?}");
    assert!(
        after.received_frames - before.received_frames >= count,
        "{before:?} {after:?}"
    );
    // Until its tap is gone there are two routes to the guest's address, and the next echo request may take the old one.
    sandbox.teardown().wait(PATIENCE).unwrap();
    elapsed
}

const PING_BYTES: usize = 958;
/// With Ethernet, IPv4 and ICMP headers.
const PING_FRAME: u64 = 1000;

#[test]
fn a_card_holds_its_limits_in_either_direction() {
    in_namespace(|| {
        let (frames, bytes) = (bucket(5, 50), bucket(5 * PING_FRAME, 50));
        let least = least_time(frames, 20);
        assert_eq!(least, least_time(bytes, 20 * PING_FRAME));
        let sent = check_network(|network| network.send_limit = operations(frames), 20);
        assert!(sent >= least, "20 frames sent in {sent:?}");
        let received = check_network(|network| network.receive_limit = operations(frames), 20);
        assert!(received >= least, "20 frames received in {received:?}");
        let sent = check_network(|network| network.send_limit = bandwidth(bytes), 20);
        assert!(sent >= least, "20 kB sent in {sent:?}");
        let received = check_network(|network| network.receive_limit = bandwidth(bytes), 20);
        assert!(received >= least, "20 kB received in {received:?}");
    });
}
