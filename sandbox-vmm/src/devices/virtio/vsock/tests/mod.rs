//! The device between a mock driver and real Unix sockets.

mod connect;
mod driver_lies;
mod persist;
mod shutdown;
mod transfer;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::tempdir::TempDir;

use super::packet::{HEADER_SIZE, Op, Packet, Ports};
use super::{HOST_CID, HostSockets, ReadyPort, Vsock, VsockConfig};
use crate::devices::virtio::test_support::{Buffer, DriverQueue, activation, guest_memory, kick, tell};
use crate::devices::virtio::{Interrupt, VirtioDevice};
use crate::memory::GuestMemory;

const GUEST_CID: u32 = 52;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZE: u16 = 256;
/// Where the driver's receive buffers lie, one behind the other, and where it builds what it sends.
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const OUTGOING: u64 = 0x30_0000;
/// Size of a receive buffer, as Linux has it.
const BUFFER_LEN: u32 = 4096 + HEADER_SIZE as u32;
/// What the guest of these tests has room for in each connection.
const GUEST_BUFFER: u32 = 256 << 10;
/// Longer than any wait that a working device makes a test do.
const PATIENCE: Duration = Duration::from_secs(10);

/// A packet as the guest sees it, with its data.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    ports: Ports,
    packet: Packet,
    data: Vec<u8>,
}

/// A device with an active driver, in a directory of its own.
struct Setup<'a> {
    memory: &'a GuestMemory,
    vsock: Vsock,
    receive: DriverQueue<'a>,
    transmit: DriverQueue<'a>,
    interrupt: Interrupt,
    /// Address of the buffer behind each head.
    buffers: HashMap<u32, u64>,
    next_received: u16,
    directory: TempDir,
}

fn path_in(directory: &TempDir) -> PathBuf {
    directory.as_path().join("vsock")
}

fn config(directory: &TempDir, ready: Option<ReadyPort>) -> VsockConfig {
    VsockConfig {
        guest_cid: GUEST_CID,
        sockets: HostSockets::listen(&path_in(directory)).unwrap(),
        ready,
        confirmed: Box::new(|_| ()),
    }
}

impl<'a> Setup<'a> {
    fn new(memory: &'a GuestMemory) -> Self {
        Self::with_ready_port(memory, None)
    }

    fn with_ready_port(memory: &'a GuestMemory, ready: Option<ReadyPort>) -> Self {
        let mut setup = Self::without_buffers(memory, ready);
        setup.bring_buffers(64, BUFFER_LEN);
        setup
    }

    fn without_buffers(memory: &'a GuestMemory, ready: Option<ReadyPort>) -> Self {
        let directory = TempDir::new().unwrap();
        let mut vsock = Vsock::new(config(&directory, ready)).unwrap();
        let receive = DriverQueue::new(memory, 0x1000, QUEUE_SIZE);
        let transmit = DriverQueue::new(memory, 0x8000, QUEUE_SIZE);
        let events = DriverQueue::new(memory, 0x1_0000, QUEUE_SIZE);
        let queues = [&receive, &transmit, &events].map(|queue| queue.device_queue(true));
        let (activation, _) = activation(memory, queues.into(), vsock.features());
        let interrupt = activation.interrupt.clone();
        vsock.activate(activation).unwrap();
        vsock.wake();
        Self {
            memory,
            vsock,
            receive,
            transmit,
            interrupt,
            buffers: HashMap::new(),
            next_received: 0,
            directory,
        }
    }

    fn bring_buffers(&mut self, count: u64, len: u32) {
        for index in 0..count {
            self.bring_buffer(RECEIVE_BUFFERS + 0x2000 * index, len);
        }
        kick(&mut self.vsock, RECEIVE);
    }

    fn bring_buffer(&mut self, address: u64, len: u32) {
        let head = self.receive.add_chain(&[Buffer::writable(address, len)]);
        self.buffers.insert(u32::from(head), address);
    }

    /// The Unix socket of the guest's ports.
    fn path(&self) -> PathBuf {
        path_in(&self.directory)
    }

    /// A host program that listens at `port`.
    fn listen(&self, port: u32) -> UnixListener {
        let path = self.directory.as_path().join(format!("vsock_{port}"));
        UnixListener::bind(path).unwrap()
    }

