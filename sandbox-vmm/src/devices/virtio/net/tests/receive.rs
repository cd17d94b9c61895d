//! From the host to the driver.

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::devices::virtio::net::config::bit;
use crate::devices::virtio::test_support::{Buffer, guest_memory};

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const LARGE_FRAMES: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;

impl Setup<'_> {
    /// The driver brings `count` buffers of `len` bytes, `stride` apart, and kicks.
    fn bring_buffers(&mut self, count: u64, len: u32, stride: u64) {
        for index in 0..count {
            self.receive
                .add_chain(&[Buffer::writable(BUFFERS + stride * index, len)]);
        }
        kick(&mut self.card, RECEIVE);
    }

    /// `num_buffers` of the header at `address`.
    fn num_buffers(&self, address: u64) -> u16 {
        let bytes = self.guest_bytes(address + 10, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }
}

#[test]
fn a_frame_fills_one_buffer_and_says_so() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX);
    setup.bring_buffers(4, 1536, 0x1000);
    setup.host_sends(b"ping");
    assert_eq!((setup.receive.used_idx(), setup.receive.used(0)), (1, (0, 16)));
    assert_eq!(setup.guest_bytes(BUFFERS, 10), [0xee; 10]);
    assert_eq!(setup.num_buffers(BUFFERS), 1);
    assert_eq!(setup.guest_bytes(BUFFERS + 12, 4), b"ping");
    assert_eq!(setup.line.pulses(), 1);
    let stats = setup.card.counters().read();
    assert_eq!((stats.received_frames, stats.received_bytes), (1, 4));
}

#[test]
fn a_large_frame_fills_as_many_buffers_as_it_needs() {
    let memory = guest_memory(4);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX | LARGE_FRAMES);
    setup.bring_buffers(100, 1000, 1000);
    let payload: Vec<u8> = (0..60_000u32).map(|index| (index % 251) as u8).collect();
    setup.host_sends(&payload);
    assert_eq!(setup.receive.used_idx(), 61);
    let lengths: Vec<u32> = (0..61).map(|position| setup.receive.used(position).1).collect();
    assert_eq!(
        (lengths[..60].iter().all(|length| *length == 1000), lengths[60]),
        (true, 12)
    );
    assert_eq!(setup.num_buffers(BUFFERS), 61);
    assert_eq!(setup.guest_bytes(BUFFERS + 12, payload.len()), payload);
    assert_eq!(setup.line.pulses(), 1);
}

#[test]
fn a_large_frame_waits_until_it_fits() {
    let memory = guest_memory(4);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX | LARGE_FRAMES);
    setup.bring_buffers(15, 4096, 4096);
    setup.host_sends(&[7; 65_000]);
    assert_eq!(setup.receive.used_idx(), 0);
    assert_eq!(setup.receive.avail_event(), 15, "the next buffer is to be kicked");
    setup.bring_buffers(2, 4096, 4096);
    assert_eq!(setup.receive.used_idx(), 16);
}

#[test]
fn a_driver_with_a_small_queue_gets_its_frames_all_the_same() {
    let memory = guest_memory(4);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | LARGE_FRAMES);
    let small = DriverQueue::new(&memory, 0xc000, 4);
    setup.receive = small;
    let queues = vec![setup.receive.device_queue(false), setup.transmit.device_queue(false)];
    let (activation, _) = activation(&memory, queues, MERGEABLE | LARGE_FRAMES);
    setup.card.reset();
    setup.card.activate(activation).unwrap();
    setup.card.wake();
    setup.bring_buffers(4, 2048, 2048);
    setup.host_sends(b"ping");
    assert_eq!((setup.receive.used_idx(), setup.receive.used(0)), (1, (0, 16)));
}

#[test]
fn without_mergeable_buffers_a_frame_has_one_chain() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), EVENT_IDX);
    for index in 0..2 {
        let header = Buffer::writable(BUFFERS + 0x1000 * index, 12);
        let payload = Buffer::writable(BUFFERS + 0x1000 * index + 0x800, 1514);
        setup.receive.add_chain(&[header, payload]);
    }
    kick(&mut setup.card, RECEIVE);
    setup.host_sends(b"one");
    setup.host_sends(b"three");
    assert_eq!([setup.receive.used(0), setup.receive.used(1)], [(0, 15), (2, 17)]);
    assert_eq!([0, 1].map(|index| setup.num_buffers(BUFFERS + 0x1000 * index)), [1, 1]);
    assert_eq!(setup.guest_bytes(BUFFERS + 0x1800, 5), b"three");
}

