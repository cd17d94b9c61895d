use sandbox_core::limits::{RateLimit, TokenBucket};

use super::*;
use crate::devices::virtio::test_support::{Buffer, guest_memory, replace};

/// A card whose longest frame needs three of these tests' buffers.
fn config() -> NetConfig {
    NetConfig {
        mtu: Some(5000),
        offloads: Offloads::NONE,
        ..NetConfig::new(MAC)
    }
}

fn successor(config: NetConfig) -> (Net, File) {
    let (near, host) = frame_pair();
    let backend = PairBackend {
        socket: near,
        offloads: Arc::default(),
    };
    (Net::new(config, Box::new(backend)).unwrap(), host)
}

fn replace_card(setup: &mut Setup<'_>, new: &mut Net) -> FakeLine {
    let queues = vec![setup.receive.device_queue(true), setup.transmit.device_queue(true)];
    let features = new.features();
    replace(&mut setup.card, new, setup.memory, queues, features)
}

#[test]
fn buffers_taken_ahead_serve_the_successor() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, config());
    let heads: Vec<u16> = (0..8)
        .map(|index| {
            setup
                .receive
                .add_chain(&[Buffer::writable(BUFFERS + 0x1000 * index, 2048)])
        })
        .collect();
    setup.card.queue_notify(RECEIVE);
    setup.host_sends(b"one");
    assert_eq!(setup.receive.used_idx(), 1);

    let (mut new, mut host) = successor(config());
    replace_card(&mut setup, &mut new);
    let mut frame = vec![0; HEADER_SIZE];
    frame.extend_from_slice(b"two");
    host.write_all(&frame).unwrap();
    new.wake();

    assert_eq!(setup.receive.used_idx(), 2);
    let used: Vec<u32> = (0..2).map(|position| setup.receive.used(position).0).collect();
    assert_eq!(used, [u32::from(heads[0]), u32::from(heads[1])]);
    assert_eq!(setup.guest_bytes(BUFFERS + 0x1000 + HEADER_SIZE as u64, 3), b"two");
}

#[test]
fn the_saved_card_goes_on_as_well() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, config());
    for index in 0..8 {
        setup
            .receive
            .add_chain(&[Buffer::writable(BUFFERS + 0x1000 * index, 2048)]);
    }
    setup.card.queue_notify(RECEIVE);
    setup.host_sends(b"one");
    setup.card.save();
    setup.host_sends(b"two");
    assert_eq!(setup.receive.used_idx(), 2);
    assert_eq!(setup.guest_bytes(BUFFERS + 0x1000 + HEADER_SIZE as u64, 3), b"two");
}

#[test]
fn a_frame_that_the_rate_limit_held_back_is_not_lost() {
    let memory = guest_memory(4);
    let one_at_a_time = TokenBucket {
        size: 1,
        refill_time_ms: 3_600_000,
        one_time_burst: 0,
    };
    let config = NetConfig {
        rx_limit: RateLimit {
            operations: Some(one_at_a_time),
            ..RateLimit::default()
        },
        ..config()
    };
    let mut setup = Setup::new(&memory, config);
    for index in 0..4 {
        setup
            .receive
            .add_chain(&[Buffer::writable(BUFFERS + 0x1000 * index, 2048)]);
    }
    setup.host_sends(b"one");
    setup.host_sends(b"two");
    assert_eq!(setup.receive.used_idx(), 1, "the second waits in the card");

    let (mut new, _host) = successor(config);
    replace_card(&mut setup, &mut new);
    assert_eq!(setup.receive.used_idx(), 2);
    assert_eq!(setup.guest_bytes(BUFFERS + 0x1000 + HEADER_SIZE as u64, 3), b"two");
}

#[test]
fn frames_that_nobody_was_told_of_are_sent() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory, config());
    let (mut new, host) = successor(config());
    memory.write_slice(&[0; 64], GuestAddress(BUFFERS)).unwrap();
    setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 64)]);
    let line = replace_card(&mut setup, &mut new);
    new.wake();
    assert_eq!((setup.transmit.used_idx(), line.pulses()), (1, 1));
    setup.host = host;
    assert_eq!(setup.host_receives().unwrap().len(), 64);
}
