//! Whatever the driver writes, the card neither panics nor touches what it was not given.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::test_support::{Buffer, guest_memory};

/// Memory that no descriptor of these tests offers for writing.
const CANARY: u64 = 0x18_0000;
const CANARY_SIZE: usize = 0x1_0000;
const MEMORY_SIZE: u64 = 2 << 20;

#[test]
fn a_receive_buffer_too_small_for_a_header_is_given_back_unused() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(
        &memory,
        NetConfig {
            offloads: Offloads::NONE,
            ..NetConfig::new(MAC)
        },
    );
    setup.receive.add_chain(&[Buffer::writable(BUFFERS, 11)]);
    setup.receive.add_chain(&[Buffer::readable(BUFFERS, 1536)]);
    setup.receive.add_chain(&[Buffer::writable(MEMORY_SIZE - 1, 1536)]);
    let good = setup.receive.add_chain(&[Buffer::writable(BUFFERS, 1536)]);
    kick(&mut setup.card, RECEIVE);
    setup.host_sends(b"ping");
    let used: Vec<_> = (0..setup.receive.used_idx())
        .map(|position| setup.receive.used(position))
        .collect();
    assert_eq!(used, [(0, 0), (1, 0), (2, 0), (u32::from(good), 16)]);
    assert_eq!(setup.card.counters().read().dropped_frames, 3);
}

#[test]
fn an_index_that_jumps_breaks_this_queue_only() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(
        &memory,
        NetConfig {
            offloads: Offloads::NONE,
            ..NetConfig::new(MAC)
        },
    );
    setup.transmit.set_avail_idx(QUEUE_SIZE + 1);
    kick(&mut setup.card, TRANSMIT);
    kick(&mut setup.card, TRANSMIT);
    assert_eq!(setup.transmit.used_idx(), 0);
    assert!(setup.interrupt.needs_reset());
    setup.receive.add_chain(&[Buffer::writable(BUFFERS, 1536)]);
    kick(&mut setup.card, RECEIVE);
    setup.host_sends(b"ping");
    assert_eq!(setup.receive.used_idx(), 1);
}

#[test]
fn an_indirect_table_longer_than_the_queue_is_not_walked() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    let entry = Buffer::readable(BUFFERS, 1);
    setup
        .transmit
        .add_indirect_chain(BUFFERS + 0x1_0000, &vec![entry; usize::from(QUEUE_SIZE) + 1]);
    setup
        .transmit
        .add_indirect_chain(BUFFERS + 0x2_0000, &vec![entry; usize::from(QUEUE_SIZE)]);
    kick(&mut setup.card, TRANSMIT);
    assert_eq!(
        setup.host_receives().map(|frame| frame.len()),
        Some(usize::from(QUEUE_SIZE))
    );
    assert_eq!((setup.host_receives(), setup.transmit.used_idx()), (None, 2));
}

#[test]
fn many_tiny_buffers_stay_within_what_the_kernel_takes() {
    let memory = guest_memory(2);
    let mut setup = Setup::new(&memory, NetConfig::new(MAC));
    let table = vec![Buffer::writable(BUFFERS, 1); usize::from(QUEUE_SIZE)];
    for index in 0..8 {
        setup
            .receive
            .add_indirect_chain(BUFFERS + 0x1_0000 + 0x1000 * index, &table);
    }
    kick(&mut setup.card, RECEIVE);
    setup.host_sends(&[7; 100]);
    assert_eq!((setup.receive.used_idx(), setup.receive.used(0)), (1, (0, 112)));
}

/// A descriptor as a hostile driver may write it: sane ones, too, so that the paths behind the checks are reached.
fn buffer() -> impl Strategy<Value = (Buffer, Option<u16>)> {
    let address = prop_oneof![
        8 => (0u64..0x800).prop_map(|page| BUFFERS + page * 0x100),
        1 => Just(MEMORY_SIZE - 8),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => 0u32..2048, 1 => 0u32..0x2_0000, 1 => any::<u32>()];
    let flags = prop_oneof![4 => Just(0u16), 4 => Just(2u16), 1 => Just(4u16), 1 => any::<u16>()];
    let next = prop_oneof![3 => Just(None), 2 => (0u16..QUEUE_SIZE).prop_map(Some), 1 => any::<u16>().prop_map(Some)];
    (address, len, flags, next).prop_map(|(address, len, flags, next)| {
        // What the device may write must not reach the canary.
        let reaches_canary = address < CANARY + CANARY_SIZE as u64 && address.saturating_add(u64::from(len)) > CANARY;
        let flags = if reaches_canary { 0 } else { flags };
        (Buffer { address, len, flags }, next)
    })
}

#[derive(Clone, Debug)]
enum Step {
    Describe(bool, u16, Buffer, Option<u16>),
    Offer(bool, u16),
    JumpTo(bool, u16),
    Kick(u16),
    HostSends(usize),
    Event(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let describe = (any::<bool>(), 0..QUEUE_SIZE, buffer());
    prop_oneof![
        30 => describe.prop_map(|(receive, index, (buffer, next))| Step::Describe(receive, index, buffer, next)),
        30 => (any::<bool>(), 0u16..QUEUE_SIZE).prop_map(|(receive, head)| Step::Offer(receive, head)),
        1 => (any::<bool>(), any::<u16>()).prop_map(|(receive, head)| Step::Offer(receive, head)),
        1 => (any::<bool>(), any::<u16>()).prop_map(|(receive, idx)| Step::JumpTo(receive, idx)),
        15 => (0u16..3).prop_map(Step::Kick),
        15 => (0usize..3000).prop_map(Step::HostSends),
        5 => (0u32..5).prop_map(Step::Event),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_lies_harms_the_host(
        features in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let memory = guest_memory(MEMORY_SIZE >> 20);
        memory.write_slice(&[0xa5; CANARY_SIZE], GuestAddress(CANARY)).unwrap();
        let config = NetConfig::new(MAC);
        let mut setup = Setup::with_features(&memory, config, features & config.features());
        let (mut offered, mut jumped) = ([0u16; 2], false);
        for step in steps {
            match step {
                Step::Describe(true, index, buffer, next) => setup.receive.set_descriptor(index, buffer, next),
                Step::Describe(false, index, buffer, next) => setup.transmit.set_descriptor(index, buffer, next),
                Step::Offer(true, head) => {
                    setup.receive.make_available(head);
                    offered[0] += 1;
                }
                Step::Offer(false, head) => {
                    setup.transmit.make_available(head);
                    offered[1] += 1;
                }
                Step::JumpTo(receive, idx) => {
                    let queue = if receive { &setup.receive } else { &setup.transmit };
                    queue.set_avail_idx(idx);
                    jumped = true;
                }
                Step::Kick(queue) => kick(&mut setup.card, queue),
                Step::HostSends(length) => setup.host_sends(&vec![1; length]),
                Step::Event(token) => tell(&mut setup.card, token),
            }
            while setup.host_receives().is_some() {}
        }
        let canary = setup.guest_bytes(CANARY, CANARY_SIZE);
        prop_assert!(canary.iter().all(|byte| *byte == 0xa5));
        if !jumped {
            prop_assert!(setup.receive.used_idx() <= offered[0] && setup.transmit.used_idx() <= offered[1]);
        }
    }
}