#[test]
fn a_header_split_over_buffers_is_filled_correctly() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), 0);
    let pieces = [(0, 11), (0x100, 1), (0x200, 1514)];
    let buffers = pieces.map(|(offset, len)| Buffer::writable(BUFFERS + offset, len));
    setup.receive.add_chain(&buffers);
    kick(&mut setup.card, RECEIVE);
    setup.host_sends(b"x");
    assert_eq!(
        (
            setup.guest_bytes(BUFFERS + 10, 1),
            setup.guest_bytes(BUFFERS + 0x100, 1)
        ),
        (vec![1], vec![0])
    );
    assert_eq!(setup.guest_bytes(BUFFERS + 0x200, 1), b"x");
}

#[test]
fn frames_wait_in_the_tap_until_the_driver_brings_buffers() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX);
    setup.host_sends(b"first");
    setup.host_sends(b"second");
    assert_eq!((setup.receive.used_idx(), setup.line.pulses()), (0, 0));
    setup.bring_buffers(4, 1536, 0x1000);
    assert_eq!((setup.receive.used_idx(), setup.line.pulses()), (2, 1));
    assert_eq!(setup.guest_bytes(BUFFERS + 0x100c, 6), b"second");
}

#[test]
fn one_event_brings_everything_that_waits() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX);
    setup.bring_buffers(64, 1536, 0x1000);
    for index in 0..50 {
        setup.queue_in_tap(&[index]);
    }
    tell(&mut setup.card, TAP_READABLE);
    assert_eq!((setup.receive.used_idx(), setup.line.pulses()), (50, 1));
}

#[test]
fn more_than_one_calls_share_is_continued_without_another_edge() {
    let memory = guest_memory(4);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE | EVENT_IDX);
    setup.bring_buffers(u64::from(QUEUE_SIZE), 1536, 1536);
    for _ in 0..QUEUE_SIZE {
        setup.queue_in_tap(b"x");
    }
    assert_eq!(setup.card.host_event(TAP_READABLE), Progress::More);
    assert_eq!(setup.receive.used_idx(), QUEUE_SIZE);
    // Frames and buffers that come before the next call.
    for _ in 0..44 {
        setup.queue_in_tap(b"x");
        setup.receive.add_chain(&[Buffer::writable(BUFFERS, 1536)]);
    }
    assert_eq!(setup.card.host_event(TAP_READABLE), Progress::Waiting);
    assert_eq!(setup.receive.used_idx(), QUEUE_SIZE + 44);
}

#[test]
fn a_driver_without_event_index_is_asked_for_kicks_only_while_buffers_are_missing() {
    let memory = guest_memory(2);
    let mut setup = Setup::with_features(&memory, NetConfig::new(MAC), MERGEABLE);
    let used_ring = setup.receive.addresses()[2];
    let no_kicks = |setup: &Setup<'_>| setup.guest_bytes(used_ring, 1) == [1];
    assert!(!no_kicks(&setup));
    setup.bring_buffers(1, 1536, 0x1000);
    assert!(no_kicks(&setup));
    setup.host_sends(b"takes the only buffer");
    setup.host_sends(b"finds none");
    assert!(!no_kicks(&setup));
}

#[test]
fn offloads_follow_each_driver_and_the_card_forgets_the_last_one() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    setup.bring_buffers(64, 1536, 0x1000);
    setup.card.reset();
    setup.card.reset();
    setup.host_sends(b"nobody listens");
    assert_eq!(setup.receive.used_idx(), 0);

    setup.receive = DriverQueue::new(&memory, 0x1000, QUEUE_SIZE);
    let queues = vec![setup.receive.device_queue(false), setup.transmit.device_queue(false)];
    let (activation, line) = activation(&memory, queues, bit(VIRTIO_NET_F_GUEST_CSUM));
    setup.receive.add_chain(&[Buffer::writable(BUFFERS, 1536)]);
    setup.card.activate(activation).unwrap();
    setup.card.wake();
    assert_eq!(
        (setup.receive.used_idx(), line.pulses()),
        (1, 1),
        "what waited is delivered"
    );
    let all = Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6;
    assert_eq!(*setup.offloads.lock().unwrap(), [all, Offloads::CSUM]);
}

#[test]
fn a_card_without_both_queues_is_not_activated() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    setup.card.reset();
    let unready = virtio_queue::Queue::default();
    let (activation, _) = activation(&memory, vec![setup.receive.device_queue(false), unready], 0);
    let error = setup.card.activate(activation).unwrap_err();
    assert_eq!(error.to_string(), "queue 1 is not ready");
}

#[test]
fn the_configuration_space_holds_the_mac_and_the_mtu() {
    let mut config = NetConfig::new(MAC);
    config.mtu = Some(1400);
    let memory = guest_memory(2);
    let setup = Setup::new(&memory, config);
    let mut space = [9; 16];
    setup.card.read_config(0, &mut space);
    assert_eq!(space, [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x78, 5, 0, 0, 0, 0]);
}
