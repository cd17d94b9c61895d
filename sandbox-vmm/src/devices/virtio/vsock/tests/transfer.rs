//! Data in bulk, and readers that are slower than writers.

use std::thread;

use super::*;
use crate::devices::virtio::vsock::BUFFER_SIZE;

const MEBIBYTE: usize = 1 << 20;

/// Bytes that show when some are lost, doubled or exchanged.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// The guest's side of a connection that keeps to its credit.
struct GuestSender {
    ports: Ports,
    sent: u32,
    fwd_cnt: u32,
}

impl GuestSender {
    fn credit(&self) -> u32 {
        BUFFER_SIZE - (self.sent - self.fwd_cnt)
    }

    /// Sends as much of `data` as there is credit for.
    fn send(&mut self, setup: &mut Setup<'_>, data: &[u8]) -> usize {
        let length = data.len().min(self.credit() as usize).min(40_000);
        setup.send(self.ports, Op::Data, &data[..length]);
        self.sent += length as u32;
        length
    }
}

#[test]
fn a_slow_reader_of_the_host_stops_the_guest_and_loses_nothing() {
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, mut program) = setup.guest_connection(1024, &listener);
    let mut guest = GuestSender {
        ports,
        sent: 0,
        fwd_cnt: 0,
    };
    let data = pattern(2 * MEBIBYTE);
    let (mut sent, mut arrived, mut stalls) = (0, Vec::new(), 0);
    while sent < data.len() {
        if guest.credit() > 0 {
            sent += guest.send(&mut setup, &data[sent..]);
        }
        while let Some(received) = setup.poll_received() {
            assert_eq!(received.packet.op, Op::CreditUpdate);
            guest.fwd_cnt = received.packet.fwd_cnt;
        }
        if guest.credit() == 0 {
            // Nothing moves before the program reads.
            setup.receives_nothing();
            stalls += 1;
            let mut some = vec![0; 100_000];
            let length = program.read(&mut some).unwrap();
            arrived.extend_from_slice(&some[..length]);
            while setup.has_news(Duration::ZERO) {
                tell(&mut setup.vsock, 0);
            }
        }
    }
    assert!(stalls > 3, "the guest was never held up");
    setup.send_shutdown(ports, super::super::packet::SHUTDOWN_SEND);
    let reader = thread::spawn(move || {
        let mut rest = Vec::new();
        program.read_to_end(&mut rest).unwrap();
        rest
    });
    while !reader.is_finished() {
        if setup.has_news(Duration::from_millis(10)) {
            tell(&mut setup.vsock, 0);
        }
    }
    arrived.extend(reader.join().unwrap());
    assert!(arrived == data, "{} of {} bytes, or others", arrived.len(), data.len());
}

#[test]
fn a_guest_that_is_slow_to_read_is_never_sent_more_than_it_has_room_for() {
    const ROOM: u32 = 10_000;
    let memory = guest_memory(8);
    let mut setup = Setup::new(&memory);
    let listener = setup.listen(80);
    let (ports, mut program) = setup.guest_connection(1024, &listener);
    let data = pattern(MEBIBYTE);
    let writer = thread::spawn({
        let data = data.clone();
        move || {
            program.write_all(&data).unwrap();
            program
        }
    });

    let update = |fwd_cnt| Packet {
        op: Op::CreditUpdate,
        buf_alloc: ROOM,
        fwd_cnt,
        ..Packet::RESET
    };
    setup.send_packet(ports, update(0), &[]);
    let (mut arrived, mut requests) = (Vec::new(), 0);
    let mut fwd_cnt = 0;
    while arrived.len() < data.len() {
        let received = setup.received();
        match received.packet.op {
            Op::Data => {
                arrived.extend(received.data);
                assert!(arrived.len() as u32 - fwd_cnt <= ROOM.max(GUEST_BUFFER * u32::from(fwd_cnt == 0)));
            }
            Op::CreditRequest => {
                requests += 1;
                assert!(arrived.len() as u32 - fwd_cnt >= ROOM);
                // Still no room: it must not ask again before there is.
                setup.send_packet(ports, update(fwd_cnt), &[]);
                setup.receives_nothing();
                fwd_cnt = arrived.len() as u32;
                setup.send_packet(ports, update(fwd_cnt), &[]);
            }
            other => panic!("{other:?}"),
        }
    }
    drop(writer.join().unwrap());
    assert!(requests > 50, "{requests}");
    assert!(arrived == data, "{} of {} bytes, or others", arrived.len(), data.len());
}

#[test]
fn connections_take_turns() {
    let memory = guest_memory(8);
    let mut setup = Setup::without_buffers(&memory, None);
    let listener = setup.listen(80);
    let mut programs = Vec::new();
    for guest in 0..3 {
        let ports = Ports { guest, host: 80 };
        setup.send(ports, Op::Request, &[]);
        let (mut program, _) = listener.accept().unwrap();
        program.write_all(&[guest as u8; 10_000]).unwrap();
        programs.push(program);
    }
    setup.bring_buffers(16, BUFFER_LEN);
    while setup.has_news(Duration::ZERO) {
        tell(&mut setup.vsock, 0);
    }
    let mut order = Vec::new();
    while let Some(received) = setup.poll_received() {
        if received.packet.op == Op::Data {
            order.push(received.ports.guest);
        }
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_guest_without_buffers_gets_its_packets_when_it_brings_some() {
    let memory = guest_memory(4);
    let mut setup = Setup::without_buffers(&memory, None);
    let _client = setup.connect(5000);
    while setup.has_news(Duration::ZERO) {
        tell(&mut setup.vsock, 0);
    }
    setup.bring_buffers(1, BUFFER_LEN);
    setup.receives(Op::Request);
}

#[test]
fn a_small_packet_is_not_held_back_and_a_reply_carries_the_credit() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    let (ports, mut client) = setup.host_connection(5000);
    for round in 1..100u32 {
        client.write_all(b"ping").unwrap();
        assert_eq!(setup.receives(Op::Data).packet.fwd_cnt, (round - 1) * 1000);
        setup.send(ports, Op::Data, &[7; 1000]);
        let mut pong = [0; 1000];
        client.read_exact(&mut pong).unwrap();
    }
    setup.receives_nothing();
}
