//! From the driver to the host.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::net::MAX_FRAME_SIZE;
use crate::devices::virtio::test_support::{Buffer, guest_memory};

#[test]
fn a_frame_in_pieces_reaches_the_host_as_one() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    memory.write_slice(b"header-12-by", GuestAddress(BUFFERS)).unwrap();
    memory.write_slice(b"pay", GuestAddress(BUFFERS + 0x1000)).unwrap();
    memory.write_slice(b"load", GuestAddress(BUFFERS + 0x2000)).unwrap();
    let head = setup.transmit.add_chain(&[
        Buffer::readable(BUFFERS, 12),
        Buffer::readable(BUFFERS + 0x1000, 3),
        Buffer::readable(BUFFERS + 0x2000, 4),
    ]);
    kick(&mut setup.card, TRANSMIT);

    assert_eq!(setup.host_receives().unwrap(), b"header-12-bypayload");
    assert_eq!(setup.host_receives(), None);
    assert_eq!(
        (setup.transmit.used_idx(), setup.transmit.used(0)),
        (1, (u32::from(head), 0))
    );
    assert_eq!(setup.transmit.avail_event(), 1, "the next frame is to be kicked");
    assert_eq!(setup.line.pulses(), 1);
    let stats = setup.card.counters().read();
    assert_eq!((stats.sent_frames, stats.sent_bytes, stats.dropped_frames), (1, 7, 0));
}

#[test]
fn one_kick_sends_all_that_is_available_with_one_interrupt() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    for index in 0..20u8 {
        let address = BUFFERS + 0x1000 * u64::from(index);
        memory.write_slice(&[index; 60], GuestAddress(address)).unwrap();
        let table = BUFFERS + 0x8_0000 + 0x100 * u64::from(index);
        let buffers = [Buffer::readable(address, 30), Buffer::readable(address + 30, 30)];
        setup.transmit.add_indirect_chain(table, &buffers);
    }
    kick(&mut setup.card, TRANSMIT);
    for index in 0..20u8 {
        assert_eq!(setup.host_receives().unwrap(), [index; 60]);
    }
    assert_eq!((setup.transmit.used_idx(), setup.line.pulses()), (20, 1));
}

#[test]
fn a_driver_that_waits_for_a_later_frame_is_not_interrupted_for_this_one() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    setup.transmit.set_used_event(1);
    for interrupts in [0, 1] {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 60)]);
        kick(&mut setup.card, TRANSMIT);
        assert_eq!(setup.line.pulses(), interrupts);
    }
}

#[test]
fn frames_of_impossible_length_are_dropped_and_their_buffers_given_back() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    let longest = MAX_FRAME_SIZE as u32;
    for (length, arrives) in [(11, false), (12, true), (longest, true), (longest + 1, false)] {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, length)]);
        kick(&mut setup.card, TRANSMIT);
        assert_eq!(
            setup.host_receives().map(|frame| frame.len() as u32),
            arrives.then_some(length)
        );
    }
    assert_eq!(setup.transmit.used_idx(), 4);
    assert_eq!(setup.card.counters().read().dropped_frames, 2);
}

#[test]
fn a_host_without_room_costs_frames_but_no_buffers() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    // More than the socket holds, and nobody reads.
    for _ in 0..32 {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 60_000)]);
    }
    kick(&mut setup.card, TRANSMIT);
    let stats = setup.card.counters().read();
    assert_eq!(setup.transmit.used_idx(), 32);
    assert!(stats.dropped_frames > 0 && stats.sent_frames > 0, "{stats:?}");
    assert_eq!(stats.dropped_frames + stats.sent_frames, 32);
}

#[test]
fn a_full_queue_is_left_after_one_calls_share() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    for _ in 0..QUEUE_SIZE {
        setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 12)]);
    }
    assert_eq!(setup.card.queue_notify(TRANSMIT), Progress::More);
    // Before the next call another vCPU adds more, without a kick: none was asked for.
    setup.transmit.add_chain(&[Buffer::readable(BUFFERS, 13)]);
    assert_eq!(setup.card.queue_notify(TRANSMIT), Progress::Waiting);
    assert_eq!(setup.transmit.used_idx(), QUEUE_SIZE + 1);
    assert_eq!(setup.transmit.avail_event(), QUEUE_SIZE + 1);
}
