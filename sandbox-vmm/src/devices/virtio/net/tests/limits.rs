//! Rate limits of both directions.

use sandbox_core::limits::{RateLimit, TokenBucket};

use super::*;
use crate::devices::virtio::test_support::{Buffer, guest_memory};

/// Two operations, and another two each 100 ms.
fn two_operations() -> RateLimit {
    RateLimit {
        operations: Some(TokenBucket {
            size: 2,
            refill_time_ms: 100,
            one_time_burst: 0,
        }),
        bandwidth: None,
    }
}

#[test]
fn what_the_guest_sends_beyond_its_limit_waits_for_the_timer() {
    let memory = guest_memory(2);
    let config = NetConfig {
        tx_limit: two_operations(),
        ..NetConfig::new(MAC)
    };
    let mut setup = Setup::new(&memory, config);
    for _ in 0..3 {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 60)]);
    }
    kick(&mut setup.card, TRANSMIT);
    assert_eq!(setup.transmit.used_idx(), 2);
    // Kicks do not help.
    setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 60)]);
    kick(&mut setup.card, TRANSMIT);
    while setup.transmit.used_idx() < 4 {
        assert!(setup.announces(TRANSMIT_LIMIT, PATIENCE));
        tell(&mut setup.card, TRANSMIT_LIMIT);
    }
    let stats = setup.card.counters().read();
    assert_eq!((stats.sent_frames, stats.dropped_frames), (4, 0));
}

#[test]
fn what_the_guest_receives_beyond_its_limit_waits_for_the_timer() {
    let memory = guest_memory(2);
    let config = NetConfig {
        rx_limit: two_operations(),
        offloads: Offloads::NONE,
        ..NetConfig::new(MAC)
    };
    let mut setup = Setup::new(&memory, config);
    for index in 0..8 {
        setup
            .receive
            .add_chain(&[Buffer::writable(BUFFERS + 0x1000 * index, 1536)]);
    }
    kick(&mut setup.card, RECEIVE);
    for index in 0..4 {
        setup.queue_in_tap(&[index]);
    }
    tell(&mut setup.card, TAP_READABLE);
    assert_eq!(setup.receive.used_idx(), 2);
    setup.host_sends(&[4]);
    assert_eq!(setup.receive.used_idx(), 2);
    while setup.receive.used_idx() < 5 {
        assert!(setup.announces(RECEIVE_LIMIT, PATIENCE));
        tell(&mut setup.card, RECEIVE_LIMIT);
    }
    for index in 0..5u8 {
        let address = BUFFERS + 0x1000 * u64::from(index) + HEADER_SIZE as u64;
        assert_eq!(setup.guest_bytes(address, 1), [index], "in order, none lost");
    }
}

#[test]
fn a_bandwidth_limit_counts_bytes() {
    let memory = guest_memory(2);
    let bandwidth = Some(TokenBucket {
        size: 1000,
        refill_time_ms: 3_600_000,
        one_time_burst: 0,
    });
    let config = NetConfig {
        tx_limit: RateLimit {
            bandwidth,
            operations: None,
        },
        ..NetConfig::new(MAC)
    };
    let mut setup = Setup::new(&memory, config);
    for _ in 0..3 {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 412)]);
    }
    kick(&mut setup.card, TRANSMIT);
    assert_eq!(setup.transmit.used_idx(), 2);
    assert!(!setup.announces(TRANSMIT_LIMIT, 0));
}

#[test]
fn a_card_without_limits_has_no_timers() {
    let memory = guest_memory(2);
    let setup = Setup::new(&memory, NetConfig::new(MAC));
    let tokens: Vec<u32> = setup.card.host_events().iter().map(|event| event.token).collect();
    assert_eq!(tokens, [TAP_READABLE]);
}

#[test]
fn a_limit_that_stops_everything_is_refused() {
    let mut config = NetConfig::new(MAC);
    config.rx_limit.bandwidth = Some(TokenBucket {
        size: 0,
        refill_time_ms: 1,
        one_time_burst: 0,
    });
    let backend = PairBackend {
        socket: frame_pair().0,
        offloads: Arc::default(),
    };
    let error = Net::new(config, Box::new(backend)).err().unwrap();
    assert_eq!(error.to_string(), "rate limit of what the guest receives");
}
