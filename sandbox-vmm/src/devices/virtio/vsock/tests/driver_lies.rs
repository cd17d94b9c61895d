//! Whatever the driver sends, the device neither panics nor takes more memory than its limits allow.

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::vsock::BUFFER_SIZE;
use crate::devices::virtio::vsock::muxer::MAX_REFUSALS;

const PORTS: Ports = Ports { guest: 1024, host: 80 };

fn packet(op: Op, len: u32) -> Packet {
    Packet {
        op,
        len,
        buf_alloc: GUEST_BUFFER,
        ..Packet::RESET
    }
}

#[test]
fn packets_that_belong_to_no_connection_are_refused() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    for op in [
        Op::Data,
        Op::Response,
        Op::Shutdown,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        setup.send(PORTS, op, &[]);
        assert_eq!(setup.receives(Op::Reset).ports, PORTS);
    }
    setup.send(PORTS, Op::Reset, &[]);
    setup.receives_nothing();
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let memory = guest_memory(4);
    let violations: [(Packet, usize); 4] = [
        // More than there is credit for.
        (packet(Op::Data, BUFFER_SIZE + 1), BUFFER_SIZE as usize + 1),
        // More than there is in the packet.
        (packet(Op::Data, 100), 10),
        // What cannot come in an established connection.
        (packet(Op::Request, 0), 0),
        (packet(Op::Response, 0), 0),
    ];
    for (violation, length) in violations {
        let mut setup = Setup::new(&memory);
        let listener = setup.listen(80);
        let (ports, mut program) = setup.guest_connection(1024, &listener);
        setup.send_packet(ports, violation, &vec![7; length]);
        assert_eq!(setup.receives(Op::Reset).ports, ports);
        setup.send(ports, Op::Reset, &[]);
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_port_that_means_any_is_nobodys() {
    let memory = guest_memory(4);
    let mut setup = Setup::new(&memory);
    for ports in [
        Ports {
            guest: u32::MAX,
            ..PORTS
        },
        Ports {
            host: u32::MAX,
            ..PORTS
        },
    ] {
        setup.send(ports, Op::Request, &[]);
        assert_eq!(setup.receives(Op::Reset).ports, ports);
    }
}

#[test]
fn refusals_that_the_guest_does_not_fetch_are_bounded() {
    let memory = guest_memory(4);
    let mut setup = Setup::without_buffers(&memory, None);
    for _ in 0..2 * MAX_REFUSALS {
        setup.send(PORTS, Op::Data, &[]);
    }
    setup.bring_buffers(200, BUFFER_LEN);
    let count = std::iter::from_fn(|| setup.poll_received()).count();
    assert_eq!(count, MAX_REFUSALS);
}

#[test]
fn connections_that_come_and_go_unseen_leave_nothing_behind() {
    let memory = guest_memory(4);
    let mut setup = Setup::without_buffers(&memory, None);
    let listener = setup.listen(80);
    for _ in 0..1000 {
        setup.send(PORTS, Op::Request, &[]);
        listener.accept().unwrap();
        setup.send(PORTS, Op::Reset, &[]);
    }
    setup.bring_buffers(64, BUFFER_LEN);
    setup.receives_nothing();
}

#[test]
fn a_buffer_without_room_for_data_is_given_back_and_nothing_spins() {
    let memory = guest_memory(4);
    let mut setup = Setup::without_buffers(&memory, None);
    setup.bring_buffers(4, BUFFER_LEN);
    let (_, mut client) = setup.host_connection(5000);
    let used = setup.receive.used_idx();
    // The good buffers are used up by the data; only bad ones are left.
    client.write_all(&[7; 10 * 4096]).unwrap();
    tell(&mut setup.vsock, 0);
    let bad = [
        vec![Buffer::writable(RECEIVE_BUFFERS, HEADER_SIZE as u32)],
        vec![Buffer::writable(RECEIVE_BUFFERS, 7)],
        vec![Buffer::readable(RECEIVE_BUFFERS, BUFFER_LEN)],
        vec![Buffer::writable(1 << 40, BUFFER_LEN)],
    ];
    for chain in &bad {
        setup.receive.add_chain(chain);
    }
    kick(&mut setup.vsock, RECEIVE);
    let now = setup.receive.used_idx();
    assert_eq!(now - used, 8);
    assert_eq!((1..=4).map(|back| setup.receive.used(now - back).1).sum::<u32>(), 0);
    while setup.has_news(Duration::ZERO) {
        tell(&mut setup.vsock, 0);
    }
    assert_eq!(setup.receive.used_idx(), now);
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        ports: Ports,
        packet: Packet,
        op: u16,
        kind: u16,
        cid: u64,
        length: usize,
    },
    Bring(u64, u32, bool),
    ProgramWrites(usize),
    ProgramLeaves,
    ClientConnects(u32),
    Event,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let guest = 0u32..3;
    let host = prop_oneof![4 => Just(80u32), 1 => Just(81u32), 2 => (1u32 << 30)..(1 << 30) + 4, 1 => any::<u32>()];
    let op = prop_oneof![8 => 1u16..8, 1 => any::<u16>()];
    let kind = prop_oneof![20 => Just(1u16), 1 => any::<u16>()];
    let cid = prop_oneof![30 => Just(u64::from(GUEST_CID)), 1 => any::<u64>()];
    let numbers = (
        any::<u32>(),
        prop_oneof![3 => Just(GUEST_BUFFER), 1 => any::<u32>()],
        prop_oneof![3 => Just(0u32), 1 => any::<u32>()],
    );
    let lengths = (
        0usize..80_000,
        prop_oneof![6 => Just(0i64), 1 => -100i64..100, 1 => any::<i32>().prop_map(i64::from)],
    );
    let send = (guest, host, op, kind, cid, numbers, lengths).prop_map(
        |(guest, host, op, kind, cid, (flags, buf_alloc, fwd_cnt), (length, lie))| Step::Send {
            ports: Ports { guest, host },
            packet: Packet {
                flags,
                len: (length as i64 + lie) as u32,
                buf_alloc,
                fwd_cnt,
                ..Packet::RESET
            },
            op,
            kind,
            cid,
            length,
        },
    );
    prop_oneof![
        20 => send,
        8 => (0u64..128, 0u32..6000, any::<bool>()).prop_map(|(slot, len, good)| Step::Bring(slot, len, good)),
        4 => (0usize..100_000).prop_map(Step::ProgramWrites),
        1 => Just(Step::ProgramLeaves),
        1 => (0u32..4).prop_map(Step::ClientConnects),
        8 => Just(Step::Event),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_sequence_of_lies_harms_the_host(steps in prop::collection::vec(step(), 1..150)) {
        let memory = guest_memory(4);
        let mut setup = Setup::without_buffers(&memory, None);
        let listener = setup.listen(80);
        listener.set_nonblocking(true).unwrap();
        let (mut programs, mut brought) = (Vec::<UnixStream>::new(), 0u16);
        for step in steps {
            match step {
                Step::Send { ports, packet, op, kind, cid, length } => {
                    let mut header = header_from_guest(ports, packet);
                    header[..8].copy_from_slice(&cid.to_le_bytes());
                    header[28..30].copy_from_slice(&kind.to_le_bytes());
                    header[30..32].copy_from_slice(&op.to_le_bytes());
                    memory.write_slice(&header, GuestAddress(OUTGOING)).unwrap();
                    let buffers = [Buffer::readable(OUTGOING, HEADER_SIZE as u32), Buffer::readable(OUTGOING, length as u32)];
                    setup.transmit.add_chain(&buffers);
                    kick(&mut setup.vsock, TRANSMIT);
                }
                Step::Bring(slot, len, good) => {
                    let address = RECEIVE_BUFFERS + 0x2000 * slot;
                    let buffer = if good { Buffer::writable(address, len) } else { Buffer::readable(address, len) };
                    setup.receive.add_chain(&[buffer]);
                    brought += 1;
                    kick(&mut setup.vsock, RECEIVE);
                }
                Step::ProgramWrites(length) => {
                    programs.extend(listener.accept().map(|(program, _)| program));
                    if let Some(program) = programs.last_mut() {
                        program.set_nonblocking(true).unwrap();
                        let _ = program.write(&vec![7; length]);
                    }
                }
                Step::ProgramLeaves => {
                    programs.pop();
                }
                Step::ClientConnects(port) => {
                    let mut client = UnixStream::connect(setup.path()).unwrap();
                    client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
                    programs.push(client);
                }
                Step::Event => tell(&mut setup.vsock, 0),
                Step::Reset => setup.vsock.reset(),
            }
            prop_assert!(setup.receive.used_idx() <= brought);
        }
        prop_assert!(!setup.interrupt.needs_reset());
    }
}
