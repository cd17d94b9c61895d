//! How connections come to be, or not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::devices::virtio::vsock::packet::SHUTDOWN_BOTH;
use crate::devices::virtio::vsock::{BUFFER_SIZE, MAX_CONNECTIONS, VsockError};

const PORTS: Ports = Ports { guest: 1024, host: 80 };

#[test]
fn a_guest_reaches_the_program_behind_the_ports_socket() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    setup.send(PORTS, Op::Request, &[]);
    let response = setup.receives(Op::Response);
    assert_eq!((response.ports, response.packet.buf_alloc), (PORTS, BUFFER_SIZE));
    let (mut program, _) = listener.accept().unwrap();

    setup.send(PORTS, Op::Data, b"question");
    let mut question = [0; 8];
    program.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    program.write_all(b"answer").unwrap();
    let answer = setup.receives(Op::Data);
    assert_eq!((&answer.data[..], answer.packet.fwd_cnt), (&b"answer"[..], 8));
    setup.receives_nothing();
}

#[test]
fn a_port_that_nobody_listens_at_refuses() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    setup.send(PORTS, Op::Request, &[]);
    assert_eq!(setup.receives(Op::Reset).ports, PORTS);
    // A socket whose program is gone is no better.
    drop(setup.listen(80));
    setup.send(PORTS, Op::Request, &[]);
    assert_eq!(setup.receives(Op::Reset).ports, PORTS);
}

#[test]
fn a_program_whose_queue_is_full_refuses_without_blocking_the_guest() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    // SAFETY: takes integers; makes the queue of an open socket shorter.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let answers: Vec<Op> = (0..3)
        .map(|guest| {
            setup.send(Ports { guest, ..PORTS }, Op::Request, &[]);
            setup.received().packet.op
        })
        .collect();
    assert_eq!(answers, [Op::Response, Op::Response, Op::Reset]);
}

#[test]
fn a_host_program_reaches_the_guests_port() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, mut client) = setup.host_connection(5000);
    assert!(ports.host >= 1 << 30);
    client.write_all(b"question").unwrap();
    assert_eq!(setup.receives(Op::Data).data, b"question");
    setup.send(ports, Op::Data, b"answer");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // A second one has ports of its own.
    let (others, _client) = setup.host_connection(5000);
    assert_ne!(others, ports);
}

#[test]
fn what_a_program_sends_right_behind_its_line_is_not_lost() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let mut client = setup.connect(5000);
    client.write_all(b"eager").unwrap();
    let ports = setup.receives(Op::Request).ports;
    setup.send(ports, Op::Response, &[]);
    assert_eq!(setup.receives(Op::Data).data, b"eager");
}

#[test]
fn a_guest_that_does_not_listen_closes_the_programs_connection() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let mut client = setup.connect(5000);
    let ports = setup.receives(Op::Request).ports;
    setup.send(ports, Op::Reset, &[]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    setup.receives_nothing();
}

#[test]
fn a_program_that_says_something_else_or_leaves_is_sent_away() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let mut client = UnixStream::connect(setup.path()).unwrap();
    client.write_all(b"HELLO\n").unwrap();
    let mut early = UnixStream::connect(setup.path()).unwrap();
    early.write_all(b"CONN").unwrap();
    setup.receives_nothing();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(early);
    setup.receives_nothing();
    // One that leaves while the guest is asked is told of by a reset.
    let client = setup.connect(5000);
    let ports = setup.receives(Op::Request).ports;
    drop(client);
    assert_eq!(setup.receives(Op::Reset).ports, ports);
}

#[test]
fn programs_wait_for_the_guests_driver() {
    let memory = guest_memory(4);
    let directory = TempDir::new().unwrap();
    let mut vsock = Vsock::new(config(&directory, None)).unwrap();
    let mut client = UnixStream::connect(path_in(&directory)).unwrap();
    client.write_all(b"CONNECT 5000\n").unwrap();
    tell(&mut vsock, 0);
    vsock.reset();

    let mut setup = Setup::new(&memory);
    setup.vsock = vsock;
    setup.directory = directory;
    setup.receive = DriverQueue::new(&memory, 0x1000, QUEUE_SIZE);
    let queues = [&setup.receive, &setup.transmit].map(|queue| queue.device_queue(true));
    let (activation, _) = activation(&memory, queues.into(), setup.vsock.features());
    setup.vsock.activate(activation).unwrap();
    setup.vsock.wake();
    setup.bring_buffers(4, BUFFER_LEN);
    assert_eq!(setup.receives(Op::Request).ports.guest, 5000);
}