    /// A host program that asks for the guest's port.
    fn connect(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    /// The driver sends a packet, with `data` in buffers of their own.
    fn send_packet(&mut self, ports: Ports, packet: Packet, data: &[u8]) {
        let header = header_from_guest(ports, packet);
        self.memory.write_slice(&header, GuestAddress(OUTGOING)).unwrap();
        let payload = OUTGOING + 0x1000;
        self.memory.write_slice(data, GuestAddress(payload)).unwrap();
        let mut buffers = vec![Buffer::readable(OUTGOING, HEADER_SIZE as u32)];
        if !data.is_empty() {
            // As Linux sends what it does not copy: in more than one piece.
            let half = data.len() as u32 / 2;
            buffers.push(Buffer::readable(payload, half));
            buffers.push(Buffer::readable(payload + u64::from(half), data.len() as u32 - half));
        }
        self.transmit.add_chain(&buffers);
        kick(&mut self.vsock, TRANSMIT);
    }

    /// The driver sends a packet without flags, with all of its buffer free.
    fn send(&mut self, ports: Ports, op: Op, data: &[u8]) {
        let packet = Packet {
            op,
            len: data.len() as u32,
            buf_alloc: GUEST_BUFFER,
            ..Packet::RESET
        };
        self.send_packet(ports, packet, data);
    }

    fn send_shutdown(&mut self, ports: Ports, flags: u32) {
        let packet = Packet {
            op: Op::Shutdown,
            flags,
            buf_alloc: GUEST_BUFFER,
            ..Packet::RESET
        };
        self.send_packet(ports, packet, &[]);
    }

    /// The next packet that the driver finds, if there is one. Its buffer is brought again.
    fn poll_received(&mut self) -> Option<Received> {
        if self.next_received == self.receive.used_idx() {
            return None;
        }
        let (head, length) = self.receive.used(self.next_received);
        self.next_received = self.next_received.wrapping_add(1);
        let address = self.buffers[&head];
        let mut bytes = vec![0; length as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        self.bring_buffer(address, BUFFER_LEN);
        kick(&mut self.vsock, RECEIVE);
        Some(parse_at_guest(&bytes))
    }

    /// The next packet that the driver finds, waiting for the host's sockets if need be.
    fn received(&mut self) -> Received {
        loop {
            if let Some(received) = self.poll_received() {
                return received;
            }
            assert!(self.has_news(PATIENCE), "no packet came");
            tell(&mut self.vsock, 0);
        }
    }

    /// The next packet, which must be this one.
    fn receives(&mut self, op: Op) -> Received {
        let received = self.received();
        assert_eq!(received.packet.op, op, "{received:?}");
        received
    }

    /// No packet, after everything that the host's sockets have to say.
    fn receives_nothing(&mut self) {
        while self.has_news(Duration::ZERO) {
            tell(&mut self.vsock, 0);
        }
        assert_eq!(self.poll_received(), None);
    }

    fn has_news(&self, patience: Duration) -> bool {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll
            .ctl(ControlOperation::Add, self.vsock.host_events()[0].fd, event)
            .unwrap();
        let mut ready = [EpollEvent::default()];
        epoll.wait(patience.as_millis() as i32, &mut ready).unwrap() == 1
    }

    /// A connection from a port of the guest to a host program, accepted by both sides.
    fn guest_connection(&mut self, guest: u32, listener: &UnixListener) -> (Ports, UnixStream) {
        let path = listener.local_addr().unwrap().as_pathname().unwrap().to_owned();
        let port = path.to_str().unwrap().rsplit_once('_').unwrap().1;
        let ports = Ports {
            guest,
            host: port.parse().unwrap(),
        };
        self.send(ports, Op::Request, &[]);
        assert_eq!(self.receives(Op::Response).ports, ports);
        let (program, _) = listener.accept().unwrap();
        program.set_read_timeout(Some(PATIENCE)).unwrap();
        (ports, program)
    }

    /// A connection from a host program to a port of the guest, accepted by both sides.
    fn host_connection(&mut self, guest: u32) -> (Ports, UnixStream) {
        let mut client = self.connect(guest);
        let ports = self.receives(Op::Request).ports;
        assert_eq!(ports.guest, guest);
        self.send(ports, Op::Response, &[]);
        assert_eq!(read_line(&mut client), format!("OK {}\n", ports.host));
        (ports, client)
    }
}

/// The header of a packet that the guest sends.
fn header_from_guest(ports: Ports, packet: Packet) -> [u8; HEADER_SIZE] {
    let mut header = super::packet::header(u64::from(GUEST_CID), ports, packet);
    header[..16].rotate_left(8);
    header[16..24].rotate_left(4);
    header
}

/// Reads what the device sent.
fn parse_at_guest(bytes: &[u8]) -> Received {
    let (header, data) = bytes.split_at(HEADER_SIZE);
    let mut header: [u8; HEADER_SIZE] = header.try_into().unwrap();
    assert_eq!(header[..8], HOST_CID.to_le_bytes());
    header[..16].rotate_left(8);
    header[16..24].rotate_left(4);
    let super::packet::Parsed::Packet(ports, packet) = super::packet::parse(&header, u64::from(GUEST_CID)) else {
        panic!("the device sent {header:?}");
    };
    assert_eq!(packet.len as usize, data.len());
    Received {
        ports,
        packet,
        data: data.to_vec(),
    }
}

/// Reads up to the end of the line and nothing behind it.
fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}
