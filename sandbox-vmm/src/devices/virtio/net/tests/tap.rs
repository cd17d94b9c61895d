//! The card before a real tap, with the host's network stack behind it.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use sandbox_net::{LinkControl, LinkSettings, Tap};
use sandbox_testing::in_namespace;
use virtio_bindings::virtio_net::VIRTIO_NET_HDR_F_NEEDS_CSUM;

use super::*;
use crate::devices::virtio::test_support::{Buffer, guest_memory};

const HOST: &str = "10.9.8.1/24";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 2);
/// Offset of the Ethernet type in a frame.
const ETHER_TYPE: usize = 12;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Where the driver builds the frames that it sends.
const OUTGOING: u64 = 0x18_0000;

/// A guest with one card before a real tap that is up with the address [`HOST`].
struct Guest<'a> {
    memory: &'a GuestMemory,
    card: Net,
    receive: DriverQueue<'a>,
    transmit: DriverQueue<'a>,
    tap: RawFd,
    next_received: u16,
}

impl<'a> Guest<'a> {
    fn new(memory: &'a GuestMemory) -> Self {
        let tap = Tap::create().unwrap();
        let settings = LinkSettings {
            address: Some(HOST.parse().unwrap()),
            bring_up: true,
            no_ipv6_link_local: true,
            ..LinkSettings::default()
        };
        LinkControl::open().unwrap().configure(tap.name(), &settings).unwrap();
        let tap_fd = tap.as_raw_fd();
        let config = NetConfig::new(MAC);
        let mut card = Net::new(config, Box::new(tap)).unwrap();
        let mut receive = DriverQueue::new(memory, 0x1000, QUEUE_SIZE);
        let transmit = DriverQueue::new(memory, 0x8000, QUEUE_SIZE);
        let queues = vec![receive.device_queue(true), transmit.device_queue(true)];
        let (activation, _) = activation(memory, queues, config.features());
        card.activate(activation).unwrap();
        card.wake();
        for index in 0..128 {
            receive.add_chain(&[Buffer::writable(BUFFERS + 0x800 * index, 0x800)]);
        }
        kick(&mut card, RECEIVE);
        Self {
            memory,
            card,
            receive,
            transmit,
            tap: tap_fd,
            next_received: 0,
        }
    }

    /// The next frame of this type that the card hands over: header and frame.
    fn receives(&mut self, ether_type: [u8; 2]) -> (Vec<u8>, Vec<u8>) {
        loop {
            while self.next_received == self.receive.used_idx() {
                assert!(is_readable(self.tap, PATIENCE), "no frame came");
                tell(&mut self.card, TAP_READABLE);
            }
            let (head, length) = self.receive.used(self.next_received);
            self.next_received += 1;
            let mut header = vec![0; length as usize];
            let address = GuestAddress(BUFFERS + 0x800 * u64::from(head));
            self.memory.read_slice(&mut header, address).unwrap();
            let frame = header.split_off(HEADER_SIZE);
            if frame[ETHER_TYPE..ETHER_TYPE + 2] == ether_type {
                return (header, frame);
            }
        }
    }

    fn sends(&mut self, header: [u8; HEADER_SIZE], frame: &[u8]) {
        self.memory.write_slice(&header, GuestAddress(OUTGOING)).unwrap();
        let payload = OUTGOING + 0x1000;
        self.memory.write_slice(frame, GuestAddress(payload)).unwrap();
        let buffers = [
            Buffer::readable(OUTGOING, 12),
            Buffer::readable(payload, frame.len() as u32),
        ];
        self.transmit.add_chain(&buffers);
        kick(&mut self.card, TRANSMIT);
    }
}

/// The answer to an ARP request for the guest's address (RFC 826).
fn arp_reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(&MAC);
    reply[20..22].copy_from_slice(&2u16.to_be_bytes());
    reply[22..28].copy_from_slice(&MAC);
    reply[28..32].copy_from_slice(&GUEST.octets());
    reply[32..42].copy_from_slice(&request[22..32]);
    reply
}

/// Sends a UDP packet back where it came from. Swapped addresses leave the checksum of the IP header right; UDP goes
/// without one (RFC 768).
fn udp_echo(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    for (left, right, length) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        reply[left..left + length].copy_from_slice(&request[right..right + length]);
        reply[right..right + length].copy_from_slice(&request[left..left + length]);
    }
    reply[40..42].copy_from_slice(&[0, 0]);
    reply
}

#[test]
fn a_host_socket_talks_to_the_driver_through_a_tap() {
    in_namespace("a_host_socket_talks_to_the_driver_through_a_tap", || {
        let memory = guest_memory(2);
        let mut guest = Guest::new(&memory);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(b"are you there", (GUEST, 7)).unwrap();

        let (_, request) = guest.receives(ARP);
        guest.sends([0; HEADER_SIZE], &arp_reply(&request));
        let (header, packet) = guest.receives(IPV4);
        assert_eq!(
            u32::from(header[0]),
            VIRTIO_NET_HDR_F_NEEDS_CSUM,
            "the checksum is left to the guest"
        );
        assert_eq!(header[10..], [1, 0]);
        guest.sends([0; HEADER_SIZE], &udp_echo(&packet));

        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..length], from.ip()), (&b"are you there"[..], GUEST.into()));
    });
}

#[test]
fn a_header_that_the_kernel_refuses_costs_only_its_frame() {
    in_namespace("a_header_that_the_kernel_refuses_costs_only_its_frame", || {
        let memory = guest_memory(2);
        let mut guest = Guest::new(&memory);
        // A checksum far behind the end of the frame.
        let mut header = [0; HEADER_SIZE];
        header[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
        header[6..10].fill(0xff);
        guest.sends(header, &[0; 60]);
        guest.sends([0; HEADER_SIZE], &[0; 60]);
        let stats = guest.card.counters().read();
        assert_eq!((stats.dropped_frames, stats.sent_frames), (1, 1));
        assert_eq!(guest.transmit.used_idx(), 2);
    });
}

#[test]
fn a_tap_that_vanishes_is_survived() {
    in_namespace("a_tap_that_vanishes_is_survived", || {
        let memory = guest_memory(2);
        let mut guest = Guest::new(&memory);
        // What is left of a tap whose interface is gone: a tun descriptor attached to nothing.
        let detached = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: puts one open descriptor in the place of another; the card still owns the number.
        assert!(unsafe { libc::dup2(detached.as_raw_fd(), guest.tap) } >= 0);
        tell(&mut guest.card, TAP_READABLE);
        guest.sends([0; HEADER_SIZE], &[0; 60]);
        assert_eq!((guest.receive.used_idx(), guest.transmit.used_idx()), (0, 1));
        assert_eq!(guest.card.counters().read().dropped_frames, 1);
    });
}
