//! The card between a mock driver and a socket pair that keeps frames apart as a tap does.

mod driver_lies;
mod limits;
mod persist;
mod receive;
mod tap;
mod transmit;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use sandbox_net::Offloads;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{FrameBackend, HEADER_SIZE, Net, NetConfig, QUEUE_SIZE};
use crate::devices::virtio::test_support::{DriverQueue, FakeLine, activation, kick, tell};
use crate::devices::virtio::{Interrupt, Progress, VirtioDevice};
use crate::memory::GuestMemory;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Tokens, in the order in which the card lists its events.
const TAP_READABLE: u32 = 0;
const RECEIVE_LIMIT: u32 = 1;
const TRANSMIT_LIMIT: u32 = 2;

/// Where the driver's buffers lie; its queues lie below.
const BUFFERS: u64 = 0x10_0000;
/// Longer than any wait that a working card makes a test do, in milliseconds.
const PATIENCE: i32 = 10_000;

/// The device's end of the socket pair.
struct PairBackend {
    socket: File,
    offloads: Arc<Mutex<Vec<Offloads>>>,
}

impl AsFd for PairBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FrameBackend for PairBackend {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.offloads.lock().unwrap().push(offloads);
        Ok(())
    }
}

/// Two ends of a non-blocking socket that keeps frames apart.
fn frame_pair() -> (File, File) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the array takes the two descriptors.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: both were just opened and are nobody else's.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }.into()).into()
}

/// An active card, its driver and its host.
struct Setup<'a> {
    memory: &'a GuestMemory,
    card: Net,
    receive: DriverQueue<'a>,
    transmit: DriverQueue<'a>,
    line: FakeLine,
    interrupt: Interrupt,
    host: File,
    offloads: Arc<Mutex<Vec<Offloads>>>,
}

impl<'a> Setup<'a> {
    fn new(memory: &'a GuestMemory, config: NetConfig) -> Self {
        let features = config.features();
        Self::with_features(memory, config, features)
    }

    fn with_features(memory: &'a GuestMemory, config: NetConfig, features: u64) -> Self {
        let (near, host) = frame_pair();
        let offloads = Arc::default();
        let backend = PairBackend {
            socket: near,
            offloads: Arc::clone(&offloads),
        };
        let mut card = Net::new(config, Box::new(backend)).unwrap();
        let receive = DriverQueue::new(memory, 0x1000, QUEUE_SIZE);
        let transmit = DriverQueue::new(memory, 0x8000, QUEUE_SIZE);
        let event_idx = features & super::config::bit(virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX) != 0;
        let queues = vec![receive.device_queue(event_idx), transmit.device_queue(event_idx)];
        let (activation, line) = activation(memory, queues, features);
        let interrupt = activation.interrupt.clone();
        card.activate(activation).unwrap();
        card.wake();
        Self {
            memory,
            card,
            receive,
            transmit,
            line,
            interrupt,
            host,
            offloads,
        }
    }

    /// The host sends a frame; the card hears of it.
    fn host_sends(&mut self, payload: &[u8]) {
        self.queue_in_tap(payload);
        tell(&mut self.card, TAP_READABLE);
    }

    /// The host sends a frame that the card does not hear of yet.
    fn queue_in_tap(&mut self, payload: &[u8]) {
        let mut frame = vec![0xee; HEADER_SIZE];
        frame.extend_from_slice(payload);
        self.host.write_all(&frame).unwrap();
    }

    /// The next frame that the card sent, header included.
    fn host_receives(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        match self.host.read(&mut frame) {
            Ok(length) => frame.truncate(length),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return None;
            }
        }
        Some(frame)
    }

    fn guest_bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Whether the descriptor of this event becomes readable within `milliseconds`.
    fn announces(&self, token: u32, milliseconds: i32) -> bool {
        let events = self.card.host_events();
        let event = events.iter().find(|event| event.token == token).unwrap();
        is_readable(event.fd, milliseconds)
    }
}

fn is_readable(fd: RawFd, milliseconds: i32) -> bool {
    let epoll = Epoll::new().unwrap();
    epoll
        .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))
        .unwrap();
    let mut ready = [EpollEvent::default()];
    epoll.wait(milliseconds, &mut ready).unwrap() == 1
}
