//! How connections end.

use super::*;
use crate::devices::virtio::vsock::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

#[test]
fn a_guest_that_has_said_all_can_still_be_answered() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, mut program) = setup.guest_connection(1024, &listener);
    setup.send(ports, Op::Data, b"question");
    setup.send_shutdown(ports, SHUTDOWN_SEND);
    let mut question = String::new();
    program.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    program.write_all(b"answer").unwrap();
    assert_eq!(setup.receives(Op::Data).data, b"answer");
    drop(program);
    assert_eq!(setup.receives(Op::Shutdown).packet.flags, SHUTDOWN_BOTH);
    setup.send(ports, Op::Reset, &[]);
    // The ports are free again.
    setup.guest_connection(1024, &listener);
}

#[test]
fn a_program_that_has_said_all_can_still_be_answered() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, mut client) = setup.host_connection(5000);
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(setup.receives(Op::Data).data, b"question");
    assert_eq!(setup.receives(Op::Shutdown).packet.flags, SHUTDOWN_SEND);
    setup.send(ports, Op::Data, b"answer");
    setup.send_shutdown(ports, SHUTDOWN_BOTH);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(setup.receives(Op::Reset).ports, ports);
    setup.receives_nothing();
}

#[test]
fn what_a_program_sent_before_it_left_reaches_the_guest() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (_, mut client) = setup.host_connection(5000);
    client.write_all(&[7; 10_000]).unwrap();
    drop(client);
    let mut length = 0;
    let last = loop {
        let received = setup.received();
        length += received.data.len();
        // That nobody takes what the guest sends may be told before the last data is.
        if received.packet.flags & SHUTDOWN_SEND != 0 {
            break received;
        }
    };
    assert_eq!((length, last.packet.flags), (10_000, SHUTDOWN_BOTH));
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_slow_program() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, mut program) = setup.guest_connection(1024, &listener);
    // Fill the socket, and then some.
    let (mut sent, mut fwd_cnt) = (0u32, 0);
    while sent - fwd_cnt < super::super::BUFFER_SIZE {
        setup.send(ports, Op::Data, &[7; 0x4000]);
        sent += 0x4000;
        if let Some(received) = setup.poll_received() {
            fwd_cnt = received.packet.fwd_cnt;
        }
    }
    setup.send_shutdown(ports, SHUTDOWN_BOTH);
    setup.receives_nothing();
    let mut arrived = 0;
    let mut some = vec![0; 0x1_0000];
    while arrived < sent as usize {
        arrived += program.read(&mut some).unwrap();
        while setup.has_news(Duration::ZERO) {
            tell(&mut setup.vsock, 0);
        }
    }
    assert_eq!(program.read(&mut some).unwrap(), 0);
    let last = std::iter::from_fn(|| setup.poll_received()).last().unwrap();
    assert_eq!(last.packet.op, Op::Reset);
}

#[test]
fn a_guest_that_will_not_receive_stops_the_program() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, mut client) = setup.host_connection(5000);
    setup.send_shutdown(ports, SHUTDOWN_RECEIVE);
    assert!(client.write_all(b"too late").is_err());
    setup.send(ports, Op::Data, b"still here");
    let mut data = [0; 10];
    client.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"still here");
    setup.receives_nothing();
}

#[test]
fn data_to_a_program_that_is_gone_is_dropped_and_the_guest_told() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, client) = setup.host_connection(5000);
    drop(client);
    // Before the device has seen the end of the socket.
    setup.send(ports, Op::Data, b"lost");
    assert_ne!(setup.receives(Op::Shutdown).packet.flags & SHUTDOWN_RECEIVE, 0);
    setup.send(ports, Op::Data, b"lost, too");
    assert_eq!(setup.receives(Op::Shutdown).packet.flags, SHUTDOWN_BOTH);
    setup.receives_nothing();
    setup.send(ports, Op::Reset, &[]);
    setup.receives_nothing();
}

#[test]
fn a_reset_by_the_guest_ends_the_programs_connection_at_once() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, mut client) = setup.host_connection(5000);
    setup.send(ports, Op::Reset, &[]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    setup.receives_nothing();
    setup.send(ports, Op::Data, b"to nobody");
    setup.receives(Op::Reset);
}
