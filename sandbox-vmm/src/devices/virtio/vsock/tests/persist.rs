use std::sync::mpsc;

use super::*;
use crate::devices::virtio::test_support::replace;
use crate::devices::virtio::vsock::{IDENTITY_PORT, OnConfirmed};
use crate::devices::virtio::{DeviceState, RestoreError};
use crate::renewal::Parts;
use crate::renewal::record::RECORD_SIZE;

const EVENT_BUFFER: u64 = 0x2_0000;

/// Takes the place of the device of `setup`, in a directory of its own.
fn succeed(setup: &mut Setup<'_>, event_buffers: usize) {
    succeed_as(setup, event_buffers, None, Box::new(|_| ()));
}

/// The same as a clone, whose guest is to be told of its identity. Returns what a program in it uses of that.
fn succeed_as(
    setup: &mut Setup<'_>,
    event_buffers: usize,
    record: Option<&[u8; RECORD_SIZE]>,
    confirmed: OnConfirmed,
) -> Option<Parts> {
    let mut events = DriverQueue::new(setup.memory, 0x1_0000, QUEUE_SIZE);
    setup.memory.write_obj(u32::MAX, GuestAddress(EVENT_BUFFER)).unwrap();
    for _ in 0..event_buffers {
        events.add_chain(&[Buffer::writable(EVENT_BUFFER, 4)]);
    }
    let directory = TempDir::new().unwrap();
    let config = VsockConfig {
        confirmed,
        ..config(&directory, None)
    };
    let mut new = Vsock::new(config).unwrap();
    let queues = vec![
        setup.receive.device_queue(true),
        setup.transmit.device_queue(true),
        events.device_queue(true),
    ];
    let features = new.features();
    replace(&mut setup.vsock, &mut new, setup.memory, queues, features);
    let used = record.and_then(|record| new.tell_identity(record));
    new.wake();
    setup.vsock = new;
    setup.directory = directory;
    assert_eq!(usize::from(events.used_idx()), event_buffers.min(1));
    used
}

#[test]
fn the_guest_is_told_that_its_connections_are_gone() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, mut program) = setup.guest_connection(4000, &listener);

    succeed(&mut setup, 1);

    assert_eq!(memory.read_obj::<u32>(GuestAddress(EVENT_BUFFER)).unwrap(), 0);
    assert_eq!(setup.receives(Op::Reset).ports, ports);
    setup.receives_nothing();
    assert_eq!(
        program.read(&mut [0]).unwrap(),
        0,
        "the original's end goes with the original"
    );
    setup.send(ports, Op::Data, b"late");
    assert_eq!(setup.receives(Op::Reset).ports, ports);
}

#[test]
fn a_driver_without_event_buffers_sees_its_connections_reset() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, _program) = setup.guest_connection(4000, &listener);
    succeed(&mut setup, 0);
    assert_eq!(setup.receives(Op::Reset).ports, ports);
}

#[test]
fn new_connections_do_not_take_the_ports_of_old_ones() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let (before, _client) = setup.host_connection(1024);
    succeed(&mut setup, 1);
    assert_eq!(setup.receives(Op::Reset).ports, before);
    let (after, _client) = setup.host_connection(1024);
    assert_ne!(after, before);
}

const RECORD: [u8; RECORD_SIZE] = [0x5a; RECORD_SIZE];

fn subscribe(setup: &mut Setup<'_>, ports: Ports) {
    setup.send(ports, Op::Request, &[]);
    setup.receives(Op::Response);
    setup.send(ports, Op::Data, &0x8000_0005_u32.to_le_bytes());
    setup.receives_nothing();
}

#[test]
fn a_program_in_a_clone_is_sent_its_identity_and_confirms_it() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let ports = |guest| Ports {
        guest,
        host: IDENTITY_PORT,
    };
    subscribe(&mut setup, ports(4000));

    let (sender, confirmations) = mpsc::channel();
    let confirmed = Box::new(move |generation| sender.send(generation).unwrap());
    let used = succeed_as(&mut setup, 1, Some(&RECORD), confirmed);

    assert_eq!(used, Some(Parts(5)));
    assert_eq!(setup.receives(Op::Reset).ports, ports(4000));
    setup.send(ports(4001), Op::Request, &[]);
    setup.receives(Op::Response);
    assert_eq!(setup.receives(Op::Data).data, RECORD);
    setup.send(
        ports(4001),
        Op::Data,
        &[7u32.to_le_bytes(), 8u32.to_le_bytes()].concat(),
    );
    setup.receives_nothing();
    assert_eq!(confirmations.try_iter().collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn a_guest_without_such_a_program_is_told_nothing() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let gone = Ports {
        guest: 4000,
        host: IDENTITY_PORT,
    };
    subscribe(&mut setup, gone);
    setup.send(gone, Op::Reset, &[]);
    setup.receives_nothing();
    assert_eq!(succeed_as(&mut setup, 1, Some(&RECORD), Box::new(|_| ())), None);
}

#[test]
fn impossible_ports_are_refused() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let DeviceState::Vsock(state) = setup.vsock.save().state else {
        panic!("another device's state");
    };
    let mut no_port = state.clone();
    no_port.next_host_port = 7;
    let mut too_many = state;
    too_many.connections = vec![(1, 2); 1 << 16];
    for damaged in [no_port, too_many] {
        let error = setup.vsock.restore(&DeviceState::Vsock(damaged)).unwrap_err();
        assert!(matches!(error, RestoreError::Impossible(_)), "{error}");
    }
}