#[test]
fn a_reset_ends_all_connections_and_new_ones_can_be_made() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (_, mut client) = setup.host_connection(5000);
    setup.vsock.reset();
    setup.vsock.reset();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);

    setup.receive = DriverQueue::new(&memory, 0x1000, QUEUE_SIZE);
    setup.transmit = DriverQueue::new(&memory, 0x8000, QUEUE_SIZE);
    setup.next_received = 0;
    let queues = [&setup.receive, &setup.transmit].map(|queue| queue.device_queue(true));
    let (activation, _) = activation(&memory, queues.into(), setup.vsock.features());
    setup.vsock.activate(activation).unwrap();
    setup.vsock.wake();
    setup.bring_buffers(4, BUFFER_LEN);
    setup.host_connection(5000);
}

#[test]
fn the_ready_port_tells_once_and_works_without_a_listener() {
    let memory = guest_memory(4);
    let told = Arc::new(AtomicUsize::new(0));
    let notify = {
        let told = Arc::clone(&told);
        Box::new(move || {
            told.fetch_add(1, Ordering::SeqCst);
        })
    };
    let mut setup = Setup::with_ready_port(&memory, Some(ReadyPort { port: 80, notify }));
    setup.send(Ports { host: 81, ..PORTS }, Op::Request, &[]);
    setup.receives(Op::Reset);
    assert_eq!(told.load(Ordering::SeqCst), 0);
    for guest in [1, 2] {
        let ports = Ports { guest, ..PORTS };
        setup.send(ports, Op::Request, &[]);
        assert_eq!(told.load(Ordering::SeqCst), 1);
        setup.receives(Op::Response);
        assert_eq!(setup.receives(Op::Shutdown).packet.flags, SHUTDOWN_BOTH);
        setup.send(ports, Op::Reset, &[]);
    }
    let listener = setup.listen(80);
    let (_, mut program) = setup.guest_connection(3, &listener);
    program.write_all(b"hello").unwrap();
    assert_eq!(setup.receives(Op::Data).data, b"hello");
}

#[test]
fn connections_are_bounded_and_a_freed_place_is_used_again() {
    // Two descriptors for each connection, and some for the other tests of this process.
    let limit = libc::rlimit {
        rlim_cur: 4 * MAX_CONNECTIONS as u64,
        rlim_max: 4 * MAX_CONNECTIONS as u64,
    };
    let mut current = limit;
    // SAFETY: both calls read or write one rlimit that outlives them.
    let room = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut current);
        let wanted = libc::rlimit {
            rlim_cur: limit.rlim_cur.min(current.rlim_max),
            rlim_max: current.rlim_max,
        };
        current.rlim_cur >= limit.rlim_cur || libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0
    };
    assert!(room, "the host allows too few descriptors");

    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let programs: Vec<_> = (0..MAX_CONNECTIONS as u32)
        .map(|guest| setup.guest_connection(guest, &listener))
        .collect();
    setup.send(Ports { guest: 5000, ..PORTS }, Op::Request, &[]);
    setup.receives(Op::Reset);
    // A client of the host waits until there is a place.
    let client = setup.connect(6000);
    setup.receives_nothing();
    setup.send(programs[7].0, Op::Reset, &[]);
    assert_eq!(setup.receives(Op::Request).ports.guest, 6000);
    drop(client);
}

#[test]
fn the_socket_goes_with_the_device() {
    let directory = TempDir::new().unwrap();
    let vsock = Vsock::new(config(&directory, None)).unwrap();
    assert!(path_in(&directory).exists());
    let error = HostSockets::listen(&path_in(&directory)).err().unwrap();
    assert!(matches!(error, VsockError::PathExists { .. }));
    assert!(path_in(&directory).exists(), "the one that was there first keeps it");
    drop(vsock);
    assert!(!path_in(&directory).exists());
}

#[test]
fn impossible_configurations_name_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let file = directory.as_path().join("file");
    fs::write(&file, "precious").unwrap();
    let cases: [(u32, PathBuf, &str); 7] = [
        (2, path_in(&directory), "vsock.cid 2 is reserved: give 3 to 4294967294"),
        (0, path_in(&directory), "vsock.cid 0 is reserved"),
        (u32::MAX, path_in(&directory), "vsock.cid 4294967295 is reserved"),
        (3, "/".repeat(97).into(), "is too long: give at most 96 bytes"),
        (3, file.clone(), "exists already"),
        (3, directory.as_path().join("no/vsock"), "cannot listen at vsock.path"),
        (3, "".into(), "cannot listen at vsock.path"),
    ];
    for (guest_cid, path, expected) in cases {
        let made = HostSockets::listen(&path).and_then(|sockets| {
            Vsock::new(VsockConfig {
                guest_cid,
                sockets,
                ready: None,
                confirmed: Box::new(|_| ()),
            })
        });
        let error = made.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(fs::read_dir(directory.as_path()).unwrap().count(), 1);
}

#[test]
fn the_configuration_space_holds_the_guests_identifier() {
    let memory = guest_memory(4);
    let setup = Setup::new(&memory);
    let mut space = [9; 10];
    setup.vsock.read_config(0, &mut space);
    assert_eq!(space, [52, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
