use super::*;
use crate::devices::virtio::test_support::replace;
use crate::devices::virtio::{DeviceState, RestoreError};

const EVENT_BUFFER: u64 = 0x2_0000;

/// Takes the place of the device of `setup`, in a directory of its own.
fn succeed(setup: &mut Setup<'_>, event_buffers: usize) {
    let mut events = DriverQueue::new(setup.memory, 0x1_0000, QUEUE_SIZE);
    setup.memory.write_obj(u32::MAX, GuestAddress(EVENT_BUFFER)).unwrap();
    for _ in 0..event_buffers {
        events.add_chain(&[Buffer::writable(EVENT_BUFFER, 4)]);
    }
    let directory = TempDir::new().unwrap();
    let mut new = Vsock::new(config(&directory, None)).unwrap();
    let queues = vec![
        setup.receive.device_queue(true),
        setup.transmit.device_queue(true),
        events.device_queue(true),
    ];
    let features = new.features();
    replace(&mut setup.vsock, &mut new, setup.memory, queues, features);
    new.wake();
    setup.vsock = new;
    setup.directory = directory;
    assert_eq!(usize::from(events.used_idx()), event_buffers.min(1));
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
